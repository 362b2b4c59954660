//! The options of `study`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{OfFile, OutputArgs};

const RUN_HELP: &str = "\
The same command goes on with a study that was interrupted, also by a crash: runs \
that have completed stay, one that was cut off is made again. Only a plan that asks \
for the same runs goes on; its titles and layout may change.

Exit codes:
  0  Every run has completed
  1  It could not be done
  2  Wrong usage
  3  Interrupted; the same command goes on
  7  Some runs have failed for good; all others have completed";

#[derive(Debug, Subcommand)]
pub(crate) enum StudyCommand {
    /// Run all migrations of a plan, each of them recorded
    Run(StudyRunArgs),
    /// Show what the runs of a study say together, also while it goes on
    Report(StudyReportArgs),
}

#[derive(Debug, Args)]
#[command(after_help = RUN_HELP)]
pub(crate) struct StudyRunArgs {
    /// The plan: what is varied, how often, and by which commands (TOML)
    #[arg(value_name = "PLAN")]
    pub(crate) plan: PathBuf,
    /// The folder of the study: a new or empty one, or one to go on with
    #[arg(long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Only show the runs in their order, with their environment and commands
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Also try runs again that have failed for good
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) retry_failed: bool,
}

const REPORT_HELP: &str = "\
Exit codes:
  0  Done
  1  It could not be done; standard error says why
  2  Wrong usage";

#[derive(Debug, Args)]
#[command(after_help = REPORT_HELP)]
pub(crate) struct StudyReportArgs {
    /// Folder of the study (`migtrace study run PLAN --output DIR`)
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Axis whose values are the rows of the tables [default: the plan's, or else the first]
    #[arg(long, value_name = "AXIS")]
    pub(crate) rows: Option<String>,
    /// Axis whose values are the columns [default: the plan's, or else the next]
    #[arg(long, value_name = "AXIS")]
    pub(crate) columns: Option<String>,
    /// Run whose course is shown, in JSON and HTML [default: one in the middle of the last cell]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) run: Option<u32>,
    #[command(flatten)]
    pub(crate) output: OutputArgs<StudyFormat>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum StudyFormat {
    /// For people
    Text,
    /// For people, as one page with charts
    Html,
    /// Every figure of every run, for spreadsheets
    Csv,
    /// For programs
    Json,
}

impl OfFile for StudyFormat {
    fn of_extension(extension: Option<&str>) -> Self {
        match extension {
            Some("json") => Self::Json,
            Some("csv") => Self::Csv,
            Some("html" | "htm") => Self::Html,
            _ => Self::Text,
        }
    }
}
