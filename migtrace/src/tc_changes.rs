//! What a report says of TC programs that somebody else removed, or put behind others.

use std::io;

use crate::event::{Fact, TcRemoved};
use crate::kernel::{Change, ChangeNews};
use crate::vocabulary::{AttachMode, NotMeasured};

/// What is not measured when the kernel does not list the programs of an interface.
pub(crate) fn cannot_look(error: &io::Error) -> NotMeasured {
    NotMeasured {
        what: "whether somebody removes migtrace's TC programs".into(),
        why: format!("the kernel does not list what is attached: {error}"),
    }
}

/// Looks at the programs with `look`, and once more if some were removed and attached again.
///
/// A qdisc is deleted with its filters one after the other, so the first look may fall between two of them. The second one
/// then finds what was removed after the first. If it fails, so will the next regular look, which reports it.
pub(crate) fn look_until_repaired(
    mut look: impl FnMut() -> io::Result<Vec<Change>>,
) -> io::Result<Vec<Change>> {
    let mut changes = look()?;
    let is_repaired = |change: &Change| matches!(change.news, ChangeNews::Removed { again: Ok(_), .. });
    if changes.iter().any(is_repaired) {
        changes.extend(look().unwrap_or_default());
    }
    Ok(changes)
}

impl Change {
    /// The change as a fact; `interface` is the name of the interface.
    pub(crate) fn fact(self, interface: String) -> Fact {
        match self.news {
            ChangeNews::Removed { last_seen_ns, again } => {
                let (attached_again_ns, why) = match again {
                    Ok(at_ns) => (Some(at_ns), None),
                    Err(why) => (None, Some(why)),
                };
                let program = self.what;
                Fact::TcRemoved(TcRemoved { interface, program, last_seen_ns, attached_again_ns, why })
            }
            ChangeNews::Behind => Fact::NotMeasured(match self.mode {
                AttachMode::Tcx => NotMeasured {
                    what: format!("packets that other TCX programs at {interface} drop or accept"),
                    why: format!(
                        "somebody has attached one before migtrace's; see `bpftool net show dev {interface}`"
                    ),
                },
                AttachMode::Clsact => NotMeasured {
                    what: format!("packets that other filters at {interface} drop or accept"),
                    why: format!(
                        "a filter of somebody else runs before migtrace's; see `tc filter show dev {interface} \
                         ingress` and `egress`; TCX (Linux 6.6 and later) runs before all filters"
                    ),
                },
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::TcProgram;
    use crate::units::MonotonicNs;

    fn change(news: ChangeNews) -> Change {
        Change { interface: 7, what: TcProgram::Count, mode: AttachMode::Clsact, news }
    }

    fn removed(again: Result<MonotonicNs, String>) -> Change {
        change(ChangeNews::Removed { last_seen_ns: MonotonicNs(1), again })
    }

    /// The changes that come of these looks, and how many looks were left over.
    fn after(looks: Vec<io::Result<Vec<Change>>>) -> (Vec<Change>, usize) {
        let mut looks = looks.into_iter();
        let changes = look_until_repaired(|| looks.next().expect("a look too many")).unwrap();
        (changes, looks.len())
    }

    #[test]
    fn a_filter_that_is_removed_while_another_is_brought_back_is_brought_back_at_once() {
        let [first, second] = [2, 3].map(|ns| removed(Ok(MonotonicNs(ns))));
        let looks = vec![Ok(vec![first.clone()]), Ok(vec![second.clone()])];
        assert_eq!(after(looks), (vec![first, second], 0));
    }

    #[test]
    fn without_a_repair_there_is_one_look() {
        for changes in [vec![], vec![change(ChangeNews::Behind)], vec![removed(Err("it is gone".into()))]] {
            assert_eq!(after(vec![Ok(changes.clone()), Ok(vec![])]), (changes, 1));
        }
    }

    #[test]
    fn a_second_look_that_fails_does_not_lose_what_the_first_has_found() {
        let first = removed(Ok(MonotonicNs(2)));
        let looks = vec![Ok(vec![first.clone()]), Err(io::Error::other("no memory"))];
        assert_eq!(after(looks), (vec![first], 0));
    }
}
