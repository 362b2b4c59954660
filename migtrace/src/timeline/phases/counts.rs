//! What a migration's flows had carried at each border between phases.

use super::borders::Border;
use crate::timeline::facts::FlowFacts;
use crate::timeline::migration::MigrationFacts;
use crate::timeline::untied::{TiedLate, UntiedSum};
use crate::units::{Counters, Directions, MonotonicNs};

pub(super) type Snapshot = Directions<Counters>;

/// Why the bytes of a phase are not known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BytesUnknown {
    /// The kernel program did not read the counters with the event.
    NoSnapshot,
    /// No event reports the instant, so nothing was read then.
    NoEvent,
    /// The flows are not tied to this QEMU, so the counters read with its events do not include them.
    NotOwned,
    /// A flow was tied to QEMU only after it had carried bytes. An earlier snapshot lacks them, and their number is
    /// unknown.
    OwnedLate,
    /// The snapshots contradict the flows' counters.
    Contradiction,
    /// The log ends before the last count of the flows.
    CutOff,
}

/// The sum of the counters of the migration's flows; none when no flow was counted.
///
/// In a truncated log, and while the migration runs, the last snapshot is newer than the last counters.
pub(crate) fn total(migration: &MigrationFacts<'_>) -> Option<Snapshot> {
    Some(Counted::of(migration)?.total())
}

/// The counters of a migration's flows at any instant. Prepared once, and asked at every border.
struct Counted<'m> {
    migration: &'m MigrationFacts<'m>,
    /// What the flows carried when they were counted last.
    sum: Snapshot,
    /// What the process's earlier flows carried. Its snapshots include it for as long as the kernel keeps those
    /// flows, so it is at most what the first snapshot shows.
    baseline: Snapshot,
    /// Until then every flow was counted, or had closed.
    counted_until: MonotonicNs,
    /// The last packet.
    last_packet: MonotonicNs,
    /// What flows had carried before they were counted, and since when the snapshots include those flows.
    uncounted: Vec<(MonotonicNs, Snapshot)>,
    /// What the flows had carried before they were tied to their process.
    untied: UntiedSum,
}

impl<'m> Counted<'m> {
    /// None when no flow was counted.
    fn of(migration: &'m MigrationFacts<'m>) -> Option<Self> {
        let flows = &migration.flows;
        let sum = flows.iter().filter_map(|f| f.last.as_ref()).fold(None, |sum, counters| {
            let mut sum = sum.unwrap_or_default();
            sum += counters.counters;
            Some(sum)
        })?;
        let earlier = migration.earlier_counters;
        let first = migration.transitions.iter().find_map(|m| m.counters).unwrap_or(earlier);
        let counted_until = |f: &FlowFacts| {
            if f.closed() { MonotonicNs(u64::MAX) } else { f.counted_until.unwrap_or_default() }
        };
        let untied: Vec<_> = flows.iter().map(|flow| flow.untied()).collect();
        let tied_late = flows.iter().zip(&untied).filter_map(|(flow, untied)| {
            Some(TiedLate { first: flow.first(), tied: flow.owner?.at, untied })
        });
        Some(Self {
            migration,
            sum,
            baseline: Directions { tx: least(&earlier.tx, &first.tx), rx: least(&earlier.rx, &first.rx) },
            counted_until: flows.iter().map(|f| counted_until(f)).min().unwrap_or_default(),
            last_packet: migration.last_packet().unwrap_or_default(),
            uncounted: flows
                .iter()
                .filter(|flow| flow.carried_before.is_some())
                .filter_map(|flow| Some((flow.owner?.at, flow.before())))
                .collect(),
            untied: UntiedSum::of(tied_late),
        })
    }

    fn total(&self) -> Snapshot {
        let last = self.migration.transitions.iter().rev().find(|m| m.counters.is_some());
        let younger = last.filter(|m| !self.is_counted_after(m.at)).and_then(|m| {
            let count = self.snapshot(m.at, m.counters.ok_or(BytesUnknown::NoSnapshot)).ok()?;
            at_least(&count, &self.sum).then_some(count)
        });
        younger.unwrap_or(self.sum)
    }

