//! What one host knows of a migration, and how its clock relates to the record's.

use std::ops::Deref;

use super::alignment::Bounded;
use super::alignment::relation::Relation;
use super::facts::Facts;
use super::migration::MigrationFacts;
use super::moment::{Moment, length};
use super::transition::Transition;
use crate::record::{Estimate, Method};
use crate::units::MonotonicNs;

/// What one host knows of a migration: all of it, where both QEMUs are on this host, or one side of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half<'a> {
    /// All that the host knows.
    pub(super) facts: &'a Facts,
    pub(super) migration: &'a MigrationFacts<'a>,
    pub(super) clock: HostClock<'a>,
}

/// The clock of a host, which may be another than the record's.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostClock<'a> {
    /// The start of the migration, on the record's clock.
    pub(super) start: MonotonicNs,
    /// How the host's clock relates to the record's; none: it is the record's.
    pub(super) relation: Option<&'a Relation>,
}

impl<'a> HostClock<'a> {
    /// An instant of this clock, as `of` finds it on any clock.
    pub(super) fn instant(self, of: impl Fn(Self) -> Moment) -> Instant<'a> {
        let own = Self { start: MonotonicNs::default(), relation: None };
        Instant { moment: of(self), own: of(own), clock: self }
    }

    /// Whether it is the same clock.
    fn is(&self, other: &HostClock<'_>) -> bool {
        match (self.relation, other.relation) {
            (None, None) => true,
            (Some(own), Some(other)) => std::ptr::eq(own, other),
            _ => false,
        }
    }

    /// How long something takes by the record's clock that takes `ns` by this one.
    fn record_length(&self, ns: u64) -> Bounded {
        let ns = i64::try_from(ns).unwrap_or(i64::MAX);
        self.relation.map_or(Bounded { low: ns, high: ns }, |relation| relation.record_length(ns))
    }

    /// An instant of this clock, in nanoseconds from the migration's start.
    pub(super) fn at(&self, at: MonotonicNs) -> Moment {
        match self.relation {
            Some(relation) => relation.record_time(at, self.start).into(),
            None => Moment::exact(at.since(self.start)),
        }
    }

    /// What this clock showed at the start of the migration, if the two clocks differed then by as much as they do when this
    /// one shows `near`.
    pub(super) fn origin(&self, near: MonotonicNs) -> MonotonicNs {
        match self.relation {
            Some(_) => near.later_by(self.at(near).value.saturating_neg()),
            None => self.start,
        }
    }

    /// What the record's clock showed, as far as is known, at an instant of this clock.
    pub(super) fn on_record(&self, at: MonotonicNs) -> MonotonicNs {
        self.start.later_by(self.at(at).value)
    }

    /// The earliest that this clock may show at an instant of the record's.
    pub(super) fn earliest(&self, at: MonotonicNs) -> MonotonicNs {
        match self.relation {
            Some(relation) => at.later_by(relation.offset_at(at).low),
            None => at,
        }
    }

    /// The latest that this clock may show at an instant of the record's.
    pub(super) fn latest(&self, at: MonotonicNs) -> MonotonicNs {
        match self.relation {
            Some(relation) => at.later_by(relation.offset_at(at).high),
            None => at,
        }
    }

    /// Whether only the wall clocks of two hosts say how this clock relates to the record's.
    pub(super) const fn is_rough(&self) -> bool {
        matches!(self.relation, Some(Relation::WallClock { .. }))
    }

    /// What this clock shows, as far as is known, at an instant of the record's.
    pub(super) fn shows(&self, at: MonotonicNs) -> MonotonicNs {
        match self.relation {
            Some(relation) => at.later_by(relation.offset_at(at).value()),
            None => at,
        }
    }
}

/// An instant that a host has stamped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instant<'a> {
    /// On the record's clock.
    pub(super) moment: Moment,
    /// On the host's own clock, which knows better how far two of its instants are apart.
    own: Moment,
    clock: HostClock<'a>,
}

impl Instant<'_> {
    /// Whether it surely came before the other.
    pub(super) fn is_before(&self, other: &Instant<'_>) -> bool {
        let is_before =
            |one: Moment, other: Moment| one.high.zip(other.low).is_some_and(|(one, other)| one < other);
        is_before(self.moment, other.moment)
            || (self.clock.is(&other.clock) && is_before(self.own, other.own))
    }

    /// How much later the other is.
    pub(super) fn until(&self, later: &Instant<'_>, method: Method) -> Estimate {
        let across = length(self.moment, later.moment, method.clone());
        if !self.clock.is(&later.clock) {
            return across;
        }
        let here = length(self.own, later.own, method);
        let low_ns = self.clock.record_length(here.low_ns).low.unsigned_abs();
        let high_ns = here.high_ns.map(|high| self.clock.record_length(high).high.unsigned_abs());
        Estimate {
            low_ns: across.low_ns.max(low_ns).min(across.value_ns),
            high_ns: across.high_ns.into_iter().chain(high_ns).min().map(|high| high.max(across.value_ns)),
            ..across
        }
    }
}

impl<'a> Half<'a> {
    /// An instant of this host's clock, as `of` finds it on any clock.
    pub(super) fn instant(&self, of: impl Fn(Self) -> Moment) -> Instant<'a> {
        self.clock.instant(|clock| of(Self { clock, ..*self }))
    }

    /// As [`HostClock::at`].
    pub(super) fn at(&self, at: MonotonicNs) -> Moment {
        self.clock.at(at)
    }

    /// When an event of QEMU happened: between its own stamp and the kernel's.
    pub(super) fn event(&self, transition: &Transition) -> Moment {
        let bounds = transition.bounds(&self.facts.clocks);
        let low = bounds.earliest.and_then(|earliest| self.at(MonotonicNs(earliest)).low);
        Moment { low, ..self.at(transition.at) }
    }

    /// An instant that is known to be no earlier than `earliest`, and most likely `latest`, the last that it can be.
    pub(super) fn between(&self, earliest: MonotonicNs, latest: MonotonicNs) -> Moment {
        Moment { low: self.at(earliest).low, ..self.at(latest) }
    }

    /// The host's name.
    pub(super) fn host(&self) -> &str {
        self.facts.host()
    }
}

impl<'a> Deref for Half<'a> {
    type Target = MigrationFacts<'a>;

    fn deref(&self) -> &MigrationFacts<'a> {
        self.migration
    }
}
