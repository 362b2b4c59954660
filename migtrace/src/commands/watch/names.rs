//! What the files of a directory are called. Nothing that a VM or a guest can choose is in a name.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use migtrace::record::{Record, Vantage};
use uuid::Uuid;

/// How a name writes the start of a migration. In the order of the names is the order of the starts.
const START: &str = "%Y%m%dT%H%M%S%.3fZ";
/// The end of the name of a log that is being written.
const PARTIAL: &str = ".jsonl.partial";

/// The files of one migration on one host: `20261128T221530.125Z-ID-source.json` and `.jsonl`. Both hosts derive the same id.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct PairName(String);

impl PairName {
    /// Of the migration of these records, of which there is at least one.
    pub(super) fn of(records: &[Record]) -> Self {
        let first = records.first();
        let start = first.and_then(|record| record.start.realtime_ns);
        let id = first.and_then(|record| record.migration.id.as_deref());
        let id = id.and_then(|id| Uuid::parse_str(id).ok()).unwrap_or_default();
        let observer = first.and_then(|record| record.observers.first());
        let role = observer.map_or(Vantage::Observer, |observer| observer.role).as_str();
        Self(format!("{}-{id}-{role}", written(start.unwrap_or_default())))
    }

    /// The same, as the name of another pair.
    pub(super) fn numbered(&self, number: usize) -> Self {
        Self(format!("{}-{number}", self.0))
    }

    /// Of a file that belongs to a pair; `None` if it is none.
    pub(super) fn parse(file: &str) -> Option<(Self, Part)> {
        let (name, part) = match (file.strip_suffix(".jsonl"), file.strip_suffix(".json")) {
            (Some(name), _) => (name, Part::Log),
            (None, Some(name)) => (name, Part::Record),
            (None, None) => return None,
        };
        let rest = name.get(START_LENGTH..)?.strip_prefix('-')?;
        let (id, rest) = (rest.get(..36)?, rest.get(36..)?);
        Uuid::parse_str(id).ok()?;
        let role = rest.strip_prefix('-')?;
        let (role, number) = role.split_once('-').map_or((role, "2"), |(role, number)| (role, number));
        let is_role = ["source", "destination", "observer"].contains(&role);
        let found = Self(name.to_owned());
        (is_role && number.parse::<usize>().is_ok() && found.start().is_some()).then_some((found, part))
    }

    /// When the migration began, in seconds since the epoch.
    pub(super) fn start(&self) -> Option<i64> {
        let start = jiff::civil::DateTime::strptime(START, self.0.get(..START_LENGTH)?).ok()?;
        Some(start.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
    }

    /// One of its files.
    pub(super) fn file(&self, directory: &Path, part: Part) -> PathBuf {
        directory.join(format!("{}.{}", self.0, if part == Part::Log { "jsonl" } else { "json" }))
    }
}

impl std::fmt::Display for PairName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

const START_LENGTH: usize = "20261128T221530.125Z".len();

/// A file of a pair.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    Record,
    Log,
}

fn written(realtime_ns: i64) -> String {
    let start = Timestamp::from_nanosecond(realtime_ns.into()).unwrap_or_default();
    start.strftime(START).to_string()
}

/// The name of a log while it is written, by a process of this host.
pub(super) fn partial(host: &str, realtime_ns: i64, pid: u32, number: u64) -> String {
    format!("{}-{pid}-{number}-{}{PARTIAL}", written(realtime_ns), safe(host))
}

/// Whether a file is a log that a process of this host writes, or wrote.
pub(super) fn is_partial(file: &str, host: &str) -> bool {
    let parts = || file.strip_suffix(PARTIAL)?.split_once('-')?.1.split_once('-')?.1.split_once('-');
    parts().is_some_and(|(_, of)| of == safe(host))
}

/// The name of the file that a process locks which writes to a directory.
pub(super) fn lock(host: &str) -> String {
    format!(".migtrace-{}.lock", safe(host))
}

/// The name of a host as a part of a file name.
fn safe(host: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
    host.chars().take(64).map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "20261128T221530.125Z-6f1c2a34-8a51-5a0f-9d6c-0c2b6f1f2d11-source";

    #[test]
    fn only_names_of_pairs_are_taken_for_such() {
        let (name, part) = PairName::parse(&format!("{NAME}.jsonl")).unwrap();
        assert_eq!((name.to_string(), part), (NAME.to_owned(), Part::Log));
        assert_eq!(name.start(), Some(1_795_904_130));
        let second = name.numbered(2);
        assert_eq!(PairName::parse(&format!("{second}.json")), Some((second, Part::Record)));
        let bad = [
            "notes.json",
            "20261128T221530.125Z-source.json",
            "20261128T221530.125Z-6f1c2a34-8a51-5a0f-9d6c-0c2b6f1f2d11-source.txt",
            "20261128T221530.125Z-6f1c2a34-8a51-5a0f-9d6c-0c2b6f1f2d11-sink.json",
            "20261128T221530.125Z-6f1c2a34-8a51-5a0f-9d6c-0c2b6f1f2d11-source-a.json",
            "20261328T221530.125Z-6f1c2a34-8a51-5a0f-9d6c-0c2b6f1f2d11-source.json",
            "ä0261128T221530.12Z-6f1c2a34-8a51-5a0f-9d6c-0c2b6f1f2d11-source.json",
        ];
        for bad in bad {
            assert_eq!(PairName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_log_that_is_being_written_names_its_host() {
        let name = partial("host-a/../é", 0, 7, 3);
        assert_eq!(name, "19700101T000000.000Z-7-3-host_a_..__.jsonl.partial");
        assert!(is_partial(&name, "host-a/../é") && !is_partial(&name, "host-b"));
        assert_eq!(PairName::parse(&name), None);
        assert!(!is_partial(&format!("{NAME}.jsonl"), "host-a"));
    }
}
