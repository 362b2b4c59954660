//! What flows had carried before they were tied to a process. The counters read with QEMU's events lack it.

use crate::event::Crossed;
use crate::units::{Counters, Directions, MonotonicNs};

/// A time in which nothing crossed, and what had crossed before.
#[derive(Clone, Copy, Debug)]
struct Lull {
    from: MonotonicNs,
    until: MonotonicNs,
    crossed: Directions<Counters>,
}

impl Lull {
    const fn has_payload(&self) -> bool {
        self.crossed.tx.payload_bytes > 0 || self.crossed.rx.payload_bytes > 0
    }
}

/// The lulls of a flow before its owner was known. Most flows have one: after the handshake, before the process first
/// sends.
#[derive(Clone, Debug, Default)]
pub(super) struct Untied(Vec<Lull>);

impl Untied {
    /// The same, with what had crossed before all that.
    pub(super) fn with(mut self, before: Directions<Counters>) -> Self {
        self.0.iter_mut().for_each(|lull| lull.crossed += before);
        self
    }

    /// Notes what had crossed at `at`: nothing has crossed since the last packet of that.
    pub(super) fn push(&mut self, at: MonotonicNs, crossed: Crossed) {
        let lull = Lull { from: crossed.last_ns, until: at, crossed: crossed.counters };
        // The stream of a process that is never found would add a lull with every count.
        match self.0.last_mut() {
            Some(last) if last.has_payload() => *last = lull,
            _ => self.0.push(lull),
        }
    }
}

/// A flow that was tied to its process only after its first packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct TiedLate<'a> {
    pub(super) first: MonotonicNs,
    pub(super) tied: MonotonicNs,
    pub(super) untied: &'a Untied,
}

/// What the flows of a migration that were not tied yet had carried together, at any instant.
#[derive(Debug)]
pub(super) struct UntiedSum {
    /// In the order of the instants from which they hold.
    states: Vec<(MonotonicNs, State)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Flows that are not tied.
    untied: usize,
    /// How many of these flows have a known count.
    known: usize,
    /// The sum of the known counts.
    crossed: Directions<Counters>,
}

impl UntiedSum {
    pub(super) fn of<'a>(flows: impl Iterator<Item = TiedLate<'a>>) -> Self {
        let mut changes = Vec::new();
        flows.for_each(|flow| flow.changes(&mut changes));
        changes.sort_by_key(|(at, _)| *at);
        let mut state = State::default();
        let mut states: Vec<(MonotonicNs, State)> = Vec::with_capacity(changes.len());
        for (at, change) in changes {
            change.apply(&mut state);
            match states.last_mut() {
                Some((last, of_last)) if *last == at => *of_last = state,
                _ => states.push((at, state)),
            }
        }
        Self { states }
    }

    /// None when the count of a flow is not known.
    pub(super) fn at(&self, at: MonotonicNs) -> Option<Directions<Counters>> {
        let begun = self.states.partition_point(|(from, _)| *from <= at);
        let Some(last) = begun.checked_sub(1) else { return Some(Directions::default()) };
        let State { untied, known, crossed } = self.states[last].1;
        (untied == known).then_some(crossed)
    }
}

/// What changes at an instant.
#[derive(Clone, Copy, Debug)]
enum Change {
    Begun,
    Known(Directions<Counters>),
    Unknown(Directions<Counters>),
    Tied,
}

impl Change {
    fn apply(self, state: &mut State) {
        match self {
            Self::Begun => state.untied += 1,
            Self::Known(crossed) => {
                state.known += 1;
                state.crossed += crossed;
            }
            Self::Unknown(crossed) => {
                state.known -= 1;
                state.crossed = state.crossed.since(&crossed);
            }
            Self::Tied => state.untied -= 1,
        }
    }
}

impl TiedLate<'_> {
    /// In the order in which changes of the same instant are to be applied.
    fn changes(self, changes: &mut Vec<(MonotonicNs, Change)>) {
        // Snapshots lack the flow from just after its first packet.
        let mut from = after(self.first);
        if from >= self.tied {
            return;
        }
        changes.push((from, Change::Begun));
        let mut lulls = self.untied.0.clone();
        lulls.sort_by_key(|lull| lull.until);
        for lull in lulls {
            let begin = from.max(lull.from);
            let end = after(lull.until).min(self.tied);
            if begin < end {
                changes.push((begin, Change::Known(lull.crossed)));
                changes.push((end, Change::Unknown(lull.crossed)));
                from = end;
            }
        }
        changes.push((self.tied, Change::Tied));
    }
}

const fn after(at: MonotonicNs) -> MonotonicNs {
    MonotonicNs(at.0.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(segments: u64, payload_bytes: u64) -> Directions<Counters> {
        let tx = Counters { payload_bytes, segments, ..Counters::default() };
        Directions { tx, rx: Counters::default() }
    }

    /// Counted as (the last packet, when it was counted, segments, payload).
    fn untied(counted: &[(u64, u64, u64, u64)]) -> Untied {
        let mut untied = Untied::default();
        for (last, at, segments, payload) in counted {
            let crossed = Crossed { counters: count(*segments, *payload), last_ns: MonotonicNs(*last) };
            untied.push(MonotonicNs(*at), crossed);
        }
        untied
    }

    #[test]
    fn what_crossed_is_known_between_the_last_packet_and_the_count() {
        let handshakes = untied(&[(12, 20, 2, 0), (25, 30, 3, 0)]);
        let streams = untied(&[(15, 18, 1, 0), (22, 24, 5, 100), (26, 40, 9, 200)]);
        let flow =
            |first, tied, untied| TiedLate { first: MonotonicNs(first), tied: MonotonicNs(tied), untied };
        let sum = UntiedSum::of([flow(10, 30, &handshakes), flow(14, 35, &streams)].into_iter());
        let at = |at| sum.at(MonotonicNs(at)).map(|crossed| crossed.tx.segments);
        let expected = [
            (10, Some(0)), // Nothing before it.
            (11, None),
            (12, Some(2)),
            (14, Some(2)),
            (15, Some(3)),
            (18, Some(3)),
            (19, None),
            (25, None),
            (26, Some(12)),
            (29, Some(12)),
            (30, Some(9)), // The first is tied.
            (34, Some(9)),
            (35, Some(0)),
            (99, Some(0)),
        ];
        for (instant, segments) in expected {
            assert_eq!(at(instant), segments, "at {instant}");
        }
    }
}
