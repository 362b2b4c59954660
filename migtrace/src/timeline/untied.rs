//! What flows had carried before they were tied to a process: the counters that are read with QEMU's events lack it.

use crate::event::Crossed;
use crate::units::{Counters, Directions, MonotonicNs};

/// A time in which nothing crossed, and what had crossed before.
#[derive(Clone, Copy, Debug)]
struct Pause {
    from: MonotonicNs,
    until: MonotonicNs,
    crossed: Directions<Counters>,
}

impl Pause {
    const fn has_payload(&self) -> bool {
        self.crossed.tx.payload_bytes > 0 || self.crossed.rx.payload_bytes > 0
    }
}

/// The pauses of a flow before its owner was known. Most flows have one: after their handshake and before their
/// process sends for the first time.
#[derive(Clone, Debug, Default)]
pub(super) struct Untied(Vec<Pause>);

impl Untied {
    /// Notes what had crossed at `at`: since the last packet of that, nothing has.
    pub(super) fn push(&mut self, at: MonotonicNs, crossed: Crossed) {
        let pause = Pause { from: crossed.last_ns, until: at, crossed: crossed.counters };
        // The stream of a process that is never found is counted for as long as it lasts.
        match self.0.last_mut() {
            Some(last) if last.has_payload() => *last = pause,
            _ => self.0.push(pause),
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

/// What the flows of a migration had carried together that were not tied yet, at any instant.
#[derive(Debug)]
pub(super) struct UntiedSum {
    /// In the order of the instants from which each holds.
    states: Vec<(MonotonicNs, State)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Flows that are not tied.
    untied: usize,
    /// Of these, those of which is known what they have carried.
    known: usize,
    /// The sum of that.
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

    /// None when it is not known of a flow.
    pub(super) fn at(&self, at: MonotonicNs) -> Option<Directions<Counters>> {
        let begun = self.states.partition_point(|(from, _)| *from <= at);
        let Some(last) = begun.checked_sub(1) else { return Some(Directions::default()) };
        let State { untied, known, crossed } = self.states[last].1;
        (untied == known).then_some(crossed)
    }
}

/// What is other from an instant on.
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
    /// In the order in which those of one instant are to be applied.
    fn changes(self, changes: &mut Vec<(MonotonicNs, Change)>) {
        // What its snapshots lack begins after the first packet.
        let mut from = after(self.first);
        if from >= self.tied {
            return;
        }
        changes.push((from, Change::Begun));
        let mut pauses = self.untied.0.clone();
        pauses.sort_by_key(|pause| pause.until);
        for pause in pauses {
            let begin = from.max(pause.from);
            let end = after(pause.until).min(self.tied);
            if begin < end {
                changes.push((begin, Change::Known(pause.crossed)));
                changes.push((end, Change::Unknown(pause.crossed)));
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
