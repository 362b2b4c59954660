//! What can be said on the command line.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ContextValue;
use clap::{Args, Parser, Subcommand, ValueEnum};
use migtrace::kernel::{AttachChoice, Tunnel};
use migtrace::ports::PortRanges;
use migtrace::probe;
use migtrace::terminal::clean;

use crate::streams::say;

/// Measures what a live migration of a KVM virtual machine really cost
#[derive(Debug, Parser)]
#[command(name = "migtrace", bin_name = "migtrace", version, about, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Reads the command line, or finds what is to be shown instead: an error, or what `--help` asks for.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    Cli::try_parse().map_err(cleaned)
}

/// An argument may be any file's name (`migtrace report *`), and clap repeats it.
fn cleaned(mut error: clap::Error) -> clap::Error {
    let said: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => Some((kind, ContextValue::String(clean(text).into_owned()))),
            ContextValue::Strings(texts) => {
                let texts = texts.iter().map(|text| clean(text).into_owned()).collect();
                Some((kind, ContextValue::Strings(texts)))
            }
            // Tips, with the argument in them. Their colours look like its escapes, and go.
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

const EXIT_CODES: &str = "Exit codes: 0 done; 1 could not do it; 2 wrong usage; 3 the migration failed, was \
cancelled or interrupted (its record is still written); 4 a limit is not proved to be met; 5 and 6 `doctor` found \
that something, or that everything, cannot be measured here";

const RECORD_HELP: &str = "A limit (--max-...) is met when the longest that the bounds allow is within it. What was \
not measured, and what nothing bounds from above, meets none.

Ctrl-C, SIGTERM and SIGHUP end the recording in order: what was seen is recorded.

Exit codes: 0 the migration completed, and met its limits; 1 it could not be recorded; 2 wrong usage; 3 it failed, was \
cancelled, or the recording was interrupted (its record is still written); 4 a limit is not proved to be met";

const REPORT_HELP: &str = "Exit codes: 0 done; 1 could not do it, or the end of the file is damaged (what precedes \
that is reported); 2 wrong usage";

const DOCTOR_HELP: &str = "Exit codes: 0 everything is measured here; 1 this host could not be examined; 2 wrong \
usage; 5 something is not measured here, or less well; 6 nothing can be measured here";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Wait for the next migration on this host and record it
    Record(Record),
    /// Ask an address for echo replies at a fixed interval, and tell when it did not answer
    Probe(Probe),
    /// Show a record, or replay an event log into its record
    Report(Report),
    /// Tell what can be measured on this host, and what is missing
    Doctor(Doctor),
    /// Remove the TC filters that killed runs left, and none of one that still runs
    Cleanup,
}

#[derive(Debug, Args)]
#[command(after_help = RECORD_HELP)]
pub(crate) struct Record {
    /// Record this VM's migration only, by its name or UUID; a VM that is not there yet is waited for
    #[arg(long, value_name = "NAME|UUID")]
    pub(crate) vm: Option<String>,
    /// Record this QEMU process' migration only
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Take every process that runs this file for a QEMU; may be given again. Without, a QEMU is what runs an executable
    /// of a QEMU's name that only root can have put there
    #[arg(long = "qemu-binary", value_name = "PATH")]
    pub(crate) qemu_binaries: Vec<PathBuf>,
    /// Count at this interface; may be given again [default: every one that carries a route]
    #[arg(long = "interface", value_name = "NAME")]
    pub(crate) interfaces: Vec<String>,
    /// TCP ports that make a connection a migration's
    #[arg(long, value_name = "RANGES", default_value_t)]
    pub(crate) ports: PortRanges,
    /// Look for the connections inside tunnels too
    #[arg(long, value_name = "TUNNEL", value_delimiter = ',', value_parser = tunnels())]
    pub(crate) decapsulate: Vec<Tunnel>,
    /// How to attach to interfaces: TCX links, or filters of the clsact qdisc
    #[arg(long, value_enum, default_value_t = Attach::Auto)]
    pub(crate) attach: Attach,
    /// How many connections can be counted at once
    #[arg(long, value_name = "NUMBER", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(2..=1 << 20), hide = true)]
    pub(crate) flow_capacity: u32,
    /// Ask this QMP socket for QEMU's own figures at the end (a second one: QEMU serves one client a socket)
    #[arg(long, value_name = "SOCKET")]
    pub(crate) qmp: Option<PathBuf>,
    /// Ask this address, the guest's, for echo replies, and record when it did not answer (see `migtrace probe`). Of
    /// several VMs on this host the one with the address' MAC is meant, or else the one of --vm or --pid
    #[arg(long, value_name = "TARGET")]
    pub(crate) probe: Option<String>,
    /// Time between two echo requests, 100us at least
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = interval, requires = "probe")]
    pub(crate) probe_interval: Duration,
    /// Stop after this time, with or without a migration
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Exit with 4 unless the migration is proved to have taken no longer
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) max_total: Option<Duration>,
    /// Exit with 4 unless the guest is proved not to have stood still for longer
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) max_stop: Option<Duration>,
    /// Exit with 4 unless the guest is proved not to have left echo requests unanswered for longer
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) max_reachability: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: Output,
    /// Write every observed fact to this file, a JSON object a line, as it is observed; an earlier log becomes FILE.old.
    /// `-` is standard output: then a report without --output goes to standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
}

