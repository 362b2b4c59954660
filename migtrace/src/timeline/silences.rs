//! The silences of the probed address.

use std::sync::OnceLock;

use super::stamped::Stamped;
use crate::event::EchoGap;
use crate::units::MonotonicNs;

/// The gaps that have ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Silences {
    /// By when the latest request was sent that was answered before.
    gaps: Stamped<EchoGap>,
    /// Requests of the gaps that were never answered.
    unanswered: u64,
    /// For each of them when it began, and the latest end of it and those before. Made when somebody asks, and forgotten
    /// with each gap that comes.
    ends: OnceLock<Vec<(MonotonicNs, MonotonicNs)>>,
}

impl Silences {
    pub(super) fn push(&mut self, gap: EchoGap) {
        let unanswered = gap.requests.saturating_sub(gap.answered());
        self.unanswered = self.unanswered.saturating_add(unanswered);
        self.gaps.insert(gap.answered_request_ns, gap);
        self.ends.take();
    }

    /// How many requests of all gaps were never answered.
    pub(super) const fn unanswered(&self) -> u64 {
        self.unanswered
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &EchoGap> {
        self.gaps.iter()
    }

    /// Those that began not after `last` and ended not before `first`, in the order of their beginnings.
    pub(super) fn touching(&self, first: MonotonicNs, last: MonotonicNs) -> impl Iterator<Item = &EchoGap> {
        let ends = self.ends.get_or_init(|| {
            let latest = |latest: &mut MonotonicNs, gap: &EchoGap| {
                *latest = gap.resumed_ns.max(*latest);
                Some((gap.answered_request_ns, *latest))
            };
            self.gaps.iter().scan(MonotonicNs(0), latest).collect()
        });
        let over = ends.partition_point(|(_, latest)| *latest < first);
        let from = ends.get(over).map_or(MonotonicNs(u64::MAX), |(began, _)| *began);
        self.gaps.between(from, last).map(|(_, gap)| gap).filter(move |gap| first <= gap.resumed_ns)
    }
}
