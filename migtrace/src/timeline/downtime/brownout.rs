//! How well the guest answered outside of its downtime.

use crate::record::{Brownout, Disturbance, Estimate, Gap};
use crate::timeline::echo_gaps::EchoGaps;
use crate::timeline::gaps::{self, BoundedGap};
use crate::units::MonotonicNs;
use crate::vocabulary::Echo;

/// How well the guest answered before the gap of its downtime, which is one of those `around` the migration, and after
/// it until its `next` migration or the end of the probing.
pub(super) fn brownout(
    all: &EchoGaps,
    around: &[BoundedGap<'_>],
    downtime: &BoundedGap<'_>,
    next: Option<MonotonicNs>,
    echo: &Echo,
) -> Brownout {
    let before = around.iter().filter(|other| other.seen.resumed_ns < downtime.seen.resumed_ns);
    let before: Vec<_> = before.map(|bounded| bounded.gap.clone()).collect();
    let just_after = |at: MonotonicNs| MonotonicNs(at.0.saturating_add(1));
    let since = downtime.seen.resumed_ns;
    let until = next.map_or(MonotonicNs(u64::MAX), |next| next.max(since));
    let later = all.touching(just_after(since), until);
    let after: Vec<_> = later.map(|seen| gaps::closed(seen, since)).collect();
    // The worst round trip of a gap is the worst since the gap before it.
    let trips_before = before.iter().chain([&downtime.gap]).map(|gap| gap.worst_round_trip_ns);
    let last_trips = all.first_since(just_after(until)).map(|seen| seen.worst_round_trip_ns);
    let last_trips = last_trips.or(echo.worst_since_last_gap_ns);
    let trips_after = after.iter().map(|gap| gap.worst_round_trip_ns).chain(last_trips);
    Brownout {
        before: Disturbance { worst_round_trip_ns: worst(trips_before), longest_gap: longest(&before) },
        after: Disturbance { worst_round_trip_ns: worst(trips_after), longest_gap: longest(&after) },
    }
}

/// The longest of these round trips; none when none was seen.
fn worst(round_trips_ns: impl Iterator<Item = u64>) -> Option<u64> {
    round_trips_ns.max().filter(|ns| *ns > 0)
}

/// The longest certain gap or, without one, the longest possible gap.
fn longest(gaps: &[Gap]) -> Option<Estimate> {
    let plausible = gaps.iter().filter(|gap| gap.is_plausible());
    plausible.max_by_key(|gap| (gap.is_sure(), gap.length.value_ns)).map(|gap| gap.length.clone())
}