const PROBE_HELP: &str = "It needs the capabilities BPF, NET_ADMIN and NET_RAW, and runs on any host, or in any \
network namespace, that can ping the target.

Exit codes: 0 done (with Ctrl-C too, when no end was set); 1 could not do it: the target does not answer, or not \
reliably; 2 wrong usage; 3 interrupted before the end that was set (the report is still written)";

#[derive(Debug, Args)]
#[command(after_help = PROBE_HELP)]
pub(crate) struct Probe {
    /// The address or the name to ask
    #[arg(value_name = "TARGET")]
    pub(crate) target: String,
    /// Time between two requests, 100us at least: gaps are known to within two of them
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = interval, conflicts_with = "passive")]
    pub(crate) interval: Duration,
    /// Send nothing, only follow the echo requests that pass this host anyway
    #[arg(long)]
    pub(crate) passive: bool,
    /// Data bytes behind the ICMP header
    #[arg(long, value_name = "BYTES", default_value_t = 16, conflicts_with = "passive")]
    pub(crate) size: u16,
    /// End after this number of requests
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "passive")]
    pub(crate) count: Option<u64>,
    /// End after this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// End when the first gap is over
    #[arg(long)]
    pub(crate) until_gap: bool,
    /// A silence that surely lasted for less is no gap, and one that cannot have lasted for more is not told [default: the
    /// interval, and 1ms at least]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) min_gap: Option<Duration>,
    /// Of a name, take the IPv6 address
    #[arg(long, short = '6')]
    pub(crate) ipv6: bool,
    /// Ask through this interface [default: the one of the route]
    #[arg(long, value_name = "NAME")]
    pub(crate) interface: Option<String>,
    /// Do not look for loss and rate limits for a second before
    #[arg(long)]
    pub(crate) no_preflight: bool,
    /// How to attach to the interface: a TCX link, or filters of the clsact qdisc
    #[arg(long, value_enum, default_value_t = Attach::Auto)]
    pub(crate) attach: Attach,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = REPORT_HELP)]
pub(crate) struct Report {
    /// Records (JSON, one after the other) or an event log (JSON Lines); `-` is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// This VM's migrations only, by its name or UUID
    #[arg(long, value_name = "NAME|UUID")]
    pub(crate) vm: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// How to write the report [default: text; json for an --output that ends in .json]. Several records in one report
    /// are JSON Lines
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// Write the report to this file, as a whole when it is done; `-` is standard output, and the default
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

impl Output {
    pub(crate) fn format(&self) -> Format {
        let is_json = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
        self.format.unwrap_or(if self.output.as_ref().is_some_and(is_json) {
            Format::Json
        } else {
            Format::Text
        })
    }
}

#[derive(Debug, Args)]
#[command(after_help = DOCTOR_HELP)]
pub(crate) struct Doctor {
    /// How to write the table
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Parses the name of a tunnel.
fn tunnels() -> impl TypedValueParser<Value = Tunnel> {
    PossibleValuesParser::new(Tunnel::ALL.map(Tunnel::name)).try_map(|name| name.parse())
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Attach {
    /// TCX where the kernel has it, else clsact
    Auto,
    /// TCX or fail
    Tcx,
    /// clsact, even where there is TCX
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

/// A time like `30s`, `1m 30s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = |why: &str| format!("{why}; write a time like 30s, 500ms or 1m30s");
    let why = if text.parse::<f64>().is_ok() { "it has no unit" } else { "that is no time" };
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| bad(why))?;
    let duration = Duration::try_from(parsed).map_err(|_| bad("a time cannot be negative"))?;
    if duration.is_zero() { Err(bad("the time is zero")) } else { Ok(duration) }
}

/// A time of at least [`probe::MIN_INTERVAL`].
fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval < probe::MIN_INTERVAL {
        return Err("the shortest interval is 100us".into());
    }
    Ok(interval)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read_as_people_write_them() {
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
    fn a_file_that_ends_in_json_gets_json() {
        let output = |format, file: Option<&str>| Output { format, output: file.map(Into::into) }.format();
        assert_eq!(output(None, None), Format::Text);
        assert_eq!(output(None, Some("a.json")), Format::Json);
        assert_eq!(output(None, Some("a.txt")), Format::Text);
        assert_eq!(output(Some(Format::Text), Some("a.json")), Format::Text);
    }
}
