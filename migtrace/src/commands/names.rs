//! What the files of records are called: by when the migration began, and by its id. Nothing that a VM or a guest can choose is
//! in a name.

use std::fmt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use migtrace::files::PARTIAL;
use migtrace::record::{Record, Vantage};
use uuid::Uuid;

const LOCK: &str = ".migtrace-";
const LOCK_END: &str = ".lock";

/// How a name writes the start of a migration. In the order of the names is the order of the starts.
#[derive(Clone, Copy)]
enum Start {
    Seconds,
    Milliseconds,
}

impl Start {
    const fn format(self) -> &'static str {
        match self {
            Self::Seconds => "%Y%m%dT%H%M%SZ",
            Self::Milliseconds => "%Y%m%dT%H%M%S%.3fZ",
        }
    }

    fn write(self, realtime_ns: i64) -> String {
        let start = Timestamp::from_nanosecond(realtime_ns.into()).unwrap_or_default();
        start.strftime(self.format()).to_string()
    }

    /// Seconds since the epoch.
    fn parse(self, text: &str) -> Option<i64> {
        let start = jiff::civil::DateTime::strptime(self.format(), text).ok()?;
        Some(start.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
    }
}

/// The files of one migration on one host: `20261128T221530.125Z-ID-source.json` and `.jsonl`. Both hosts derive the same id.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(in crate::commands) struct PairName(String);

impl PairName {
    /// Of the migration of these records, of which there is at least one.
    pub(in crate::commands) fn of(records: &[Record]) -> Self {
        let first = records.first();
        let start = first.and_then(|record| record.start.realtime_ns);
        let id = first.and_then(|record| record.migration.id.as_deref());
        let id = id.and_then(|id| Uuid::parse_str(id).ok()).unwrap_or_default();
        let observer = first.and_then(|record| record.observers.first());
        let role = observer.map_or(Vantage::Observer, |observer| observer.role).as_str();
        Self(format!("{}-{id}-{role}", Start::Milliseconds.write(start.unwrap_or_default())))
    }

    /// The same, as the name of another pair.
    pub(in crate::commands) fn numbered(&self, number: usize) -> Self {
        Self(format!("{}-{number}", self.0))
    }

    /// Of a file that belongs to a pair; `None` if it is none.
    pub(in crate::commands) fn parse(file: &str) -> Option<(Self, Part)> {
        let (name, extension) = file.rsplit_once('.')?;
        let part = [Part::Record, Part::Log].into_iter().find(|part| part.extension() == extension)?;
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
    pub(in crate::commands) fn start(&self) -> Option<i64> {
        Start::Milliseconds.parse(self.0.get(..START_LENGTH)?)
    }

    /// The name of one of its files.
    pub(in crate::commands) fn file(&self, part: Part) -> String {
        format!("{}.{}", self.0, part.extension())
    }

    /// The path of one of its files.
    pub(in crate::commands) fn path(&self, directory: &Path, part: Part) -> PathBuf {
        directory.join(self.file(part))
    }
}

impl fmt::Display for PairName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const START_LENGTH: usize = "20261128T221530.125Z".len();

/// A file of a pair.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::commands) enum Part {
    Record,
    Log,
}

impl Part {
    const fn extension(self) -> &'static str {
        match self {
            Self::Record => "json",
            Self::Log => "jsonl",
        }
    }
}

/// The name of a log while it is written, by a process of this host.
pub(in crate::commands) fn partial(host: &str, realtime_ns: i64, pid: u32, number: u64) -> String {
    format!("{}-{pid}-{number}-{}.jsonl{PARTIAL}", Start::Milliseconds.write(realtime_ns), safe(host))
}

/// Whether a file is a log that a process of this host writes, or wrote.
pub(in crate::commands) fn is_partial(file: &str, host: &str) -> bool {
    let name = file.strip_suffix(PARTIAL).and_then(|file| file.strip_suffix(".jsonl"));
    // The start, the pid and the number.
    name.and_then(|name| name.splitn(4, '-').nth(3)).is_some_and(|of| of == safe(host))
}

/// The name of the file that a process locks which writes to a directory.
pub(in crate::commands) fn lock(host: &str) -> String {
    format!("{LOCK}{}{LOCK_END}", safe(host))
}

/// Whether a file is one that a process locks, of whatever host.
pub(in crate::commands) fn is_lock(file: &str) -> bool {
    file.starts_with(LOCK) && file.ends_with(LOCK_END)
}

/// The name of a host as a part of a file name.
fn safe(host: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
    host.chars().take(64).map(safe).collect()
}

/// The file of a record that `merge` has made, of all hosts: `20261128T221530Z_ID.json`, or `unknown_ID.json` if nothing says
/// when the migration began.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::commands) struct MergedName {
    /// In seconds since the epoch.
    pub(in crate::commands) start: Option<i64>,
    pub(in crate::commands) id: String,
}

const UNKNOWN: &str = "unknown";

impl MergedName {
    /// The name of the file; of one of several that would have the same, if there is a number.
    pub(in crate::commands) fn file(&self, number: Option<usize>) -> String {
        let start = self.start.map(|seconds| Start::Seconds.write(seconds.saturating_mul(1_000_000_000)));
        let number = number.map(|number| format!("_{number}")).unwrap_or_default();
        format!("{}_{}{number}.json", start.as_deref().unwrap_or(UNKNOWN), self.id)
    }

    /// What the name of a file says; `None` if it is none of these.
    pub(in crate::commands) fn parse(file: &str) -> Option<Self> {
        let (start, id) = file.strip_suffix(".json")?.split_once('_')?;
        let id = id.split('_').next()?.to_owned();
        if start == UNKNOWN {
            return Some(Self { start: None, id });
        }
        Some(Self { start: Some(Start::Seconds.parse(start)?), id })
    }
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
        assert_eq!(PairName::parse(&second.file(Part::Record)), Some((second, Part::Record)));
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

    #[test]
    fn a_merged_record_is_named_by_its_start_and_its_id() {
        let merged = |start| MergedName { start, id: "8ec7c28d".to_owned() };
        let (known, unknown) = (merged(Some(1_795_843_343)), merged(None));
        assert_eq!(known.file(None), "20261128T052223Z_8ec7c28d.json");
        assert_eq!(unknown.file(Some(2)), "unknown_8ec7c28d_2.json");
        for name in [known, unknown] {
            for number in [None, Some(2)] {
                assert_eq!(MergedName::parse(&name.file(number)), Some(name.clone()));
            }
        }
        for other in ["notes.json", "a_b.json", "20261128T052223Z_8ec7c28d.jsonl"] {
            assert_eq!(MergedName::parse(other), None, "{other}");
        }
    }
}
