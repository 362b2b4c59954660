//! What the tracer knows of the flows that are in the table.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::event::{Crossed, Fact, FlowCounters, OwnerMethod};
use crate::kernel::{FlowId, FlowState};
use crate::units::{Counters, Directions, Flow, MonotonicNs};
use crate::vocabulary::Purpose;

/// One of the connections that its two ends have had, or the fragments between two hosts.
#[derive(Debug)]
pub(super) struct KnownFlow {
    pub(super) opened_ns: MonotonicNs,
    /// Its first packet was reported. Something else may be known before: a connection that is older than the tracing has
    /// an owner before a packet of it is seen.
    pub(super) reported: bool,
    since: Instant,
    pub(super) owner: Option<Owner>,
    pub(super) owner_tries: u32,
    /// Its owner is no longer looked for.
    pub(super) settled: bool,
    pub(super) purpose: Option<Purpose>,
    sample: Option<Sample>,
    /// When the kernel was last asked whether there is a socket for it.
    pub(super) looked_for_socket: Option<Instant>,
}

/// Whose a flow is, and since when that is known.
#[derive(Clone, Copy, Debug)]
pub(in crate::tracer) struct Owner {
    pub(in crate::tracer) at_ns: MonotonicNs,
    pub(in crate::tracer) pid: u32,
    pub(in crate::tracer) method: OwnerMethod,
    pub(in crate::tracer) crossed: Option<Crossed>,
}

impl Owner {
    pub(super) const fn of(self, flow: Flow) -> Fact {
        let Self { pid, method, crossed, .. } = self;
        Fact::FlowOwner { flow, pid, method, crossed }
    }
}

/// What was last reported of a flow.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at_ns: MonotonicNs,
    counters: Directions<Counters>,
    closed: bool,
}

impl KnownFlow {
    fn new(opened_ns: MonotonicNs) -> Self {
        Self {
            opened_ns,
            reported: false,
            since: Instant::now(),
            owner: None,
            owner_tries: 0,
            settled: false,
            purpose: None,
            sample: None,
            looked_for_socket: None,
        }
    }

    /// Whether its counters should be reported at `now`: they have moved, and the last report is long enough ago. That
    /// it was closed is reported at once.
    pub(super) fn is_due(&mut self, state: &FlowState, now: MonotonicNs, every: Duration) -> bool {
        let sample = Sample { at_ns: now, counters: state.counters, closed: state.closed };
        let due = match self.sample {
            None => state.counters.tx.skbs + state.counters.rx.skbs > 0,
            Some(last) if last.closed != sample.closed => true,
            Some(last) => {
                // A tick that comes a little early counts.
                let waited = Duration::from_nanos(now.0.saturating_sub(last.at_ns.0)) + every / 10;
                last.counters != sample.counters && waited >= every
            }
        };
        if due {
            self.sample = Some(sample);
        }
        due
    }

    /// Whether its owner is not known, and will be looked up again.
    pub(super) const fn awaits_owner(&self, tries: u32) -> bool {
        self.owner.is_none() && self.owner_tries < tries
    }
}

/// How a flow relates to what is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Found {
    /// It is known now.
    Known,
    /// It is known now, and another one between the same ends is over. That one was reported, but not its end.
    InPlaceOfAnother,
    /// It is over: this report of it comes late.
    Over,
}

/// The flows of the table.
#[derive(Debug, Default)]
pub(super) struct KnownFlows {
    known: BTreeMap<Flow, KnownFlow>,
    /// The connections that have made room for the next one between their ends, for as long as a reading of the table may
    /// still show them: a reading that began before is looked at only afterwards.
    replaced: BTreeMap<Flow, MonotonicNs>,
}

impl KnownFlows {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Makes a flow known, unless it is over.
    pub(super) fn find(&mut self, FlowId { flow, opened_ns }: FlowId) -> Found {
        if self.replaced.get(&flow).is_some_and(|replaced| opened_ns <= *replaced) {
            return Found::Over;
        }
        let known = self.known.entry(flow).or_insert_with(|| KnownFlow::new(opened_ns));
        if known.opened_ns == opened_ns {
            return Found::Known;
        }
        if known.opened_ns > opened_ns {
            return Found::Over;
        }
        let was_reported = known.reported;
        *known = KnownFlow::new(opened_ns);
        if was_reported { Found::InPlaceOfAnother } else { Found::Known }
    }

    /// Whether one of the connections is known that these ends have had.
    pub(super) fn has(&self, flow: &Flow) -> bool {
        self.known.contains_key(flow)
    }

    /// Whether the one that these ends have now was reported.
    pub(super) fn is_reported(&self, flow: &Flow) -> bool {
        self.known.get(flow).is_some_and(|known| known.reported)
    }

    /// What is known of a flow.
    pub(super) fn get(&self, FlowId { flow, opened_ns }: FlowId) -> Option<&KnownFlow> {
        self.known.get(&flow).filter(|known| known.opened_ns == opened_ns)
    }

