//! Which pairs a directory has, and how large they are, without listing it after each migration.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::commands::names::{PairName, Part};

/// So many pairs are known one by one, which takes some 2 MiB. Only the oldest matter.
const ROOM: usize = 10_000;
/// A change of the directory by another process may have escaped notice for so long: not every file system's times are fine
/// enough to tell any two changes apart.
const LIST_AGAIN: Duration = Duration::from_secs(3_600);

/// The pairs of a directory.
#[derive(Debug)]
pub(super) struct Index {
    room: usize,
    oldest: BTreeMap<PairName, Sizes>,
    /// The sizes of all that found no room; each of them is younger than those that did.
    younger: Option<u64>,
    listed: Option<Listed>,
}

/// The sizes of the files of a pair, as far as they are there.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Sizes {
    record: Option<u64>,
    log: Option<u64>,
}

/// A list of the files.
#[derive(Clone, Copy, Debug)]
struct Listed {
    at: Instant,
    /// The directory when the list was right.
    directory: State,
}

/// It changes whenever a file of the directory is made, renamed or removed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct State {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl State {
    fn of(directory: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(directory)?;
        let changed = (metadata.mtime(), metadata.mtime_nsec());
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), changed })
    }
}

impl Sizes {
    const fn of(&mut self, part: Part) -> &mut Option<u64> {
        match part {
            Part::Record => &mut self.record,
            Part::Log => &mut self.log,
        }
    }

    fn bytes(self) -> u64 {
        self.record.unwrap_or_default() + self.log.unwrap_or_default()
    }
}

impl Default for Index {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

impl Index {
    pub(super) fn with_room(room: usize) -> Self {
        Self { room, oldest: BTreeMap::new(), younger: None, listed: None }
    }

    /// Lists the directory, if another process may have changed it since that was done.
    pub(super) fn refresh(&mut self, directory: &Path, now: Instant) -> io::Result<()> {
        let is_recent = |listed: Listed| now.duration_since(listed.at) < LIST_AGAIN;
        if self.is_right(directory) && self.listed.is_some_and(is_recent) {
            Ok(())
        } else {
            self.list(directory, now)
        }
    }

    /// Lists the directory. What changes meanwhile shows the next time.
    pub(super) fn list(&mut self, directory: &Path, now: Instant) -> io::Result<()> {
        *self = Self::with_room(self.room);
        let state = State::of(directory)?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let Some((name, part)) = entry.file_name().to_str().and_then(PairName::parse) else { continue };
            // It may be gone by now: the other host removes, too.
            if let Some(metadata) = entry.metadata().ok().filter(fs::Metadata::is_file) {
                self.insert(name, part, metadata.len());
            }
        }
        self.listed = Some(Listed { at: now, directory: state });
        Ok(())
    }

    /// Whether nothing has changed that this does not know.
    pub(super) fn is_right(&self, directory: &Path) -> bool {
        self.listed.is_some_and(|listed| State::of(directory).is_ok_and(|now| now == listed.directory))
    }

    /// It knows all changes until now.
    pub(super) fn set_right(&mut self, directory: &Path) {
        if let (Some(listed), Ok(state)) = (&mut self.listed, State::of(directory)) {
            listed.directory = state;
        }
    }

    /// This process has written a pair, or a record alone, under a name that was free.
    pub(super) fn add(&mut self, directory: &Path, name: &PairName) {
        for part in [Part::Record, Part::Log] {
            if let Ok(metadata) = fs::symlink_metadata(name.path(directory, part)) {
                self.insert(name.clone(), part, metadata.len());
            }
        }
    }

    fn insert(&mut self, name: PairName, part: Part, bytes: u64) {
        let is_younger = self.oldest.last_key_value().is_none_or(|(last, _)| name > *last);
        if let Some(younger) = self.younger.as_mut().filter(|_| is_younger) {
            *younger += bytes;
            return;
        }
        *self.oldest.entry(name).or_default().of(part) = Some(bytes);
        if self.oldest.len() > self.room
            && let Some((_, sizes)) = self.oldest.pop_last()
        {
            *self.younger.get_or_insert_default() += sizes.bytes();
        }
    }

