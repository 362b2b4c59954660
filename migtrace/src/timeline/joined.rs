//! A migration as one host has seen it, or two.

use super::alignment::NotAligned;
use super::half::Half;
use super::probe_target::{ProbeTarget, Probing};
use crate::record::Role;
use crate::units::MonotonicNs;

/// What one host knows of a migration, and of the echo requests that it sent.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) half: Half<'a>,
    pub(super) probed: &'a ProbeTarget<'a>,
}

/// A migration as one host has seen it, or two. The record is made on the clock of the first.
pub(super) struct Joined<'a> {
    pub(super) first: View<'a>,
    /// The other half of the migration, whose QEMU is on the same host, or on one whose clock is known.
    pub(super) other: Option<View<'a>>,
    /// The other half, on a host whose clock is not known: nothing can be measured from one host to the other.
    pub(super) apart: Option<Apart<'a>>,
}

/// The other half of a migration, on a host whose clock is not known.
pub(super) struct Apart<'a> {
    pub(super) view: View<'a>,
    pub(super) why: NotAligned,
}

impl<'a> Joined<'a> {
    /// The other half, if it is on another host whose clock is known.
    pub(super) fn elsewhere(&self) -> Option<View<'a>> {
        self.other.filter(|other| !std::ptr::eq(other.half.facts, self.first.half.facts))
    }

    /// The half whose host has pinged the guest, and what is known of that; the first if none has.
    pub(super) fn prober(&self) -> (Half<'a>, Probing<'a>) {
        let probing = |view: View<'a>| (view.half, view.probed.probing(view.half.migration));
        let first = probing(self.first);
        let elsewhere = self.elsewhere().map(probing);
        let rank = |probing: &Probing<'_>| match probing {
            Probing::Probed(probe) => 1 + u8::from(probe.echo.is_some()),
            Probing::Nobody | Probing::Another(_) | Probing::Doubtful(_) => 0,
        };
        match elsewhere {
            Some(elsewhere) if rank(&elsewhere.1) > rank(&first.1) => elsewhere,
            _ => first,
        }
    }

    /// When the guest moved, on the record's clock: it runs at the destination or, where that was not seen, it has stopped
    /// at the source.
    pub(super) fn switchover(&self) -> MonotonicNs {
        let halves = [Some(self.first), self.other];
        let destination = halves.into_iter().flatten().find(|view| view.half.role == Role::Destination);
        let runs = destination.and_then(|view| Some(view.half.clock.on_record(view.half.runs_from()?)));
        let first = self.first.half;
        runs.unwrap_or_else(|| first.last_stop().map_or(first.end.at(), |stop| stop.at))
    }
}
