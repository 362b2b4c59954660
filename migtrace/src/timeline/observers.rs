//! The hosts that have seen a migration, and how their clocks relate to the record's.

use super::half::Half;
use super::joined::{Joined, View};
use crate::event::Observation;
use crate::record::{Alignment, AlignmentMethod, Observer};

/// The hosts that have seen a migration: the one whose clock the record uses comes first.
pub(super) fn observers(joined: &Joined<'_>) -> Vec<Observer> {
    let first = observer(&joined.first, None);
    let elsewhere = joined.elsewhere().and_then(|view| observer(&view, aligned(joined, &view)));
    let apart = joined.apart.as_ref().map(|apart| &apart.view);
    let apart = apart.and_then(|view| observer(view, Some(by_wall_clock(&joined.first.half, &view.half))));
    first.into_iter().chain(elsewhere).chain(apart).collect()
}

fn observer(view: &View<'_>, alignment: Option<Alignment>) -> Option<Observer> {
    let half = view.half;
    let Observation { host, kernel, migtrace, .. } = half.facts.observation.clone()?;
    Some(Observer {
        host,
        role: half.role,
        kernel,
        migtrace,
        clock: half.facts.clocks.at(half.start),
        alignment,
    })
}

/// How packets align the clock of another host at the switchover.
fn aligned(joined: &Joined<'_>, view: &View<'_>) -> Option<Alignment> {
    let offset = view.half.clock.alignment?.offset_at(joined.switchover());
    Some(Alignment {
        offset_ns: Some(offset.value()),
        low_ns: Some(offset.low),
        high_ns: Some(offset.high),
        method: AlignmentMethod::Tcp,
    })
}

/// How the wall clocks of two hosts align their monotonic clocks. Nobody knows how far those are from each other.
fn by_wall_clock(record: &Half<'_>, other: &Half<'_>) -> Alignment {
    let wall = |half: &Half<'_>| half.facts.clocks.at(half.start).map(|sample| sample.offset_ns);
    let offset_ns = wall(record).zip(wall(other)).map(|(record, other)| record.saturating_sub(other));
    Alignment { offset_ns, low_ns: None, high_ns: None, method: AlignmentMethod::WallClock }
}