    /// The oldest pairs, with their sizes.
    pub(super) fn oldest(&self) -> impl Iterator<Item = (&PairName, u64)> {
        self.oldest.iter().map(|(name, sizes)| (name, sizes.bytes()))
    }

    /// The sizes of those that are younger than [`Self::oldest`]; none if there are none.
    pub(super) const fn younger(&self) -> Option<u64> {
        self.younger
    }

    /// Removes the files of the oldest pair. Returns whether there were any.
    pub(super) fn remove_oldest(&mut self, directory: &Path) -> io::Result<bool> {
        let Some(oldest) = self.oldest.first_entry() else { return Ok(false) };
        let mut is_removed = false;
        for part in [Part::Record, Part::Log] {
            match fs::remove_file(oldest.key().path(directory, part)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                removed => is_removed |= removed.is_ok(),
            }
        }
        oldest.remove();
        Ok(is_removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6f1c2a34-8a51-5a0f-9d6c-0c2b6f1f2d11";

    fn name(second: usize) -> PairName {
        let file = format!(
            "20261128T{:02}{:02}{:02}.000Z-{ID}-source.json",
            second / 3_600,
            second / 60 % 60,
            second % 60
        );
        PairName::parse(&file).unwrap().0
    }

    fn write(directory: &Path, name: &PairName, bytes: usize) {
        for part in [Part::Log, Part::Record] {
            fs::write(name.path(directory, part), vec![0; bytes]).unwrap();
        }
    }

    /// What an index knows that has just listed the directory.
    fn truth(directory: &Path) -> Vec<(String, u64)> {
        let mut index = Index::default();
        index.list(directory, Instant::now()).unwrap();
        known(&index)
    }

    fn known(index: &Index) -> Vec<(String, u64)> {
        index.oldest().map(|(name, bytes)| (name.to_string(), bytes)).collect()
    }

    #[test]
    fn own_changes_need_no_list_and_those_of_others_do() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, mut index, start) = (folder.path(), Index::default(), Instant::now());
        write(directory, &name(1), 10);
        assert!(!index.is_right(directory));
        index.refresh(directory, start).unwrap();
        write(directory, &name(2), 20);
        assert!(!index.is_right(directory));
        index.add(directory, &name(2));
        index.set_right(directory);
        let later = start + Duration::from_secs(60);
        index.refresh(directory, later).unwrap();
        assert_eq!(index.listed.unwrap().at, start);
        assert_eq!(known(&index), truth(directory));
        // Another process.
        std::thread::sleep(Duration::from_millis(20));
        fs::remove_file(name(1).path(directory, Part::Log)).unwrap();
        index.refresh(directory, later).unwrap();
        assert_eq!(index.listed.unwrap().at, later);
        assert_eq!(known(&index), truth(directory));
        // Another process, too early after this one for the times of the file system.
        write(directory, &name(3), 30);
        index.set_right(directory);
        index.refresh(directory, later).unwrap();
        assert_ne!(known(&index), truth(directory));
        index.refresh(directory, later + LIST_AGAIN).unwrap();
        assert_eq!(known(&index), truth(directory));
    }

    #[test]
    fn however_many_pairs_there_are_it_knows_the_oldest_and_the_sizes_of_all() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, mut random) = (folder.path(), fastrand::Rng::with_seed(7));
        let mut index = Index::with_room(5);
        index.list(directory, Instant::now()).unwrap();
        for step in 0..400 {
            if random.u8(..) < 100 {
                index.remove_oldest(directory).unwrap();
            } else {
                // No two have the same.
                let name = name(random.usize(..200) * 400 + step);
                write(directory, &name, random.usize(..50));
                index.add(directory, &name);
            }
            if index.oldest.is_empty() || random.u8(..) < 10 {
                index.list(directory, Instant::now()).unwrap();
            }
            let (known, truth) = (known(&index), truth(directory));
            assert!(known.len() <= 5 && truth.starts_with(&known), "{step}: {known:?} {truth:?}");
            let rest: u64 = truth[known.len()..].iter().map(|(_, bytes)| bytes).sum();
            assert_eq!(index.younger().unwrap_or_default(), rest, "{step}");
        }
    }
}
