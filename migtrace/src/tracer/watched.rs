//! What the tracer remembers of the flows that it told of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::event::{Fact, FlowCounters, Purpose};
use crate::kernel::FlowState;
use crate::units::{Counters, Directions, Flow, MonotonicNs};

#[derive(Debug)]
struct Known {
    /// Its first packet was told of. Something else may be known first: the counters are read at any instant, the
    /// messages of the kernel when their turn comes.
    told: bool,
    seen: Instant,
    owner: Option<u32>,
    owner_tries: u32,
    purpose: Option<Purpose>,
}

impl Default for Known {
    fn default() -> Self {
        Self { told: false, seen: Instant::now(), owner: None, owner_tries: 0, purpose: None }
    }
}

/// What was last told of a flow.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at_ns: MonotonicNs,
    counters: Directions<Counters>,
    closed: bool,
}

/// The flows seen so far.
#[derive(Debug, Default)]
pub(super) struct Watched {
    flows: BTreeMap<Flow, Known>,
    /// Connections that were open before the tracing and have not moved yet.
    expected: BTreeSet<Flow>,
    samples: BTreeMap<Flow, Sample>,
}

impl Watched {
    /// Notes a flow's packet; true for the first one.
    pub(super) fn see(&mut self, flow: Flow) -> bool {
        !std::mem::replace(&mut self.flows.entry(flow).or_default().told, true)
    }

    /// Notes an owner; true when it is news.
    pub(super) fn own(&mut self, flow: Flow, pid: u32) -> bool {
        let known = self.flows.entry(flow).or_default();
        known.owner.replace(pid) != Some(pid)
    }

    /// Notes a connection that is older than the tracing.
    pub(super) fn expect(&mut self, flow: Flow) {
        self.expected.insert(flow);
    }

    /// Whether a flow was open before the tracing.
    pub(super) fn is_expected(&self, flow: Flow) -> bool {
        self.expected.contains(&flow)
    }

    /// Notes what a flow carries; true when it is news. The first that says something is right: the answers of the
    /// other end begin with anything.
    pub(super) fn set_purpose(&mut self, flow: Flow, purpose: Purpose) -> bool {
        let known = self.flows.entry(flow).or_default();
        let news = known.purpose.is_none();
        known.purpose.get_or_insert(purpose);
        news
    }

    /// The flows whose owner should be looked up now.
    pub(super) fn ownerless(&mut self, patience: Duration, tries: u32) -> Vec<Flow> {
        let due = |known: &Known| {
            known.owner.is_none() && known.owner_tries < tries && known.seen.elapsed() >= patience
        };
        self.flows
            .iter_mut()
            .filter(|(_, known)| due(known))
            .map(|(flow, known)| {
                known.owner_tries += 1;
                *flow
            })
            .collect()
    }

    /// Whether a flow's owner is not known, and will be looked up again.
    pub(super) fn awaits_owner(&self, flow: Flow, tries: u32) -> bool {
        self.flows.get(&flow).is_some_and(|known| known.owner.is_none() && known.owner_tries < tries)
    }

    /// Whether every flow has its owner, or was looked up in vain often enough.
    pub(super) fn all_settled(&self, tries: u32) -> bool {
        self.flows.values().all(|known| known.owner.is_some() || known.owner_tries >= tries)
    }

    /// Whether a flow's counters should be told at `now`: they have moved, and the last time is long enough ago.
    /// That a flow was closed is told at once.
    pub(super) fn is_due(&mut self, state: &FlowState, now: MonotonicNs, every: Duration) -> bool {
        let sample = Sample { at_ns: now, counters: state.counters, closed: state.closed };
        let due = match self.samples.get(&state.flow) {
            None => state.counters.tx.skbs + state.counters.rx.skbs > 0,
            Some(last) if last.closed != sample.closed => true,
            Some(last) => {
                // A tick that comes a little early is no reason to wait for the next.
                let waited = Duration::from_nanos(now.0.saturating_sub(last.at_ns.0)) + every / 10;
                last.counters != sample.counters && waited >= every
            }
        };
        if due {
            self.samples.insert(state.flow, sample);
        }
        due
    }

    /// Makes every flow due, so that its final counters are told.
    pub(super) fn forget_samples(&mut self) {
        self.samples.clear();
    }
}

/// The fact that tells a flow's counters.
pub(super) fn counters(state: FlowState) -> Fact {
    if state.is_fragments() {
        return Fact::Fragments {
            local: state.flow.local.ip(),
            remote: state.flow.remote.ip(),
            counters: state.counters,
        };
    }
    Fact::FlowCounters(FlowCounters {
        flow: state.flow,
        counters: state.counters,
        first_ns: state.first_ns,
        last_ns: state.last_ns,
        last_byte_ns: state.last_byte_ns,
        retransmitted_segments: state.retransmitted.map(|sum| sum.segments),
        retransmitted_payload_bytes: state.retransmitted.map(|sum| sum.payload_bytes),
        elsewhere_skbs: state.elsewhere_skbs,
        closed: state.closed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_told_of_once_even_if_its_owner_was_known_before() {
        let flow =
            Flow { local: "10.0.0.1:40000".parse().unwrap(), remote: "10.0.0.2:49152".parse().unwrap() };
        let mut watched = Watched::default();
        assert!(watched.own(flow, 7));
        assert!(watched.see(flow));
        assert!(!watched.see(flow));
        assert!(!watched.own(flow, 7));
    }
}
