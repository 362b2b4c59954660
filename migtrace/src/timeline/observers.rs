//! The hosts that have seen a migration, and how their clocks relate to the record's.

use super::alignment::relation::Relation;
use super::facts::Facts;
use super::half::{Half, HostClock};
use super::joined::Joined;
use crate::event::Observation;
use crate::record::{Alignment, AlignmentMethod, Observer, Vantage};
use crate::units::MonotonicNs;

/// The hosts that have seen a migration: the one whose clock the record uses comes first.
pub(super) fn observers(joined: &Joined<'_>) -> Vec<Observer> {
    let first = joined.first.half;
    let switchover = joined.switchover();
    let of_half = |half: Half<'_>, alignment| observer(half.facts, half.role.into(), half.start, alignment);
    let elsewhere =
        joined.elsewhere().and_then(|view| of_half(view.half, aligned(view.half.clock, switchover)));
    let apart = joined.apart.as_ref().map(|apart| apart.view.half);
    let apart = apart.and_then(|half| of_half(half, Some(by_wall_clock(&first, &half))));
    let observing = joined.observers.iter().filter_map(|host| {
        let start = host.clock.shows(first.start);
        observer(host.facts, Vantage::Observer, start, aligned(host.clock, switchover))
    });
    of_half(first, None).into_iter().chain(elsewhere).chain(apart).chain(observing).collect()
}

fn observer(
    facts: &Facts,
    role: Vantage,
    start: MonotonicNs,
    alignment: Option<Alignment>,
) -> Option<Observer> {
    let Observation { host, kernel, migtrace, .. } = facts.observation.clone()?;
    Some(Observer { host, role, kernel, migtrace, clock: facts.clocks.at(start), alignment })
}

/// How the clock of another host relates to the record's at the switchover.
fn aligned(clock: HostClock<'_>, switchover: MonotonicNs) -> Option<Alignment> {
    let relation = clock.relation?;
    let offset = relation.offset_at(switchover);
    // Nothing that was seen bounds it.
    let is_bounded = !matches!(relation, Relation::WallClock { .. });
    Some(Alignment {
        offset_ns: Some(offset.value()),
        low_ns: is_bounded.then_some(offset.low),
        high_ns: is_bounded.then_some(offset.high),
        method: relation.method(),
    })
}

/// How the wall clocks of two hosts align their monotonic clocks. Nobody knows how far those are from each other.
fn by_wall_clock(record: &Half<'_>, other: &Half<'_>) -> Alignment {
    let wall = |half: &Half<'_>| half.facts.clocks.at(half.start).map(|sample| sample.offset_ns);
    let offset_ns = wall(record).zip(wall(other)).map(|(record, other)| record.saturating_sub(other));
    Alignment { offset_ns, low_ns: None, high_ns: None, method: AlignmentMethod::WallClock }
}
