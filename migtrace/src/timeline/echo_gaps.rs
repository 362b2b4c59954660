//! The gaps of the probed address, as they were observed.

use std::sync::OnceLock;

use super::stamped::Stamped;
use crate::event::EchoGap;
use crate::units::MonotonicNs;

/// The gaps that have ended.
#[derive(Clone, Debug, Default)]
pub(super) struct EchoGaps {
    /// By when the latest request was sent that was answered before.
    gaps: Stamped<EchoGap>,
    /// When each gap began, and the latest end of it and those before it. Computed on demand, and dropped with each
    /// new gap.
    ends: OnceLock<Vec<(MonotonicNs, MonotonicNs)>>,
}

impl EchoGaps {
    pub(super) fn push(&mut self, gap: EchoGap) {
        self.gaps.insert(gap.answered_request_ns, gap);
        self.ends.take();
    }

    /// How many requests were lost in gaps. A certain gap counts the requests that were on their way when it ended. A
    /// possible gap counts those of them that were overtaken. Where the two overlap, the possible gap is left out.
    pub(super) fn lost(&self) -> u64 {
        let sure: Vec<&EchoGap> = self.gaps.iter().filter(|gap| !gap.may_be).collect();
        let ends = latest_ends(sure.iter().copied());
        let is_apart = |gap: &&EchoGap| {
            let earlier = ends.partition_point(|(began, _)| *began < gap.resuming_request_ns);
            earlier.checked_sub(1).is_none_or(|last| ends[last].1 <= gap.answered_request_ns)
        };
        let possible = self.gaps.iter().filter(|gap| gap.may_be).filter(is_apart);
        let lost = sure.into_iter().chain(possible).map(|gap| gap.requests.saturating_sub(gap.answered()));
        lost.fold(0, u64::saturating_add)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &EchoGap> {
        self.gaps.iter()
    }

    /// The first gap that began at this instant or later.
    pub(super) fn first_since(&self, from: MonotonicNs) -> Option<&EchoGap> {
        self.gaps.since(from).next().map(|(_, gap)| gap)
    }

    /// The gaps that began no later than `last` and ended no earlier than `first`, in the order of their beginnings.
    pub(super) fn touching(&self, first: MonotonicNs, last: MonotonicNs) -> impl Iterator<Item = &EchoGap> {
        let ends = self.ends.get_or_init(|| latest_ends(self.gaps.iter()));
        let over = ends.partition_point(|(_, latest)| *latest < first);
        let from = ends.get(over).map_or(MonotonicNs(u64::MAX), |(began, _)| *began);
        self.gaps.between(from, last).map(|(_, gap)| gap).filter(move |gap| first <= gap.resumed_ns)
    }
}

/// When each gap began, and the latest end of it and those before it.
fn latest_ends<'a>(gaps: impl Iterator<Item = &'a EchoGap>) -> Vec<(MonotonicNs, MonotonicNs)> {
    let latest = |latest: &mut MonotonicNs, gap: &EchoGap| {
        *latest = gap.resumed_ns.max(*latest);
        Some((gap.answered_request_ns, *latest))
    };
    gaps.scan(MonotonicNs(0), latest).collect()
}