    /// What this migration's flows had carried when the counters were read with an event.
    fn snapshot(
        &self,
        at: MonotonicNs,
        counters: Result<Snapshot, BytesUnknown>,
    ) -> Result<Snapshot, BytesUnknown> {
        if !self.migration.flows_owned {
            return Err(BytesUnknown::NotOwned);
        }
        let untied = self.untied.at(at).ok_or(BytesUnknown::OwnedLate)?;
        let mut count = counters?;
        // Those flows were in the earlier snapshots, or in the baseline.
        for (_, carried) in self.migration.leaving.iter().take_while(|(gone, _)| *gone <= at) {
            count += *carried;
        }
        count = count.since(&self.baseline);
        for (_, before) in self.uncounted.iter().filter(|(tied, _)| *tied <= at) {
            count += *before;
        }
        count += untied;
        Ok(count)
    }

    /// Whether every flow was counted at or after `at`, or had closed by its last count.
    fn is_counted_after(&self, at: MonotonicNs) -> bool {
        self.counted_until >= at
    }

    /// Whether it is known that nothing crossed after `at`.
    fn is_silent_after(&self, at: MonotonicNs) -> bool {
        self.is_counted_after(at) && self.last_packet <= at
    }
}

/// The counters at every border and at the end, without what the process's earlier flows carried; `None` where they
/// are not known. Also the first reason for such a `None`.
///
/// A snapshot includes the flows that are tied to the process at that instant. The kernel ties a flow when QEMU first
/// sends on it, which can be phases after the handshake. The flow's own counters show what had crossed until then.
pub(super) fn counts_at(
    migration: &MigrationFacts<'_>,
    borders: &[Border],
) -> (Vec<Option<Snapshot>>, Option<BytesUnknown>) {
    let Some((counted, first_packet)) = Counted::of(migration).zip(migration.first_packet()) else {
        return (vec![None; borders.len() + 1], None);
    };
    let total = counted.total();
    let mut unknown = None;
    let mut reached = Snapshot::default();
    let mut counts: Vec<Option<Snapshot>> = Vec::with_capacity(borders.len() + 1);
    for (i, border) in borders.iter().enumerate() {
        let count = if i == 0 || border.at <= first_packet {
            Ok(Snapshot::default())
        } else if counted.is_silent_after(border.at) {
            Ok(total)
        } else {
            let monotonic = |c: &Snapshot| at_least(c, &reached) && at_least(&total, c);
            counted
                .snapshot(border.at, border.counters)
                .and_then(|count| monotonic(&count).then_some(count).ok_or(BytesUnknown::Contradiction))
        };
        match count {
            Ok(count) => reached = count,
            Err(why) => unknown = unknown.or(Some(why)),
        }
        counts.push(count.ok());
    }
    let last_counted = borders.last().is_none_or(|b| counted.is_counted_after(b.at));
    if !last_counted {
        unknown = unknown.or(Some(BytesUnknown::CutOff));
    }
    counts.push(last_counted.then_some(total));
    (counts, unknown)
}

const fn least(a: &Counters, b: &Counters) -> Counters {
    const fn min(a: u64, b: u64) -> u64 {
        if a < b { a } else { b }
    }
    Counters {
        wire_bytes: min(a.wire_bytes, b.wire_bytes),
        payload_bytes: min(a.payload_bytes, b.payload_bytes),
        segments: min(a.segments, b.segments),
        skbs: min(a.skbs, b.skbs),
    }
}

fn at_least(a: &Snapshot, b: &Snapshot) -> bool {
    let not_less = |a: &Counters, b: &Counters| least(a, b) == *b;
    not_less(&a.tx, &b.tx) && not_less(&a.rx, &b.rx)
}
