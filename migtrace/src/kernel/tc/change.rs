//! What happened to programs that were attached.

use std::io;

use crate::event::TcProgram;
use crate::units::MonotonicNs;
use crate::vocabulary::AttachMode;

/// A change to programs that were attached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Change {
    /// Index of the interface.
    pub(crate) interface: u32,
    pub(crate) what: TcProgram,
    pub(crate) mode: AttachMode,
    pub(crate) news: ChangeNews,
}

/// See [`Change`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ChangeNews {
    /// Somebody removed some of the programs, or removed programs are attached again.
    Removed {
        /// The last time at which all of them are known to have been attached.
        last_seen_ns: MonotonicNs,
        /// When all of them were attached again, or why they cannot be.
        again: Result<MonotonicNs, String>,
    },
    /// Somebody else's program runs before one of them and may keep packets from it.
    Behind,
}

/// Checks programs with `check`, and once more if some were removed and attached again.
///
/// Whoever removes several programs removes them one after the other, so the first check may fall between two of them. The
/// second one then finds what was removed after the first. If it fails, so will the next regular check, which reports it.
pub(super) fn check_until_repaired(
    mut check: impl FnMut() -> io::Result<Vec<Change>>,
) -> io::Result<Vec<Change>> {
    let mut changes = check()?;
    let is_repaired = |change: &Change| matches!(change.news, ChangeNews::Removed { again: Ok(_), .. });
    if changes.iter().any(is_repaired) {
        for later in check().unwrap_or_default() {
            changes.retain(|earlier| !later.is_same_removal(earlier));
            changes.push(later);
        }
    }
    Ok(changes)
}

impl Change {
    /// Whether this is the removal that an earlier change reported: no check in between has seen all programs.
    fn is_same_removal(&self, earlier: &Self) -> bool {
        let last_seen = |change: &Self| match change.news {
            ChangeNews::Removed { last_seen_ns, .. } => Some((change.interface, change.what, last_seen_ns)),
            ChangeNews::Behind => None,
        };
        last_seen(self).is_some() && last_seen(self) == last_seen(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(news: ChangeNews) -> Change {
        Change { interface: 7, what: TcProgram::Count, mode: AttachMode::Clsact, news }
    }

    fn removed(last_seen_ns: u64, again: Result<u64, &str>) -> Change {
        let again = again.map(MonotonicNs).map_err(str::to_owned);
        change(ChangeNews::Removed { last_seen_ns: MonotonicNs(last_seen_ns), again })
    }

    /// The changes that come of these checks, and how many checks were left over.
    fn after(checks: Vec<io::Result<Vec<Change>>>) -> (Vec<Change>, usize) {
        let mut checks = checks.into_iter();
        let changes = check_until_repaired(|| checks.next().expect("a check too many")).unwrap();
        (changes, checks.len())
    }

    #[test]
    fn a_program_that_is_removed_while_another_is_brought_back_belongs_to_the_same_removal() {
        for again in [Ok(3), Err("it is gone")] {
            let checks = vec![Ok(vec![removed(1, Ok(2))]), Ok(vec![removed(1, again)])];
            assert_eq!(after(checks), (vec![removed(1, again)], 0));
        }
    }

    #[test]
    fn the_removals_of_different_programs_stay_apart() {
        let echo = |change| Change { what: TcProgram::Echo, ..change };
        let elsewhere = |change| Change { interface: 8, ..change };
        let first = removed(1, Ok(2));
        for second in [echo(removed(1, Ok(3))), elsewhere(removed(1, Ok(3))), change(ChangeNews::Behind)] {
            let checks = vec![Ok(vec![first.clone()]), Ok(vec![second.clone()])];
            assert_eq!(after(checks), (vec![first.clone(), second], 0));
        }
    }

    #[test]
    fn without_a_repair_there_is_one_check() {
        for changes in [vec![], vec![change(ChangeNews::Behind)], vec![removed(1, Err("it is gone"))]] {
            assert_eq!(after(vec![Ok(changes.clone()), Ok(vec![])]), (changes, 1));
        }
    }

    #[test]
    fn a_second_check_that_fails_does_not_lose_what_the_first_has_found() {
        let first = removed(1, Ok(2));
        let checks = vec![Ok(vec![first.clone()]), Err(io::Error::other("no memory"))];
        assert_eq!(after(checks), (vec![first], 0));
    }
}
