//! The packets that both hosts stamped, found in what each host has recorded alone.

use std::collections::HashMap;

use super::Pair;
use crate::event::{CrossedBy, Crossing, TcProgram, Way};
use crate::timeline::facts::{Facts, FlowFacts};
use crate::units::{Directions, MonotonicNs};

/// The connections of a host by the sequence numbers of their SYNs, which both hosts know alike even if addresses are
/// translated in between.
pub(in crate::timeline) type BySyns<'a> = HashMap<(u32, u32), Vec<&'a FlowFacts>>;

/// The connections of a host, as the other end of each sees it.
pub(in crate::timeline) fn mirrored(facts: &Facts) -> BySyns<'_> {
    let mut found = BySyns::new();
    for flow in &facts.flows {
        if let Some(Directions { tx, rx }) = flow.initial_sequences {
            found.entry((rx, tx)).or_default().push(flow);
        }
    }
    found
}

/// The other end of a connection among those of another host.
pub(in crate::timeline) fn other_end<'a>(flow: &FlowFacts, of: &BySyns<'a>) -> Option<&'a FlowFacts> {
    let Directions { tx, rx } = flow.initial_sequences?;
    let candidates = of.get(&(tx, rx))?;
    // Two connections of one host hardly ever have the same two numbers; their ports differ.
    let same_ports = |other: &&&FlowFacts| {
        (other.flow.local.port(), other.flow.remote.port())
            == (flow.flow.remote.port(), flow.flow.local.port())
    };
    candidates.iter().find(same_ports).or_else(|| candidates.first()).copied()
}

/// The pairs of stamps of packets to the other host and from it.
#[derive(Debug, Default)]
pub(in crate::timeline) struct Pairs {
    pub(in crate::timeline) there: Vec<Pair>,
    pub(in crate::timeline) back: Vec<Pair>,
}

impl Pairs {
    /// Adds the packets of one connection, as its two ends have seen it.
    pub(in crate::timeline) fn add(
        &mut self,
        (facts, flow): (&Facts, &FlowFacts),
        other: (&Facts, &FlowFacts),
    ) {
        let (here, there) = (Stamps::of(facts, flow), Stamps::of(other.0, other.1));
        for by in [CrossedBy::Payload, CrossedBy::Acknowledgement] {
            let (sent, arrived) = (here.get(Way::Tx, by), there.get(Way::Rx, by));
            self.there.extend(matching(sent, arrived).map(|(record, other)| Pair { record, other }));
            let (sent, arrived) = (there.get(Way::Tx, by), here.get(Way::Rx, by));
            self.back.extend(matching(sent, arrived).map(|(other, record)| Pair { record, other }));
        }
    }
}

/// First crossings on one host, by what crossed: each begins after the one before.
struct Stamps(HashMap<(Way, CrossedBy), Vec<Crossing>>);

impl Stamps {
    fn of(facts: &Facts, flow: &FlowFacts) -> Self {
        let mut crossings = flow.crossings.clone();
        crossings.sort_by_key(|crossing| (crossing.at_ns, crossing.last));
        let mut stamps: HashMap<_, Vec<Crossing>> = HashMap::new();
        for mut crossing in crossings {
            let before = stamps.entry((crossing.way, crossing.by)).or_default();
            if let Some(reached) = before.last() {
                crossing.first = crossing.first.max(reached.last.saturating_add(1));
            }
            if crossing.first <= crossing.last {
                before.push(crossing);
            }
        }
        for ((_, by), crossings) in &mut stamps {
            if *by == CrossedBy::Acknowledgement {
                leave_out_doubtful(facts, flow, crossings);
            }
        }
        Self(stamps)
    }

    fn get(&self, way: Way, by: CrossedBy) -> &[Crossing] {
        self.0.get(&(way, by)).map_or(&[], Vec::as_slice)
    }
}

/// Leaves out acknowledgements that may not have been the first: earlier ones may have crossed while the programs were
/// not attached, or at another interface. Payload shows by itself where some of it was not seen.
fn leave_out_doubtful(facts: &Facts, flow: &FlowFacts, crossings: &mut Vec<Crossing>) {
    if flow.last.as_ref().is_some_and(|counted| counted.elsewhere_skbs > 0) {
        crossings.clear();
    }
    for removed in facts.removals.between(flow.first(), flow.last()) {
        if removed.program != TcProgram::Count {
            continue;
        }
        let again = removed.attached_again_ns.unwrap_or(MonotonicNs::MAX);
        let mut before = None;
        crossings.retain(|crossing| {
            let follows_unseen = before.replace(crossing.at_ns).is_none_or(|before| before <= again);
            crossing.at_ns < removed.last_seen_ns || !follows_unseen
        });
    }
}

/// The stamps of the crossings that two hosts have in common, each list in the order of the positions.
fn matching<'c>(
    sent: &'c [Crossing],
    arrived: &'c [Crossing],
) -> impl Iterator<Item = (MonotonicNs, MonotonicNs)> + use<'c> {
    let (mut sent, mut arrived) = (sent.iter().peekable(), arrived.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let (left, right) = (*sent.peek()?, *arrived.peek()?);
            if left.last <= right.last {
                sent.next();
            } else {
                arrived.next();
            }
            if left.first.max(right.first) <= left.last.min(right.last) {
                return Some((left.at_ns, right.at_ns));
            }
        }
    })
}
