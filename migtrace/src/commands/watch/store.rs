//! The directory of records and event logs: a pair of files for each migration.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use migtrace::event::{Event, LogWriter};
use migtrace::files::{self, AtomicFile};
use migtrace::record::Record;
use migtrace::watch::JournalId;

use super::leftovers::{self, Adopted, Adopter};
use super::lock::DirectoryLock;
use super::pairs::Pairs;
use super::retention::Retention;
use crate::cli::Keep;
use crate::commands::names::{self, PairName};

/// Events and records name VMs and addresses, which not every user needs to know.
pub(super) const MODE: u32 = 0o640;

/// A directory of records and event logs.
pub(super) struct Store {
    pairs: Pairs,
    /// Before the lock, so that it is ended when somebody else may lock the directory.
    adopter: Option<Adopter>,
    /// This host's name, which the names of unfinished logs have.
    host: String,
    lock: DirectoryLock,
    logs: BTreeMap<JournalId, Log>,
    /// How many logs there were.
    count: u64,
    retention: Option<Retention>,
    /// Logs whose migration is over, but whose pair could not be written.
    unfinished: BTreeSet<PathBuf>,
    /// What killed runs have left, as long as nobody reads it.
    leftovers: BTreeSet<PathBuf>,
}

/// A log that is being written.
struct Log {
    path: PathBuf,
    writer: LogWriter<File>,
    /// It lacks events, since something could not be written.
    is_broken: bool,
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
        AtomicFile::begin_with_room(&directory.join(names::lock(host)), MODE).with_context(cannot)?;
        let leftovers = leftovers::remove_incomplete_records(&directory)
            .and_then(|()| leftovers::find(&directory, host))
            .with_context(|| format!("cannot read the directory {}", directory.display()))?;
        Ok(Self {
            pairs: Pairs::new(directory),
            adopter: None,
            host: host.to_owned(),
            lock,
            logs: BTreeMap::new(),
            count: 0,
            retention: keep.map(Retention::new),
            unfinished: BTreeSet::new(),
            leftovers: leftovers.into_iter().collect(),
        })
    }

    /// Begins to make pairs of what killed runs of this host have left.
    pub(super) fn adopt_leftovers(&mut self) -> Result<()> {
        let found = self.leftovers.iter().cloned().collect();
        self.order(found)?;
        self.leftovers.clear();
        Ok(())
    }

    /// Begins to make the pairs that could not be written.
    pub(super) fn retry(&mut self) -> Result<()> {
        self.order(self.unfinished.iter().cloned().collect())
    }

    fn order(&mut self, logs: Vec<PathBuf>) -> Result<()> {
        if logs.is_empty() {
            return Ok(());
        }
        let adopter = match &mut self.adopter {
            Some(adopter) => adopter,
            none => none.insert(Adopter::start(&self.pairs).context("cannot start a thread")?),
        };
        logs.into_iter().for_each(|log| adopter.order(log));
        Ok(())
    }

    /// Waits until one of these pairs is made, or cannot be.
    pub(super) async fn adopted(&mut self) -> Adopted {
        match &mut self.adopter {
            Some(adopter) => adopter.next().await,
            None => std::future::pending().await,
        }
    }

    /// Whether the log is one of this run, whose pair could not be written before.
    pub(super) fn take_own(&mut self, adopted: &Adopted) -> bool {
        if adopted.pair.is_ok() {
            self.unfinished.remove(&adopted.log)
        } else {
            self.unfinished.contains(&adopted.log)
        }
    }

    /// Whether there are logs that will be pairs soon.
    fn is_adopting(&self) -> bool {
        !self.leftovers.is_empty() || self.adopter.as_ref().is_some_and(|adopter| !adopter.is_idle())
    }

    /// Makes no more pairs of leftovers. Returns what was done by now, and how many are left: they stay as they are.
    pub(super) fn end_adoption(&mut self) -> (Vec<Adopted>, usize) {
        let Some(mut adopter) = self.adopter.take() else { return (Vec::new(), self.leftovers.len()) };
        let (done, waiting) = adopter.end();
        self.leftovers.extend(waiting.into_iter().filter(|log| !self.unfinished.contains(log)));
        (done, self.leftovers.len())
    }

    /// Makes the pairs that could not be written, as far as they can be now. Returns how many.
    pub(super) fn retry_at_once(&mut self) -> usize {
        let before = self.unfinished.len();
        self.unfinished.retain(|log| leftovers::adopt(log, &self.pairs).is_err());
        before - self.unfinished.len()
    }

    /// A migration has begun.
    pub(super) fn begin(&mut self, journal: JournalId, now_realtime_ns: i64) -> Result<()> {
        self.count += 1;
        let name = names::partial(&self.host, now_realtime_ns, std::process::id(), self.count);
        let path = self.pairs.directory().join(name);
        let file = self.changing(|_| files::create_new(&path, MODE));
        let file = file.with_context(|| format!("cannot write to {}", self.pairs.directory().display()))?;
        self.logs.insert(journal, Log { path, writer: LogWriter::new(file), is_broken: false });
        Ok(())
    }

    /// Changes the directory in a way that the index of its pairs knows of.
    fn changing<T, E>(&mut self, change: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        let directory = self.pairs.directory().to_owned();
        let was_right =
            self.retention.as_mut().is_some_and(|retention| retention.index().is_right(&directory));
        let changed = change(self)?;
        if let Some(retention) = self.retention.as_mut().filter(|_| was_right) {
            retention.index().set_right(&directory);
        }
        Ok(changed)
    }

    /// Appends an event to a log.
    pub(super) fn write(&mut self, journal: JournalId, event: &Event) -> Result<()> {
        let Some(log) = self.logs.get_mut(&journal).filter(|log| !log.is_broken) else { return Ok(()) };
        let written = log.writer.write(event);
        log.is_broken = written.is_err();
        written.with_context(|| format!("cannot write an event log to {}", self.pairs.directory().display()))
    }

    /// There was no migration.
    pub(super) fn discard(&mut self, journal: JournalId) -> Result<()> {
        let Some(log) = self.logs.remove(&journal) else { return Ok(()) };
        self.changing(|_| remove(&log.path))
    }

    /// A migration is over: its record is written, and both files take their names.
    pub(super) fn finish(&mut self, journal: JournalId, records: &[Record]) -> Result<()> {
        let log = self.logs.remove(&journal);
        self.changing(|store| {
            let pair = match &log {
                Some(log) if !log.is_broken => store.write_pair(&log.path, records)?,
                _ => store.pairs.turn().write_record(records)?,
            };
            if let Some(retention) = &mut store.retention {
                retention.index().add(store.pairs.directory(), &pair);
            }
            // The record is complete, and the log does not replay into it.
            log.filter(|log| log.is_broken).map_or(Ok(()), |log| remove(&log.path))
        })
    }

    fn write_pair(&mut self, log: &Path, records: &[Record]) -> Result<PairName> {
        let written = self.pairs.turn().write_pair(log, records);
        if written.is_err() {
            self.unfinished.insert(log.to_owned());
        }
        written
    }

    /// Removes the oldest pairs, if that is wanted. Returns how many.
    pub(super) fn remove_old(&mut self, now_realtime_s: i64) -> Result<usize> {
        // What was left over becomes pairs first, however old it is.
        if self.is_adopting() {
            return Ok(0);
        }
        let Some(retention) = &mut self.retention else { return Ok(0) };
        retention.apply(self.pairs.directory(), now_realtime_s)
    }

    /// Takes the lock anew if the directory is another one now.
    pub(super) fn reopen(&mut self) -> Result<()> {
        self.lock.renew(self.pairs.directory(), &self.host)
    }
}

fn remove(log: &Path) -> Result<()> {
    fs::remove_file(log).with_context(|| format!("cannot remove {}", log.display()))
}