    /// Likewise.
    pub(super) fn get_mut(&mut self, FlowId { flow, opened_ns }: FlowId) -> Option<&mut KnownFlow> {
        self.known.get_mut(&flow).filter(|known| known.opened_ns == opened_ns)
    }

    /// Forgets a flow. Returns whether it was known.
    pub(super) fn forget(&mut self, id: FlowId) -> bool {
        self.get(id).is_some() && self.known.remove(&id.flow).is_some()
    }

    /// This flow has made room for the next one between its ends. Whatever still comes of it comes late.
    pub(super) fn remember_replaced(&mut self, FlowId { flow, opened_ns }: FlowId) {
        self.replaced.insert(flow, opened_ns);
    }

    /// Forgets the replaced flows that the table no longer shows.
    pub(super) fn forget_replaced(&mut self, is_shown: impl Fn(FlowId) -> bool) {
        self.replaced.retain(|flow, opened_ns| is_shown(FlowId { flow: *flow, opened_ns: *opened_ns }));
    }

    /// The flows, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowId, &KnownFlow)> {
        self.known.iter().map(|(flow, known)| (FlowId { flow: *flow, opened_ns: known.opened_ns }, known))
    }

    /// The connections whose owner should be looked up now.
    pub(super) fn ownerless(&mut self, patience: Duration, tries: u32) -> Vec<Flow> {
        let due = |known: &KnownFlow| known.awaits_owner(tries) && known.since.elapsed() >= patience;
        self.known
            .iter_mut()
            .filter(|(flow, known)| flow.local.port() != 0 && due(known))
            .map(|(flow, known)| {
                known.owner_tries += 1;
                *flow
            })
            .collect()
    }

    /// The connections that were looked up in vain often enough, each once.
    pub(super) fn given_up(&mut self, tries: u32) -> Vec<FlowId> {
        let due = |known: &KnownFlow| known.owner.is_none() && known.owner_tries >= tries && !known.settled;
        self.known
            .iter_mut()
            .filter(|(_, known)| due(known))
            .map(|(flow, known)| {
                known.settled = true;
                FlowId { flow: *flow, opened_ns: known.opened_ns }
            })
            .collect()
    }

    /// Makes every flow due.
    pub(super) fn forget_samples(&mut self) {
        self.known.values_mut().for_each(|known| known.sample = None);
    }
}

/// A flow's counters as a fact; `None` while it has had no packet.
pub(super) fn counters(state: &FlowState) -> Option<Fact> {
    if state.is_fragments() {
        return Some(Fact::Fragments {
            local: state.flow.local.ip(),
            remote: state.flow.remote.ip(),
            counters: state.counters,
        });
    }
    Some(Fact::FlowCounters(FlowCounters {
        flow: state.flow,
        counters: state.counters,
        first_ns: state.first?.at_ns,
        last_ns: state.last_ns,
        last_byte_ns: state.last_byte_ns,
        retransmitted_segments: state.retransmitted.map(|sum| sum.segments),
        retransmitted_payload_bytes: state.retransmitted.map(|sum| sum.payload_bytes),
        elsewhere_skbs: state.elsewhere_skbs,
        closed: state.closed,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow { local: "10.0.0.1:40000".parse().unwrap(), remote: "10.0.0.2:49152".parse().unwrap() }
    }

    fn id(opened_ns: u64) -> FlowId {
        FlowId { flow: flow(), opened_ns: MonotonicNs(opened_ns) }
    }

    #[test]
    fn a_later_connection_between_the_same_ends_is_another() {
        let mut flows = KnownFlows::default();
        assert_eq!(flows.find(id(5)), Found::Known);
        flows.get_mut(id(5)).expect("it is known").reported = true;
        assert_eq!(flows.find(id(5)), Found::Known);
        assert_eq!(flows.find(id(9)), Found::InPlaceOfAnother);
        assert!(!flows.get(id(9)).expect("it is known").reported);
        assert_eq!(flows.find(id(5)), Found::Over);
        assert!(!flows.forget(id(5)) && flows.forget(id(9)) && flows.is_empty());
    }

    #[test]
    fn a_reading_of_the_table_from_before_a_replacement_does_not_bring_the_replaced_flow_back() {
        let mut flows = KnownFlows::default();
        assert_eq!(flows.find(id(5)), Found::Known);
        assert!(flows.forget(id(5)));
        flows.remember_replaced(id(5));
        assert_eq!(flows.find(id(5)), Found::Over);
        flows.forget_replaced(|id| id.opened_ns.0 == 5);
        assert_eq!(flows.find(id(5)), Found::Over, "the next reading may show it too");
        assert!(flows.is_empty());
        assert_eq!(flows.find(id(9)), Found::Known);
        flows.forget_replaced(|id| id.opened_ns.0 == 9);
        assert!(flows.replaced.is_empty());
        assert_eq!(flows.find(id(5)), Found::Over, "the next one is known");
    }
}
