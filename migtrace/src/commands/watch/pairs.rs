//! The pairs of a directory: how a log and its record get their names.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use migtrace::files;
use migtrace::record::Record;
use migtrace::report;

use super::store::MODE;
use crate::commands::names::{PairName, Part};

/// Where the pairs are. Two threads make some: the watch itself, and the one that reads what was left over.
#[derive(Clone)]
pub(super) struct Pairs {
    directory: PathBuf,
    turn: Arc<Mutex<()>>,
}

impl Pairs {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, turn: Arc::default() }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Only one thread at a time looks for a free name and takes it.
    pub(super) fn turn(&self) -> Turn<'_> {
        Turn { directory: &self.directory, _guard: self.turn.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// The right to give names to files.
pub(super) struct Turn<'a> {
    directory: &'a Path,
    _guard: MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// Writes a record that has no log.
    pub(super) fn write_record(&self, records: &[Record]) -> Result<PairName> {
        let pair = self.free_name(records, None);
        self.write(&pair, records).map(|()| pair)
    }

    /// Writes the record of a log, and gives both their names.
    pub(super) fn write_pair(&self, log: &Path, records: &[Record]) -> Result<PairName> {
        let pair = self.free_name(records, Some(log));
        self.write(&pair, records)?;
        let path = pair.path(self.directory, Part::Log);
        if path != log {
            fs::rename(log, &path).with_context(|| format!("cannot rename {}", log.display()))?;
        }
        Ok(pair)
    }

    /// Makes a pair of a log with these records. Without a migration in it, it is removed.
    pub(super) fn adopt(&self, log: &Path, records: &[Record]) -> Result<Option<PairName>> {
        if records.is_empty() {
            fs::remove_file(log)?;
            return Ok(None);
        }
        self.write_pair(log, records).map(Some)
    }

    fn write(&self, pair: &PairName, records: &[Record]) -> Result<()> {
        let json: String = records.iter().map(report::json).collect::<Result<_, _>>()?;
        files::write_synced(&pair.path(self.directory, Part::Record), MODE, json.as_bytes())
            .with_context(|| format!("cannot write a record to {}", self.directory.display()))
    }

    /// A name that no other pair has. A run that was killed may have written the record of `log` already.
    fn free_name(&self, records: &[Record], log: Option<&Path>) -> PairName {
        let first = PairName::of(records);
        let is_free = |name: &PairName| {
            let [of_log, of_record] = [Part::Log, Part::Record].map(|part| name.path(self.directory, part));
            let is_own = log == Some(of_log.as_path());
            is_own || (!of_log.exists() && (log.is_some() || !of_record.exists()))
        };
        let numbered = (2..).map(|number| first.numbered(number));
        std::iter::once(first.clone()).chain(numbered).find(is_free).unwrap_or(first)
    }
}
