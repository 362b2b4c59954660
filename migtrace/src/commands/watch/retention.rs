//! Which pairs are removed when they are too old, or too many.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::cli::Keep;
use crate::commands::names::PairName;

/// A wall clock that was set forward by more than this is not believed at once: all pairs would be too old.
const BELIEVED: Duration = Duration::from_secs(3_600);
/// After this time it is.
const DOUBT: Duration = Duration::from_secs(86_400);

/// Removes pairs.
pub(super) struct Retention {
    keep: Keep,
    today: Today,
}

/// The files of a pair, and their size.
#[derive(Debug, Default)]
struct Files {
    paths: Vec<PathBuf>,
    bytes: u64,
}

impl Retention {
    pub(super) fn new(keep: Keep) -> Self {
        Self { keep, today: Today::default() }
    }

    /// Removes what is too old or too much. Returns how many pairs that was. The latest pair always stays.
    pub(super) fn apply(&mut self, directory: &Path, now_realtime_s: i64) -> Result<usize> {
        let now = self.today.now(now_realtime_s, Instant::now());
        let cannot = || format!("cannot remove old files of {}", directory.display());
        let pairs = pairs(directory).with_context(cannot)?;
        let sizes: Vec<_> = pairs.iter().map(|(name, files)| (name.start(), files.bytes)).collect();
        let too_old = too_many(&sizes, self.keep, now);
        for files in pairs.values().take(too_old) {
            for path in &files.paths {
                fs::remove_file(path).with_context(cannot)?;
            }
        }
        Ok(too_old)
    }
}

/// The pairs of a directory, in the order of their starts.
fn pairs(directory: &Path) -> std::io::Result<BTreeMap<PairName, Files>> {
    let mut pairs: BTreeMap<PairName, Files> = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some((name, _)) = entry.file_name().to_str().and_then(PairName::parse) else { continue };
        // It may be gone by now: the other host removes, too.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() {
            let files = pairs.entry(name).or_default();
            files.paths.push(entry.path());
            files.bytes += metadata.len();
        }
    }
    Ok(pairs)
}

/// How many of these pairs, the oldest first, are too old or too much. Each has a start and a size.
fn too_many(pairs: &[(Option<i64>, u64)], keep: Keep, now_s: i64) -> usize {
    let Some(latest) = pairs.len().checked_sub(1) else { return 0 };
    let is_old = |start: Option<i64>| {
        let age = start.and_then(|start| u64::try_from(now_s.saturating_sub(start)).ok());
        keep.age.is_some_and(|most| age.is_some_and(|age| age > most.as_secs()))
    };
    let old = pairs.iter().take_while(|(start, _)| is_old(*start)).count();
    let mut bytes: u64 = pairs.iter().skip(old).map(|(_, bytes)| bytes).sum();
    let mut count = old;
    while keep.bytes.is_some_and(|most| bytes > most) && count < latest {
        bytes -= pairs[count].1;
        count += 1;
    }
    count.min(latest)
}

/// The wall clock, as far as it can be believed.
#[derive(Debug, Default)]
struct Today {
    /// A time that is believed, and when it was.
    believed: Option<(i64, Instant)>,
    /// Since when the wall clock has been far ahead of that.
    doubted: Option<Instant>,
}

impl Today {
    fn now(&mut self, wall_s: i64, at: Instant) -> i64 {
        let Some((believed_s, since)) = self.believed else {
            self.believed = Some((wall_s, at));
            return wall_s;
        };
        let passed = i64::try_from(at.duration_since(since).as_secs()).unwrap_or(i64::MAX);
        let expected = believed_s.saturating_add(passed);
        if wall_s <= expected.saturating_add(BELIEVED.as_secs().cast_signed()) {
            self.doubted = None;
            self.believed = Some((wall_s, at));
            return wall_s;
        }
        let doubted = *self.doubted.get_or_insert(at);
        if at.duration_since(doubted) >= DOUBT {
            (self.believed, self.doubted) = (Some((wall_s, at)), None);
            return wall_s;
        }
        expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn the_oldest_go_first_and_the_latest_stays() {
        let pairs = [(Some(0), 5), (Some(10), 5), (Some(20), 5), (Some(30), 100)];
        let count = |age: Option<u64>, bytes: Option<u64>, now| {
            too_many(&pairs, Keep { age: age.map(Duration::from_secs), bytes }, now)
        };
        assert_eq!(count(Some(10), None, 20), 1);
        assert_eq!(count(Some(10), None, 1_000), 3);
        assert_eq!(count(None, Some(110), 1_000), 1);
        assert_eq!(count(None, Some(1), 1_000), 3);
        assert_eq!(count(Some(10), Some(105), 20), 2);
        assert_eq!(count(Some(10), None, -500), 0, "the clock was set back");
        assert_eq!(too_many(&[], Keep { age: None, bytes: Some(1) }, 0), 0);
    }

    #[test]
    fn a_clock_that_was_set_far_forward_is_believed_after_a_day() {
        let (mut today, start) = (Today::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(today.now(1_000, start), 1_000);
        assert_eq!(today.now(1_700, after(600)), 1_700, "it may be slewed");
        assert_eq!(today.now(900_000_000, after(700)), 1_800);
        assert_eq!(today.now(900_000_600, after(1_300)), 2_400);
        assert_eq!(today.now(3_000, after(1_900)), 3_000, "it was set right again");
        assert_eq!(today.now(900_000_000, after(2_000)), 3_100);
        assert_eq!(
            today.now(900_000_000 + DAY.cast_signed(), after(2_000 + DAY)),
            900_000_000 + DAY.cast_signed()
        );
    }

    #[test]
    fn only_files_that_migtrace_has_named_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let id = "6f1c2a34-8a51-5a0f-9d6c-0c2b6f1f2d11";
        let pair = |day: u32| format!("202611{day:02}T000000.000Z-{id}-source");
        let others = ["notes.json", "20261101T000000.000Z-7-1-host_a.jsonl.partial", ".migtrace-host_a.lock"];
        others.iter().for_each(|name| fs::write(folder.path().join(name), "x").unwrap());
        for day in 1..=3 {
            for extension in ["json", "jsonl"] {
                fs::write(folder.path().join(format!("{}.{extension}", pair(day))), "x").unwrap();
            }
        }
        let keep = Keep { age: Some(Duration::from_secs(3_600)), bytes: None };
        assert_eq!(Retention::new(keep).apply(folder.path(), 1_900_000_000).unwrap(), 2);
        let mut left = migtrace::files::names(folder.path()).unwrap();
        left.retain(|name| !others.contains(&name.as_str()));
        assert_eq!(left, [format!("{}.json", pair(3)), format!("{}.jsonl", pair(3))]);
    }
}
