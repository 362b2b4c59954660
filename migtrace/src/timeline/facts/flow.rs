//! What is known of a TCP connection.

use super::samples::Samples;
use crate::event::{CarriedBefore, Crossed, Crossing, FlowCounters};
use crate::record::Role;
use crate::timeline::direction::dominant_role;
use crate::timeline::untied::Untied;
use crate::units::{Counters, Directions, Flow, MonotonicNs};
use crate::vocabulary::Purpose;

/// A TCP connection.
#[derive(Clone, Debug)]
pub(crate) struct FlowFacts {
    /// Its place in [`super::Facts::flows`].
    pub(crate) index: usize,
    pub(crate) flow: Flow,
    pub(crate) interface: String,
    pub(crate) seen_at: MonotonicNs,
    /// Its first packet was counted.
    counted_from_start: bool,
    /// What it had carried before it was counted, if it opened while nothing was counted.
    pub(crate) carried_before: Option<CarriedBefore>,
    /// The sequence numbers of both SYNs.
    pub(crate) initial_sequences: Option<Directions<u32>>,
    /// When its milestones were crossed, in the order of arrival.
    pub(crate) crossings: Vec<Crossing>,
    pub(crate) owner: Option<Owner>,
    pub(crate) purpose: Purpose,
    /// Wire bytes each time the flow was counted, without those before.
    samples: Samples,
    /// When it was last counted; none: it never was.
    pub(crate) counted_until: Option<MonotonicNs>,
    /// When it was first counted with payload.
    pub(crate) payload_by: Option<MonotonicNs>,
    /// When its counting ended: later sums over the flows of its process lack it.
    pub(crate) gone: Option<MonotonicNs>,
    /// What had crossed before its owner was known, without what it had carried before.
    untied: Untied,
    /// Everything that its counters have shown, in whatever order they came.
    counted: Option<FlowCounters>,
    /// The same, with what it had carried before.
    pub(crate) last: Option<FlowCounters>,
}

/// Whose flow it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    /// Index into [`super::Facts::processes`].
    pub(crate) process: usize,
    pub(crate) at: MonotonicNs,
}

/// What decides to which migration a flow belongs, and what that migration is doing.
#[derive(Eq, PartialEq)]
pub(super) struct FlowState {
    closed: bool,
    has_payload: bool,
    role: Option<Role>,
    first: MonotonicNs,
    last: Option<MonotonicNs>,
}

impl FlowFacts {
    pub(super) fn new(index: usize, flow: Flow, seen_at: MonotonicNs) -> Self {
        Self {
            index,
            flow,
            interface: String::new(),
            seen_at,
            counted_from_start: true,
            carried_before: None,
            initial_sequences: None,
            crossings: Vec::new(),
            owner: None,
            purpose: Purpose::Unknown,
            samples: Samples::default(),
            counted_until: None,
            payload_by: None,
            gone: None,
            untied: Untied::default(),
            counted: None,
            last: None,
        }
    }

    pub(super) const fn begins(&mut self, is_counted_from_start: bool) {
        self.counted_from_start = is_counted_from_start;
    }

    /// Whether all that it has carried is known.
    pub(crate) fn is_whole(&self) -> bool {
        self.counted_from_start
            || self.carried_before.as_ref().is_some_and(|carried| carried.at_most.is_none())
    }

    /// What it had carried before it was counted: the sums that come with events of its process lack it.
    pub(crate) fn before(&self) -> Directions<Counters> {
        self.carried_before.as_ref().map(|carried| carried.counters).unwrap_or_default()
    }

    /// What was counted of it: the sums that come with events of its process include it.
    pub(crate) fn counted(&self) -> Directions<Counters> {
        self.counted.as_ref().map(|counted| counted.counters).unwrap_or_default()
    }

    /// Wire bytes each time the flow was counted.
    pub(crate) fn samples(&self) -> impl Iterator<Item = (MonotonicNs, Directions<u64>)> {
        let before = self.before().map(|counters| counters.wire_bytes);
        self.samples.iter().map(move |(at, counted)| {
            let wire_bytes = Directions {
                tx: counted.tx.saturating_add(before.tx),
                rx: counted.rx.saturating_add(before.rx),
            };
            (at, wire_bytes)
        })
    }

