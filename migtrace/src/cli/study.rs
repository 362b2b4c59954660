//! The options of `study`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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
