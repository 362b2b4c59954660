//! What crossed the wire in a migration.

use std::collections::BTreeSet;

use super::estimates::offset;
use super::facts::{Facts, FlowFacts};
use super::migration::MigrationFacts;
use super::{curve, phases, purposes};
use crate::record::{FlowRecord, Role, Sample, Traffic};
use crate::units::{Counters, Directions, MonotonicNs};
use crate::vocabulary::Purpose;

/// The most samples that a record carries.
const MOST_SAMPLES: usize = 2_000;

/// Turns what this host sent and received into what went from the source to the destination and back.
#[derive(Clone, Copy)]
pub(super) struct Orientation(pub(super) Role);

impl Orientation {
    pub(super) fn of<T>(self, pair: Directions<T>) -> Directions<T> {
        match self.0 {
            Role::Source => pair,
            Role::Destination => pair.swapped(),
        }
    }
}

pub(super) fn traffic(facts: &Facts, migration: &MigrationFacts<'_>, orient: Orientation) -> Traffic {
    let flows = migration.flows.iter().zip(purposes::purposes(migration));
    let flows = flows.filter_map(|(flow, purpose)| flow_record(flow, purpose, migration, orient)).collect();
    let counted = || migration.flows.iter().filter_map(|f| f.last.as_ref());
    Traffic {
        total: phases::total(migration).map(|t| orient.of(t)),
        retransmitted_segments: sum_of(counted().map(|c| c.retransmitted_segments)),
        retransmitted_payload_bytes: sum_of(counted().map(|c| c.retransmitted_payload_bytes)),
        flows,
        fragments: fragments(facts, migration).map(|f| orient.of(f)),
        samples: samples(migration, orient),
    }
}

/// None for a flow that was never counted.
fn flow_record(
    flow: &FlowFacts,
    purpose: Purpose,
    migration: &MigrationFacts<'_>,
    orient: Orientation,
) -> Option<FlowRecord> {
    let counted = flow.last.as_ref()?;
    Some(FlowRecord {
        flow: flow.flow,
        purpose,
        interface: flow.interface.clone(),
        first_ns: offset(counted.first_ns, migration.start),
        last_ns: offset(counted.last_ns, migration.start),
        from_start: flow.is_whole(),
        counters: orient.of(counted.counters),
        retransmitted_segments: counted.retransmitted_segments,
    })
}

/// The sum of counts; none when one was not measured, or there are no counts.
fn sum_of(mut counts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let first = counts.next()??;
    counts.try_fold(first, |sum, count| Some(sum.saturating_add(count?)))
}

/// Fragments between the ends of the migration's flows, since its start.
fn fragments(facts: &Facts, migration: &MigrationFacts<'_>) -> Option<Directions<Counters>> {
    let mut sum = None::<Directions<Counters>>;
    let ends: BTreeSet<_> = migration.flows.iter().map(|f| (f.flow.local.ip(), f.flow.remote.ip())).collect();
    for counts in ends.iter().filter_map(|ends| facts.fragments.get(ends)).flatten() {
        let until_start = MonotonicNs(migration.start.0.saturating_sub(1));
        let before = counts.between(MonotonicNs(0), until_start).next_back();
        let before = before.map(|(_, count)| *count).unwrap_or_default();
        if let Some(last) = counts.iter().next_back() {
            *sum.get_or_insert_default() += last.since(&before);
        }
    }
    sum.filter(|s| s.tx.skbs > 0 || s.rx.skbs > 0)
}

/// The cumulative sum over the flows, each time that one of them was counted. If there are too many, those are kept
/// that preserve the curve's shape.
fn samples(migration: &MigrationFacts<'_>, orient: Orientation) -> Vec<Sample> {
    let counts = migration.flows.iter().enumerate();
    let mut counts: Vec<(MonotonicNs, usize, Directions<u64>)> = counts
        .flat_map(|(index, flow)| flow.samples().map(move |(at, wire_bytes)| (at, index, wire_bytes)))
        .collect();
    counts.sort_by_key(|(at, ..)| *at);
    let mut latest = vec![Directions::<u64>::default(); migration.flows.len()];
    let is_disk: Vec<_> = migration.flows.iter().map(|flow| flow.purpose == Purpose::Nbd).collect();
    let mut sum = Directions::<u64>::default();
    let mut disk = is_disk.contains(&true).then(Directions::<u64>::default);
    let mut all: Vec<Sample> = Vec::new();
    for (at, index, wire_bytes) in counts {
        let before = latest[index];
        // A counter only grows.
        let wire_bytes = Directions { tx: wire_bytes.tx.max(before.tx), rx: wire_bytes.rx.max(before.rx) };
        latest[index] = wire_bytes;
        let moved = |sum: u64, before: u64, now: u64| sum.saturating_sub(before).saturating_add(now);
        for sum in [Some(&mut sum), disk.as_mut().filter(|_| is_disk[index])].into_iter().flatten() {
            sum.tx = moved(sum.tx, before.tx, wire_bytes.tx);
            sum.rx = moved(sum.rx, before.rx, wire_bytes.rx);
        }
        let sample = Sample {
            at_ns: offset(at, migration.start),
            wire_bytes: orient.of(sum),
            disk_wire_bytes: disk.map(|disk| orient.of(disk)),
        };
        match all.last_mut().filter(|last| last.at_ns == sample.at_ns) {
            Some(last) => *last = sample,
            None => all.push(sample),
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "the shape of a curve")]
    let points: Vec<_> = all
        .iter()
        .map(|s| (s.at_ns as f64, s.wire_bytes.tx.saturating_add(s.wire_bytes.rx) as f64))
        .collect();
    curve::thinned(&points, MOST_SAMPLES).into_iter().map(|index| all[index]).collect()
}