    /// What had crossed before its owner was known.
    pub(crate) fn untied(&self) -> Untied {
        self.untied.clone().with(self.before())
    }

    pub(super) fn push_crossed(&mut self, at: MonotonicNs, crossed: Crossed) {
        self.untied.push(at, crossed);
    }

    pub(super) fn push_carried_before(&mut self, carried: &CarriedBefore) {
        self.carried_before = Some(carried.clone());
        self.add_up();
    }

    /// Adds up what was counted and what it had carried before.
    fn add_up(&mut self) {
        self.last.clone_from(&self.counted);
        let (Some(last), Some(before)) = (&mut self.last, &self.carried_before) else { return };
        last.counters += before.counters;
        last.first_ns = last.first_ns.min(before.began_ns);
        let sum = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
        last.retransmitted_segments = sum(last.retransmitted_segments, before.retransmitted_segments);
        last.retransmitted_payload_bytes =
            sum(last.retransmitted_payload_bytes, before.retransmitted_payload_bytes);
    }

    pub(crate) fn first(&self) -> MonotonicNs {
        self.last.as_ref().map_or(self.seen_at, |counted| counted.first_ns)
    }

    pub(crate) fn last(&self) -> MonotonicNs {
        self.last.as_ref().map_or(self.seen_at, |counted| counted.last_ns)
    }

    pub(crate) fn closed(&self) -> bool {
        self.gone.is_some() || self.last.as_ref().is_some_and(|counted| counted.closed)
    }

    pub(crate) fn payload_bytes(&self) -> Directions<u64> {
        let payload = |counted: &FlowCounters| counted.counters.map(|count| count.payload_bytes);
        self.last.as_ref().map_or_else(Directions::default, payload)
    }

    /// `last_matters`: whether the time of its last packet says anything.
    pub(super) fn state(&self, last_matters: bool) -> FlowState {
        FlowState {
            closed: self.closed(),
            has_payload: self.payload_by.is_some(),
            role: dominant_role([self.payload_bytes()]),
            first: self.first(),
            last: (last_matters || self.closed()).then(|| self.last()),
        }
    }

    pub(super) fn push_counters(&mut self, at: MonotonicNs, counted: &FlowCounters) {
        self.samples.push(at, counted.counters.map(|count| count.wire_bytes));
        let payload = counted.counters.map(|count| count.payload_bytes);
        if payload.tx > 0 || payload.rx > 0 {
            self.payload_by.get_or_insert(at);
        }
        if self.owner.is_none() {
            self.untied.push(at, Crossed { counters: counted.counters, last_ns: counted.last_ns });
        }
        match &mut self.counted {
            Some(last) => grow(last, counted, self.counted_until <= Some(at)),
            None => self.counted = Some(counted.clone()),
        }
        self.counted_until = self.counted_until.max(Some(at));
        self.add_up();
    }
}

/// Joins what was counted at one instant with what was counted at others: a counter only grows.
fn grow(last: &mut FlowCounters, counted: &FlowCounters, is_latest: bool) {
    let most = |a: Counters, b: Counters| Counters {
        wire_bytes: a.wire_bytes.max(b.wire_bytes),
        payload_bytes: a.payload_bytes.max(b.payload_bytes),
        segments: a.segments.max(b.segments),
        skbs: a.skbs.max(b.skbs),
    };
    let (a, b) = (last.counters, counted.counters);
    last.counters = Directions { tx: most(a.tx, b.tx), rx: most(a.rx, b.rx) };
    last.first_ns = last.first_ns.min(counted.first_ns);
    last.last_ns = last.last_ns.max(counted.last_ns);
    let (a, b) = (last.last_byte_ns, counted.last_byte_ns);
    last.last_byte_ns = Directions { tx: a.tx.max(b.tx), rx: a.rx.max(b.rx) };
    last.elsewhere_skbs = last.elsewhere_skbs.max(counted.elsewhere_skbs);
    if is_latest {
        // A forged packet can make a connection look closed; one that carries on was not.
        last.closed = counted.closed;
        // These become none when they cannot be read any more.
        last.retransmitted_segments = counted.retransmitted_segments;
        last.retransmitted_payload_bytes = counted.retransmitted_payload_bytes;
    }
}
