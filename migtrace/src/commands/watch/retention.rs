//! Which pairs are removed when they are too old, or too many.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::index::Index;
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
    index: Index,
}

impl Retention {
    pub(super) fn new(keep: Keep) -> Self {
        Self { keep, today: Today::default(), index: Index::default() }
    }

    /// The pairs of the directory.
    pub(super) const fn index(&mut self) -> &mut Index {
        &mut self.index
    }

    /// Removes what is too old or too much. Returns how many pairs that was. The latest pair always stays.
    pub(super) fn apply(&mut self, directory: &Path, now_realtime_s: i64) -> Result<usize> {
        let now_s = self.today.now(now_realtime_s, Instant::now());
        self.remove(directory, now_s)
            .with_context(|| format!("cannot remove old files of {}", directory.display()))
    }

    fn remove(&mut self, directory: &Path, now_s: i64) -> io::Result<usize> {
        let mut removed = 0;
        self.index.refresh(directory, Instant::now())?;
        loop {
            let oldest: Vec<_> = self.index.oldest().collect();
            let known = oldest.len();
            let start = |name: &&PairName| name.start();
            let count = too_many(&oldest, start, self.index.younger(), self.keep, now_s);
            for _ in 0..count {
                removed += usize::from(self.index.remove_oldest(directory)?);
            }
            if count > 0 {
                self.index.set_right(directory);
            }
            if count < known || self.index.younger().is_none() {
                return Ok(removed);
            }
            self.index.list(directory, Instant::now())?;
        }
    }
}

/// How many of the oldest pairs are too old or too much. Each has a size, and those that are younger have one together.
fn too_many<T>(
    oldest: &[(T, u64)],
    start: impl Fn(&T) -> Option<i64>,
    younger: Option<u64>,
    keep: Keep,
    now_s: i64,
) -> usize {
    let most = if younger.is_some() { oldest.len() } else { oldest.len().saturating_sub(1) };
    let is_old = |pair: &T| {
        let age = start(pair).and_then(|start| u64::try_from(now_s.saturating_sub(start)).ok());
        keep.age.is_some_and(|most| age.is_some_and(|age| age > most.as_secs()))
    };
    let mut count = oldest.iter().take(most).take_while(|(pair, _)| is_old(pair)).count();
    let rest = oldest.iter().skip(count).map(|(_, bytes)| bytes).sum::<u64>();
    let mut bytes = rest + younger.unwrap_or_default();
    while keep.bytes.is_some_and(|most| bytes > most) && count < most {
        bytes -= oldest[count].1;
        count += 1;
    }
    count
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
    use std::fs;

    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn the_oldest_go_first_and_the_latest_stays() {
        let pairs = [(Some(0), 5), (Some(10), 5), (Some(20), 5), (Some(30), 100)];
        let count = |age: Option<u64>, bytes: Option<u64>, now| {
            let keep = Keep { age: age.map(Duration::from_secs), bytes };
            too_many(&pairs, |start| *start, None, keep, now)
        };
        assert_eq!(count(Some(10), None, 20), 1);
        assert_eq!(count(Some(10), None, 1_000), 3);
        assert_eq!(count(None, Some(110), 1_000), 1);
        assert_eq!(count(None, Some(1), 1_000), 3);
        assert_eq!(count(Some(10), Some(105), 20), 2);
        assert_eq!(count(Some(10), None, -500), 0, "the clock was set back");
        let keep = Keep { age: None, bytes: Some(1) };
        assert_eq!(too_many(&[], |start: &Option<i64>| *start, None, keep, 0), 0);
        // Where there are younger ones, none of these is the latest.
        assert_eq!(too_many(&pairs, |start| *start, Some(0), keep, 0), 4);
        let keep = Keep { age: None, bytes: Some(150) };
        assert_eq!(too_many(&pairs, |start| *start, Some(45), keep, 0), 2);
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

    #[test]
    fn as_many_are_removed_as_there_are_too_many_though_only_some_are_known_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let pair =
            |day: u32| format!("202611{day:02}T000000.000Z-6f1c2a34-8a51-5a0f-9d6c-0c2b6f1f2d11-source");
        for day in 1..=30 {
            for extension in ["json", "jsonl"] {
                fs::write(folder.path().join(format!("{}.{extension}", pair(day))), "12345").unwrap();
            }
        }
        let mut retention = Retention::new(Keep { age: None, bytes: Some(65) });
        retention.index = Index::with_room(4);
        assert_eq!(retention.apply(folder.path(), 0).unwrap(), 24);
        let left: Vec<_> = (25..=30).flat_map(|day| [".json", ".jsonl"].map(|end| pair(day) + end)).collect();
        assert_eq!(migtrace::files::names(folder.path()).unwrap(), left);
        assert_eq!(retention.apply(folder.path(), 0).unwrap(), 0);
        // Another process removes the oldest: it is not counted, and nothing else goes for it.
        left[..2].iter().for_each(|name| fs::remove_file(folder.path().join(name)).unwrap());
        retention.keep.bytes = Some(55);
        assert_eq!(retention.apply(folder.path(), 0).unwrap(), 0);
        assert_eq!(migtrace::files::names(folder.path()).unwrap(), left[2..]);
    }
}
