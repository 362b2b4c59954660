//! The options of `watch`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Format, OUTPUT, OtlpArgs, PrometheusArgs, ScopeArgs, duration};

const WATCH_HELP: &str = "\
One line a finished migration goes to standard output, or to --output.

SIGTERM and Ctrl-C end it: migrations that are under way are waited for (--grace), \
then written as interrupted; another signal ends the wait. SIGHUP opens all files anew.

Faults in between, such as a full disk, are reported and counted, and end nothing.

Exit codes:
  0  It was told to end
  1  It could not begin, or this host cannot be traced any more
  2  Wrong usage";

#[derive(Debug, Args)]
#[command(after_help = WATCH_HELP)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) scope: ScopeArgs,
    /// Format of the lines; as JSON, each is a whole record
    #[arg(long, value_enum, default_value_t = Format::Text, help_heading = OUTPUT)]
    pub(crate) format: Format,
    /// Append the lines to this file [default: `-`, standard output]
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(crate) output: Option<PathBuf>,
    /// Keep each migration's record (.json) and event log (.jsonl) in this directory, which is made if it is not there
    #[arg(long, value_name = "DIR", help_heading = OUTPUT)]
    pub(crate) directory: Option<PathBuf>,
    /// Remove the oldest pairs from the directory: those older than a time, or those that exceed a size in all; or both
    ///
    /// For example 14d, 10GiB, or 14d,10GiB. The latest pair always stays.
    #[arg(long, value_name = "TIME,SIZE", value_parser = keep, requires = "directory", help_heading = OUTPUT)]
    pub(crate) keep: Option<Keep>,
    #[command(flatten)]
    pub(crate) otlp: OtlpArgs,
    #[command(flatten)]
    pub(crate) prometheus: PrometheusArgs,
    /// Take options from this file, too; those on the command line win
    ///
    /// A TOML file whose keys are the names of the options, such as `keep = "14d"`.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How long to wait for migrations that are under way when told to end
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) grace: Duration,
}

/// How much is kept in a directory.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Keep {
    pub(crate) age: Option<Duration>,
    pub(crate) bytes: Option<u64>,
}

/// The units of [`Keep`].
const AGES: [(&str, u64); 3] = [("h", 3_600), ("d", 86_400), ("w", 7 * 86_400)];
const SIZES: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// Parses an age, a size, or both.
fn keep(text: &str) -> Result<Keep, String> {
    let mut keep = Keep::default();
    for part in text.split(',') {
        let part = part.trim();
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let (number, unit) = part.split_at(digits);
        let of =
            |units: &[(&str, u64)]| units.iter().find(|(name, _)| *name == unit.trim()).map(|(_, of)| *of);
        let amount = |each: u64| number.parse::<u64>().ok()?.checked_mul(each).filter(|amount| *amount > 0);
        match (of(&AGES), of(&SIZES)) {
            (Some(each), _) if keep.age.is_none() => keep.age = amount(each).map(Duration::from_secs),
            (_, Some(each)) if keep.bytes.is_none() => keep.bytes = amount(each),
            _ => return Err(EXAMPLE.to_owned()),
        }
        if (of(&AGES).is_some() && keep.age.is_none()) || (of(&SIZES).is_some() && keep.bytes.is_none()) {
            return Err(EXAMPLE.to_owned());
        }
    }
    Ok(keep)
}

const EXAMPLE: &str =
    "write an age (h, d, w), a size (KiB, MiB, GiB, TiB) or one of each, for example 14d, 10GiB or 14d,10GiB";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_a_size_or_both_can_be_kept() {
        let days = |days: u64| Some(Duration::from_secs(days * 86_400));
        assert_eq!(keep("14d"), Ok(Keep { age: days(14), bytes: None }));
        assert_eq!(keep("10GiB"), Ok(Keep { age: None, bytes: Some(10 << 30) }));
        for both in ["14d,10GiB", "10GiB, 14d", "2w,10GiB"] {
            assert_eq!(keep(both), Ok(Keep { age: days(14), bytes: Some(10 << 30) }), "{both}");
        }
        for bad in
            ["", "14", "d", "0d", "14d,", "14d,3d", "1GiB,2GiB", "10GB", "-1d", "99999999999999999999d"]
        {
            assert!(keep(bad).is_err(), "{bad}");
        }
    }
}
