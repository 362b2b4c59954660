//! The directory of records and event logs: a pair of files for each migration.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use migtrace::event::{Event, LogWriter};
use migtrace::files;
use migtrace::record::Record;
use migtrace::report;
use migtrace::watch::JournalId;

use super::leftovers;
use super::lock::DirectoryLock;
use super::retention::Retention;
use crate::cli::Keep;
use crate::commands::names::{PairName, Part, is_partial, partial};

/// Written to prove that there is room.
const ROOM_BYTES: usize = 64 * 1024;
/// Events and records name VMs and addresses, which not every user needs to know.
const MODE: u32 = 0o640;

/// A directory of records and event logs.
pub(super) struct Store {
    directory: PathBuf,
    /// This host's name, which the names of unfinished logs have.
    host: String,
    lock: DirectoryLock,
    logs: BTreeMap<JournalId, Log>,
    /// How many logs there were.
    count: u64,
    retention: Option<Retention>,
    /// Logs whose migration is over, but whose pair could not be written.
    unfinished: Vec<PathBuf>,
}

/// A log that is being written.
struct Log {
    path: PathBuf,
    writer: LogWriter<File>,
    /// It lacks events, since something could not be written.
    is_broken: bool,
}

/// What a killed run had left.
pub(super) struct Leftover {
    /// The log.
    pub(super) path: PathBuf,
    /// The pair that it has become; `None` if there was no migration in it.
    pub(super) pair: Option<PairName>,
}

impl Store {
    /// Opens a directory, and proves that it can be written.
    pub(super) fn open(directory: &Path, host: &str, keep: Option<Keep>) -> Result<Self> {
        let cannot = || format!("cannot write to the directory {}", directory.display());
        if !directory.exists() {
            fs::create_dir(directory)
                .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        }
        let directory = fs::canonicalize(directory).with_context(cannot)?;
        let lock = DirectoryLock::take(&directory, host)?;
        let proof = directory.join(partial(host, 0, std::process::id(), 0));
        let written = files::create_new(&proof, MODE).and_then(|mut file| {
            file.write_all(&[0; ROOM_BYTES])?;
            file.sync_all()
        });
        let removed = fs::remove_file(&proof);
        written.and(removed).with_context(cannot)?;
        Ok(Self {
            directory,
            host: host.to_owned(),
            lock,
            logs: BTreeMap::new(),
            count: 0,
            retention: keep.map(Retention::new),
            unfinished: Vec::new(),
        })
    }

    /// Makes pairs of what killed runs on this host have left. Nobody else writes it: the directory is locked.
    pub(super) fn adopt_leftovers(&mut self) -> Vec<Result<Leftover>> {
        let listed = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut names: Vec<_> = listed.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        let found: Vec<_> = names
            .iter()
            .filter(|name| is_partial(name, &self.host))
            .map(|name| self.directory.join(name))
            .collect();
        let lacking = names.iter().filter_map(|name| match PairName::parse(name)? {
            (pair, Part::Log) if !pair.path(&self.directory, Part::Record).exists() => {
                Some(pair.path(&self.directory, Part::Log))
            }
            _ => None,
        });
        found.into_iter().chain(lacking).map(|path| self.adopt(path)).collect()
    }

    fn adopt(&self, path: PathBuf) -> Result<Leftover> {
        let cannot = || format!("cannot make a record of {}, which a killed run has left", path.display());
        let records = leftovers::records(&path).with_context(cannot)?;
        if records.is_empty() {
            fs::remove_file(&path).with_context(cannot)?;
            return Ok(Leftover { path, pair: None });
        }
        let pair = self.write_pair(&path, &records).with_context(cannot)?;
        Ok(Leftover { path, pair: Some(pair) })
    }

    /// Tries again to make the pairs that could not be written. Returns how many were.
    pub(super) fn retry(&mut self) -> usize {
        let unfinished = std::mem::take(&mut self.unfinished);
        let before = unfinished.len();
        self.unfinished = unfinished.into_iter().filter(|path| self.adopt(path.clone()).is_err()).collect();
        before - self.unfinished.len()
    }

