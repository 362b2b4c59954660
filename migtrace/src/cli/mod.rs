//! The command line.

mod configuration;
mod otlp;
mod prometheus;
mod record;
mod study;
mod watch;

use std::env;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ContextValue;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use migtrace::kernel::AttachChoice;
use migtrace::probe;
use migtrace::terminal::clean;

use crate::streams::say;
pub(crate) use otlp::OtlpArgs;
pub(crate) use prometheus::PrometheusArgs;
pub(crate) use record::{GuestProbeArgs, LOCAL, LibvirtArgs, RecordArgs, ScopeArgs, ServeArgs, SleepAfter};
pub(crate) use study::{StudyCommand, StudyFormat, StudyReportArgs, StudyRunArgs};
pub(crate) use watch::{Keep, WatchArgs};

#[derive(Debug, Parser)]
#[command(name = "migtrace", bin_name = "migtrace", version, about, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Parses the command line. The error is what to show instead: a usage error or help.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    let arguments = configuration::expand(Cli::command, "watch", env::args_os().collect());
    arguments.and_then(Cli::try_parse_from).map_err(cleaned)
}

/// Makes arguments that clap repeats safe for a terminal: one may be the name of any file (`migtrace report *`).
fn cleaned(mut error: clap::Error) -> clap::Error {
    let said: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => Some((kind, ContextValue::String(clean(text).into_owned()))),
            ContextValue::Strings(texts) => {
                let texts = texts.iter().map(|text| clean(text).into_owned()).collect();
                Some((kind, ContextValue::Strings(texts)))
            }
            // Tips that repeat the argument. Their colours are lost: they look like escapes in the argument.
            ContextValue::StyledStrs(texts) => {
                let texts = texts.iter().map(|text| clean(&text.to_string()).into_owned().into()).collect();
                Some((kind, ContextValue::StyledStrs(texts)))
            }
            _ => None,
        })
        .collect();
    for (kind, value) in said {
        error.insert(kind, value);
    }
    error
}

/// Shows what [`parse`] found.
pub(crate) fn show(instead: &clap::Error) -> ExitCode {
    let is_lost = instead.print().is_err_and(|error| error.kind() != ErrorKind::BrokenPipe);
    if is_lost && !instead.use_stderr() {
        say("migtrace: cannot write to standard output");
        return ExitCode::from(1);
    }
    ExitCode::from(u8::try_from(instead.exit_code()).unwrap_or(2))
}

const EXIT_CODES: &str = "\
Exit codes:
  0  Done
  1  It could not be done; standard error says why
  2  Wrong usage
  3  The migration failed or was cancelled, or a recording or probe was
     interrupted; the report is still written. A study was interrupted
  4  A limit (--max-...) cannot be shown to have been met
  5  doctor: something cannot be measured on this host, or less precisely
  6  doctor: nothing can be measured on this host
  7  study: some runs have failed for good";

const PROBE_HELP: &str = "\
Needs CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW. Runs on any host, or in any network \
namespace, that can ping the target.

Exit codes:
  0  Done; also after Ctrl-C if no end was set
  1  It could not be done; for example, the target does not answer, or not
     reliably
  2  Wrong usage
  3  Interrupted before the end that was set; the report is still written";

const REPORT_HELP: &str = "\
Exit codes:
  0  Done
  1  It could not be done, or the end of a file is damaged; everything
     before the damage is reported
  2  Wrong usage";

const MERGE_HELP: &str = "\
The hosts need not have synchronised clocks: the migration's own packets, which both \
hosts have stamped, show how far their clocks are apart, and within which bounds. \
Every figure that takes stamps of both hosts allows for that.

Exit codes:
  0  Done
  1  It could not be done: the logs do not belong together, or the end of one is
     damaged; everything before the damage is reported. With --directory: some
     files could not be read, or are no event logs; all others are merged
  2  Wrong usage";

const DOCTOR_HELP: &str = "\
Exit codes:
  0  Everything can be measured on this host
  1  This host could not be examined
  2  Wrong usage
  5  Something cannot be measured on this host, or less precisely
  6  Nothing can be measured on this host";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Wait for the next migration on this host and record it
    Record(Box<RecordArgs>),
    /// Record every migration on this host until told to end
    #[command(mut_arg("sleep_after", |arg| arg.hide(false).default_value("30s")))]
    Watch(Box<WatchArgs>),
    /// Ping an address at a fixed interval and report when it did not answer
    Probe(ProbeArgs),
    /// Show records, or replay event logs into their records, as text, JSON, an HTML page or a trace
    Report(ReportArgs),
    /// Make one record of the event logs of both hosts of a migration
    Merge(MergeArgs),
    /// Measure how a migration's conditions change its cost, by many migrations
    #[command(subcommand)]
    Study(StudyCommand),
    /// Show what can be measured on this host, and what is missing
    Doctor(DoctorArgs),
    /// Remove TC filters left by killed runs; those of running ones stay
    Cleanup,
    /// Write the manual pages and the completions of shells, for packages
    #[command(hide = true)]
    Generate(GenerateArgs),
    /// Record for another host (`record --peer`): events go to standard output until it has enough
    #[command(hide = true)]
    Serve(ServeArgs),
}

