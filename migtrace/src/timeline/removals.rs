//! The times in which the recording's TC programs were not attached.

use std::collections::BTreeMap;

use super::wording::spoken;
use crate::event::{TcProgram, TcRemoved};
use crate::units::MonotonicNs;
use crate::vocabulary::NotMeasured;

/// What was removed, by when it was last seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Removals(BTreeMap<(MonotonicNs, String, TcProgram), TcRemoved>);

impl Removals {
    /// Takes in that something was removed, or that it is attached again.
    pub(super) fn push(&mut self, removed: &TcRemoved) {
        let key = (removed.last_seen_ns, removed.interface.clone(), removed.program);
        self.0.insert(key, removed.clone());
    }

    /// What was missing at some time between two instants.
    pub(super) fn between(&self, start: MonotonicNs, end: MonotonicNs) -> impl Iterator<Item = &TcRemoved> {
        let latest = (end.max(start), String::from(char::MAX), TcProgram::Echo);
        let begun = self.0.range(..=latest).map(|(_, removed)| removed);
        begun.filter(move |removed| removed.attached_again_ns.is_none_or(|again| again >= start))
    }
}

/// A removal in words. The times in it count from `start`, which is the start of `what`.
pub(crate) fn described(removed: &TcRemoved, start: MonotonicNs, what: &str) -> NotMeasured {
    let interface = &removed.interface;
    let (seen, missing) = match removed.program {
        TcProgram::Count => (
            format!("packets at {interface}"),
            "what crossed meanwhile is not counted, and the bytes are a lower bound",
        ),
        TcProgram::Guest => (
            format!("the guest's frames on its tap {interface}"),
            "the guest's frames of that time were not seen",
        ),
        TcProgram::Echo => (
            format!("echo requests and replies at {interface}"),
            "gaps found in that time may be false, and others may be missing",
        ),
    };
    let after = |at: MonotonicNs| match at.0.checked_sub(start.0) {
        Some(after_ns) => format!("{} after the start of {what}", spoken(after_ns)),
        None => format!("{} before the start of {what}", spoken(start.0 - at.0)),
    };
    let last_seen = after(removed.last_seen_ns);
    let (until, again) = match removed.attached_again_ns {
        Some(at) => ("for a time", format!("attached again {}", after(at))),
        None => {
            let why = removed.why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
            ("since they were removed", format!("could not be attached again{why}"))
        }
    };
    NotMeasured {
        what: format!("{seen} {until}"),
        why: format!(
            "somebody removed migtrace's TC programs there: they were last seen {last_seen} and {again}; {missing}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removed(last_seen_ns: u64, attached_again_ns: Option<u64>) -> TcRemoved {
        TcRemoved {
            interface: "br0".into(),
            program: TcProgram::Count,
            last_seen_ns: MonotonicNs(last_seen_ns),
            attached_again_ns: attached_again_ns.map(MonotonicNs),
            why: attached_again_ns.is_none().then(|| "no clsact".into()),
        }
    }

    #[test]
    fn a_removal_concerns_every_time_that_it_overlaps() {
        let mut removals = Removals::default();
        removals.push(&removed(10, Some(20)));
        removals.push(&removed(30, None));
        let between = |removals: &Removals, start, end| -> Vec<u64> {
            let found = removals.between(MonotonicNs(start), MonotonicNs(end));
            found.map(|removed| removed.last_seen_ns.0).collect()
        };
        assert!(between(&removals, 0, 9).is_empty());
        assert_eq!(between(&removals, 0, 10), [10]);
        assert_eq!(between(&removals, 20, 29), [10]);
        assert!(between(&removals, 21, 29).is_empty());
        assert_eq!(between(&removals, 15, 30), [10, 30]);
        assert_eq!(between(&removals, 90, 99), [30]);
        // Reported again, once the programs are attached again.
        removals.push(&removed(30, Some(40)));
        assert!(between(&removals, 90, 99).is_empty());
        assert_eq!(between(&removals, 35, 99), [30]);
    }

    #[test]
    fn the_description_says_when_the_programs_were_last_seen_and_what_that_means() {
        let start = MonotonicNs(1_000_000_000);
        let again = described(&removed(2_250_000_000, Some(3_000_000_000)), start, "the migration");
        assert_eq!(again.what, "packets at br0 for a time");
        assert_eq!(
            again.why,
            "somebody removed migtrace's TC programs there: they were last seen 1.250 s after the start of the \
             migration and attached again 2.000 s after the start of the migration; what crossed meanwhile is \
             not counted, and the bytes are a lower bound"
        );
        let gone = described(&removed(500_000_000, None), start, "the migration");
        assert_eq!(gone.what, "packets at br0 since they were removed");
        assert!(gone.why.contains("last seen 500.000 ms before the start of the migration and could not"));
        assert!(gone.why.contains("attached again (no clsact); "), "{}", gone.why);
    }
}