    /// A migration has begun.
    pub(super) fn begin(&mut self, journal: JournalId, now_realtime_ns: i64) -> Result<()> {
        self.count += 1;
        let name = partial(&self.host, now_realtime_ns, std::process::id(), self.count);
        let path = self.directory.join(name);
        let file = files::create_new(&path, MODE)
            .with_context(|| format!("cannot write to {}", self.directory.display()))?;
        self.logs.insert(journal, Log { path, writer: LogWriter::new(file), is_broken: false });
        Ok(())
    }

    /// Appends an event to a log.
    pub(super) fn write(&mut self, journal: JournalId, event: &Event) -> Result<()> {
        let Some(log) = self.logs.get_mut(&journal).filter(|log| !log.is_broken) else { return Ok(()) };
        let written = log.writer.write(event);
        log.is_broken = written.is_err();
        written.with_context(|| format!("cannot write an event log to {}", self.directory.display()))
    }

    /// There was no migration.
    pub(super) fn discard(&mut self, journal: JournalId) -> Result<()> {
        let Some(log) = self.logs.remove(&journal) else { return Ok(()) };
        fs::remove_file(&log.path).with_context(|| format!("cannot remove {}", log.path.display()))
    }

    /// A migration is over: its record is written, and both files take their names.
    pub(super) fn finish(&mut self, journal: JournalId, records: &[Record]) -> Result<()> {
        let Some(log) = self.logs.remove(&journal) else {
            let pair = self.free_name(records, None);
            return self.write_record(&pair, records);
        };
        if log.is_broken {
            // The record is complete, and the log does not replay into it.
            let pair = self.free_name(records, None);
            self.write_record(&pair, records)?;
            return fs::remove_file(&log.path)
                .with_context(|| format!("cannot remove {}", log.path.display()));
        }
        let written = self.write_pair(&log.path, records);
        if written.is_err() {
            self.unfinished.push(log.path);
        }
        written.map(drop)
    }

    /// Writes the record of a log, and gives both their names.
    fn write_pair(&self, log: &Path, records: &[Record]) -> Result<PairName> {
        let pair = self.free_name(records, Some(log));
        self.write_record(&pair, records)?;
        let path = pair.path(&self.directory, Part::Log);
        if path != log {
            fs::rename(log, &path).with_context(|| format!("cannot rename {}", log.display()))?;
        }
        Ok(pair)
    }

    fn write_record(&self, pair: &PairName, records: &[Record]) -> Result<()> {
        let json: String = records.iter().map(report::json).collect::<Result<_, _>>()?;
        let path = pair.path(&self.directory, Part::Record);
        files::write_synced(&path, MODE, json.as_bytes())
            .with_context(|| format!("cannot write a record to {}", self.directory.display()))
    }

    /// A name that no other pair has. A run that was killed may have written the record of `log` already.
    fn free_name(&self, records: &[Record], log: Option<&Path>) -> PairName {
        let first = PairName::of(records);
        let is_free = |name: &PairName| {
            let (of_log, of_record) =
                (name.path(&self.directory, Part::Log), name.path(&self.directory, Part::Record));
            let is_own = log == Some(of_log.as_path());
            is_own || (!of_log.exists() && (log.is_some() || !of_record.exists()))
        };
        let numbered = (2..).map(|number| first.numbered(number));
        std::iter::once(first.clone()).chain(numbered).find(is_free).unwrap_or(first)
    }

    /// Removes the oldest pairs, if that is wanted. Returns how many.
    pub(super) fn remove_old(&mut self, now_realtime_s: i64) -> Result<usize> {
        let Some(retention) = &mut self.retention else { return Ok(0) };
        retention.apply(&self.directory, now_realtime_s)
    }

    /// Takes the lock anew if the directory is another one now.
    pub(super) fn reopen(&mut self) -> Result<()> {
        self.lock.renew(&self.directory, &self.host)
    }
}
