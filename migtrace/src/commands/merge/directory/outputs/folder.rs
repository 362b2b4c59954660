//! A folder with a file for each record.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use migtrace::files;
use migtrace::record::Record;
use migtrace::timeline::Merged;

use crate::commands::names::MergedName;

/// A record and an older one of the same migration begin within this of each other, by one host's clock: one host may have
/// seen it begin later than another, which copied disks before. The id can come again when a connection between the same
/// ends carries the same VM again, which takes longer.
const SAME_MIGRATION_SECONDS: u64 = 86_400;

/// What the file of a record is found by.
pub(in crate::commands::merge::directory) struct Identity {
    name: MergedName,
    /// The start as the wall clock of each host shows it, which may be years off.
    starts: Vec<i64>,
    /// The id that a record of the other half alone had.
    other_id: Option<String>,
}

impl Identity {
    pub(super) fn of(merged: &Merged) -> Self {
        let record = &merged.record;
        Self {
            name: MergedName {
                start: record.start.realtime_ns.map(seconds),
                id: record.migration.id.clone().unwrap_or_else(|| "unidentified".to_owned()),
            },
            starts: starts(record).map(seconds).collect(),
            other_id: merged.other_id.clone(),
        }
    }
}

const fn seconds(ns: i64) -> i64 {
    ns.div_euclid(1_000_000_000)
}

/// When a migration began, as the wall clock of each of its hosts shows it.
fn starts(record: &Record) -> impl Iterator<Item = i64> {
    let own = record.observers.first().and_then(|observer| observer.clock);
    let start = record.start.realtime_ns;
    let monotonic = own.zip(start).map(|(clock, start)| start.saturating_sub(clock.offset_ns));
    let elsewhere = record.observers.iter().filter_map(move |observer| {
        let ahead = observer.alignment.as_ref()?.offset_ns?;
        Some(monotonic?.saturating_add(ahead).saturating_add(observer.clock?.offset_ns))
    });
    start.into_iter().chain(elsewhere)
}

/// A folder with a file for each record. Only one migtrace writes there at a time.
pub(in crate::commands::merge::directory) struct Folder {
    path: PathBuf,
    lock: File,
    /// The files that were there before, by the ids in their names.
    before: HashMap<String, Vec<(Option<i64>, String)>>,
    /// The names that were used by now.
    used: BTreeSet<String>,
    new: usize,
    changed: usize,
    unchanged: usize,
}

impl Folder {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let lock = File::open(path)?;
        if !files::lock(&lock) {
            return Err(io::Error::new(ErrorKind::ResourceBusy, "another migtrace is writing there"));
        }
        let mut before: HashMap<String, Vec<_>> = HashMap::new();
        for name in files::names(path)? {
            if let Some(MergedName { start, id }) = MergedName::parse(&name) {
                before.entry(id).or_default().push((start, name));
            }
        }
        before.values_mut().for_each(|files| files.sort());
        let (used, path) = (BTreeSet::new(), path.to_owned());
        Ok(Self { path, lock, before, used, new: 0, changed: 0, unchanged: 0 })
    }

    /// Writes a record, unless it is there already.
    pub(super) fn write(&mut self, identity: &Identity, json: &str) -> Result<()> {
        let name = self.free_name(identity);
        let path = self.path.join(&name);
        let before = self.take_before(identity, &name);
        self.used.insert(name.clone());
        let is_there = before.as_ref() == Some(&name);
        if is_there && fs::read(&path).is_ok_and(|content| content == json.as_bytes()) {
            self.unchanged += 1;
            return Ok(());
        }
        let cannot = || format!("cannot write {}", path.display());
        files::write(&path, 0o666, json.as_bytes()).with_context(cannot)?;
        match before {
            Some(before) => {
                if before != name {
                    fs::remove_file(self.path.join(before)).with_context(cannot)?;
                }
                self.changed += 1;
            }
            None => self.new += 1,
        }
        Ok(())
    }

    /// A name that no other record of this run has. Two may begin in one second with one id, if nothing has shown that they
    /// are halves of one migration.
    fn free_name(&self, identity: &Identity) -> String {
        let numbers = std::iter::once(None).chain((2..).map(Some));
        let mut names = numbers.map(|number| identity.name.file(number));
        names.find(|name| !self.used.contains(name)).unwrap_or_default()
    }

    /// The file of an earlier record of this migration: under its name, or under another if that record had another start or
    /// id, since fewer logs were there.
    fn take_before(&mut self, identity: &Identity, name: &str) -> Option<String> {
        let is_same = |start: Option<i64>| {
            let is_near =
                |other: &i64| start.is_none_or(|one| one.abs_diff(*other) <= SAME_MIGRATION_SECONDS);
            identity.starts.is_empty() || identity.starts.iter().any(is_near)
        };
        for id in [Some(&identity.name.id), identity.other_id.as_ref()].into_iter().flatten() {
            let Some(files) = self.before.get_mut(id) else { continue };
            let own = files.iter().position(|(_, before)| before == name);
            let found = own.or_else(|| files.iter().position(|(start, _)| is_same(*start)));
            if let Some(found) = found {
                return Some(files.remove(found).1);
            }
        }
        None
    }

    /// Brings everything to the disk. A crash before that leaves at worst files that the next run writes again.
    pub(super) fn finish(self) -> Result<String> {
        nix::unistd::syncfs(&self.lock)
            .with_context(|| format!("cannot write to {}", self.path.display()))?;
        let Self { new, changed, unchanged, .. } = self;
        Ok(format!("; files: {new} new, {changed} replaced, {unchanged} as they were"))
    }
}
