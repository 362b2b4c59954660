//! A host that has sent echo requests to the guest.

use super::facts::Facts;
use super::half::{Half, HostClock};
use super::moment::Moment;
use crate::record::Vantage;
use crate::units::MonotonicNs;

/// A host that has sent echo requests to the guest, or could have: one of the migration's own, or an observer.
#[derive(Clone, Copy)]
pub(super) struct Prober<'a> {
    pub(super) facts: &'a Facts,
    pub(super) clock: HostClock<'a>,
    pub(super) vantage: Vantage,
    /// When the migration began, on this host's clock.
    pub(super) start: MonotonicNs,
    /// When it ended.
    pub(super) end: MonotonicNs,
}

impl Prober<'_> {
    /// As [`HostClock::at`].
    pub(super) fn at(&self, at: MonotonicNs) -> Moment {
        self.clock.at(at)
    }
}

impl<'a> From<Half<'a>> for Prober<'a> {
    fn from(half: Half<'a>) -> Self {
        let Half { facts, migration, clock } = half;
        Self { facts, clock, vantage: migration.role.into(), start: migration.start, end: migration.end.at() }
    }
}
