//! What one host knows of a migration, and how its clock relates to the record's.

use std::ops::Deref;

use super::alignment::relation::Relation;
use super::facts::Facts;
use super::migration::MigrationFacts;
use super::moment::Moment;
use super::transition::Transition;
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

impl HostClock<'_> {
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

impl Half<'_> {
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