/// The heading of help for where a report goes.
const OUTPUT: &str = "Output";

#[derive(Debug, Args)]
#[command(after_help = PROBE_HELP)]
pub(crate) struct ProbeArgs {
    /// Address or name to ping
    #[arg(value_name = "TARGET")]
    pub(crate) target: String,
    /// Time between two echo requests, at least 100us
    ///
    /// The length of a gap is known to within two intervals and the round trips around it.
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = interval, conflicts_with = "passive")]
    pub(crate) interval: Duration,
    /// Send nothing; follow only the echo requests that pass this host anyway
    #[arg(long)]
    pub(crate) passive: bool,
    /// Data bytes after the ICMP header
    #[arg(long, value_name = "BYTES", default_value_t = 16, conflicts_with = "passive")]
    pub(crate) size: u16,
    /// Stop after this many requests
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "passive")]
    pub(crate) count: Option<u64>,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Stop after the first gap
    #[arg(long)]
    pub(crate) until_gap: bool,
    /// Ignore silences certainly shorter than this [default: the interval, at least 1ms]
    ///
    /// A silence that may have been longer, but not certainly, is listed as one that may have been a gap.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) min_gap: Option<Duration>,
    /// Resolve TARGET to IPv6
    #[arg(long, short = '6')]
    pub(crate) ipv6: bool,
    /// Ping through this interface [default: the interface of the route]
    #[arg(long, value_name = "NAME")]
    pub(crate) interface: Option<String>,
    /// Skip the check for loss and rate limits, which takes a second before the observation
    #[arg(long)]
    pub(crate) no_preflight: bool,
    /// How to attach to the interface
    #[arg(long, value_name = "METHOD", value_enum, default_value_t = Attach::Auto)]
    pub(crate) attach: Attach,
    #[command(flatten)]
    pub(crate) output: OutputArgs<Format>,
}

#[derive(Debug, Args)]
#[command(after_help = REPORT_HELP)]
pub(crate) struct ReportArgs {
    /// Records (JSON, one after the other) or event logs (JSON Lines); `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Show only this VM's migrations, by name or UUID
    #[arg(long, value_name = "NAME|UUID")]
    pub(crate) vm: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs<RecordFormat>,
    #[command(flatten)]
    pub(crate) otlp: OtlpArgs,
}

#[derive(Debug, Args)]
#[command(after_help = MERGE_HELP)]
pub(crate) struct MergeArgs {
    /// Event logs (`migtrace record --events`) of the source, of the destination, and of any other host that took part; the
    /// order does not matter
    #[arg(value_name = "LOG", required_unless_present = "directory")]
    pub(crate) logs: Vec<PathBuf>,
    /// Make the records of all event logs in this directory and below, of any number of migrations
    ///
    /// Which logs belong together is found out from what they contain, whatever their names are. A log whose other half
    /// is not there gives a record of one host. The records are JSON Lines, unless --format says otherwise, in the
    /// order of the migrations' starts as far as the wall clocks show it.
    #[arg(long, value_name = "DIR", conflicts_with = "logs")]
    #[cfg_attr(feature = "otlp", arg(conflicts_with_all = ["otlp", "traceparent"]))]
    pub(crate) directory: Option<PathBuf>,
    /// Write each record to a file of its own in this directory, named by start and id
    ///
    /// A file is replaced only if its record has changed, for example because the log of the other host has come. No file is
    /// removed: the records stay when the logs are gone.
    #[arg(long, value_name = "OUT", requires = "directory", conflicts_with_all = ["output", "format"], help_heading = OUTPUT)]
    pub(crate) output_directory: Option<PathBuf>,
    /// Show only this VM's migrations, by name or UUID
    #[arg(long, value_name = "NAME|UUID")]
    pub(crate) vm: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs<RecordFormat>,
    #[command(flatten)]
    pub(crate) otlp: OtlpArgs,
}

#[derive(Debug, Args)]
pub(crate) struct OutputArgs<Format: OfFile> {
    /// Format of the report [default: the one that the name of --output ends in, else text]
    #[arg(long, value_enum, help_heading = OUTPUT)]
    pub(crate) format: Option<Format>,
    /// Write the report to this file [default: `-`, standard output]
    ///
    /// The file is replaced as a whole once the report is complete.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(crate) output: Option<PathBuf>,
}

impl<Format: OfFile> OutputArgs<Format> {
    pub(crate) fn format(&self) -> Format {
        let extension = self.output.as_ref().and_then(|path| path.extension()?.to_str());
        self.format.unwrap_or_else(|| Format::of_extension(extension))
    }
}

/// A format that the name of a file may say.
pub(crate) trait OfFile: ValueEnum + Copy + Send + Sync + 'static {
    /// The format of files with this extension.
    fn of_extension(extension: Option<&str>) -> Self;
}

#[derive(Debug, Args)]
#[command(after_help = DOCTOR_HELP)]
pub(crate) struct DoctorArgs {
    /// Format of the table
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Where to write them
    pub(crate) directory: PathBuf,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

impl OfFile for Format {
    fn of_extension(extension: Option<&str>) -> Self {
        if extension == Some("json") { Self::Json } else { Self::Text }
    }
}

/// The format of records.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum RecordFormat {
    /// For people
    Text,
    /// For programs; several records are JSON Lines
    Json,
    /// For people, as one page with charts
    Html,
    /// For OpenTelemetry: one trace a migration, as JSON Lines of OTLP
    #[cfg(feature = "otlp")]
    OtlpJson,
    /// For a database of Prometheus: the figures of past migrations at their times
    #[cfg(feature = "openmetrics")]
    Openmetrics,
    /// A trace for Perfetto (<https://ui.perfetto.dev>); binary
    #[cfg(feature = "perfetto")]
    Perfetto,
    /// A trace as JSON, for viewers that do not know Perfetto's
    Chrome,
}

impl OfFile for RecordFormat {
    fn of_extension(extension: Option<&str>) -> Self {
        match extension {
            Some("json") => Self::Json,
            Some("html" | "htm") => Self::Html,
            #[cfg(feature = "perfetto")]
            Some("pftrace" | "perfetto-trace") => Self::Perfetto,
            _ => Self::Text,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Attach {
    /// TCX links if the kernel has them, else clsact filters
    Auto,
    /// TCX links, or fail
    Tcx,
    /// clsact filters, even if the kernel has TCX
    Clsact,
}

impl From<Attach> for AttachChoice {
    fn from(attach: Attach) -> Self {
        match attach {
            Attach::Auto => Self::Auto,
            Attach::Tcx => Self::Tcx,
            Attach::Clsact => Self::Clsact,
        }
    }
}

/// Parses a duration such as `30s`, `1m 30s` or `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = |why: &str| format!("{why}; write for example 30s, 500ms or 1m30s");
    let why = if text.parse::<f64>().is_ok() { "it has no unit" } else { "not a valid duration" };
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| bad(why))?;
    let duration = Duration::try_from(parsed).map_err(|_| bad("it is negative"))?;
    if duration.is_zero() { Err(bad("it is zero")) } else { Ok(duration) }
}

/// Parses a duration of at least [`probe::MIN_INTERVAL`].
fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval < probe::MIN_INTERVAL {
        return Err("the shortest interval is 100us".into());
    }
    Ok(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_need_a_unit_and_are_positive() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for bad in ["", "30", "-5s", "0s", "soon"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(interval("100us"), Ok(Duration::from_micros(100)));
        assert!(interval("99us").is_err());
    }

    #[test]
    fn the_format_follows_the_name_of_the_file_unless_given() {
        fn output<F: OfFile>(format: Option<F>, file: Option<&str>) -> F {
            OutputArgs { format, output: file.map(Into::into) }.format()
        }
        assert_eq!(output::<Format>(None, None), Format::Text);
        assert_eq!(output::<Format>(None, Some("a.json")), Format::Json);
        assert_eq!(output::<Format>(None, Some("a.txt")), Format::Text);
        assert_eq!(output::<RecordFormat>(None, Some("a.json")), RecordFormat::Json);
        assert_eq!(output::<RecordFormat>(None, Some("a.html")), RecordFormat::Html);
        #[cfg(feature = "perfetto")]
        for name in ["a.pftrace", "a.perfetto-trace"] {
            assert_eq!(output::<RecordFormat>(None, Some(name)), RecordFormat::Perfetto);
        }
        assert_eq!(output::<RecordFormat>(None, Some("a")), RecordFormat::Text);
        assert_eq!(output(Some(RecordFormat::Text), Some("a.html")), RecordFormat::Text);
    }
}
