//! A migration as one host has seen it, or several.

use super::alignment::NotAligned;
use super::facts::Facts;
use super::half::{Half, HostClock};
use super::probe_target::{self, ProbeTarget, Probing};
use super::prober::Prober;
use crate::record::{Role, Vantage};
use crate::units::MonotonicNs;

/// What one host knows of a migration, and of the echo requests that it sent.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) half: Half<'a>,
    pub(super) probed: &'a ProbeTarget<'a>,
}

/// A migration as one host has seen it, or several. The record is made on the clock of the first.
pub(super) struct Joined<'a> {
    pub(super) first: View<'a>,
    /// The other half of the migration, whose QEMU is on the same host, or on one whose clock is known.
    pub(super) other: Option<View<'a>>,
    /// The other half, on a host whose clock is not known: nothing can be measured from one host to the other.
    pub(super) apart: Option<Apart<'a>>,
    /// Packets contradict each other about the clock of that host, and something else is used.
    pub(super) contradicted: bool,
    /// Hosts that have no part in it, and have sent echo requests.
    pub(super) observers: Vec<Observing<'a>>,
    /// Hosts that were to record it together with the others, and have seen nothing of it.
    pub(super) blind: Vec<&'a Facts>,
}

/// The other half of a migration, on a host whose clock is not known.
pub(super) struct Apart<'a> {
    pub(super) view: View<'a>,
    pub(super) why: NotAligned,
}

/// A host that has no part in a migration, and has sent echo requests.
#[derive(Clone, Copy)]
pub(super) struct Observing<'a> {
    pub(super) facts: &'a Facts,
    pub(super) clock: HostClock<'a>,
}

impl<'a> Joined<'a> {
    /// The other half, if it is on another host whose clock is known.
    pub(super) fn elsewhere(&self) -> Option<View<'a>> {
        self.other.filter(|other| !std::ptr::eq(other.half.facts, self.first.half.facts))
    }

    /// The migration's own hosts that were seen, the first one first.
    pub(super) fn own_hosts(&self) -> impl Iterator<Item = View<'a>> {
        let apart = self.apart.as_ref().map(|apart| apart.view);
        [Some(self.first), self.elsewhere(), apart].into_iter().flatten()
    }

    /// The host that has pinged the guest, and what is known of that; the first if none has. An observer sees what the guest's
    /// clients see, so it comes before the migration's own hosts, unless only its wall clock is known.
    pub(super) fn prober(&self) -> (Prober<'a>, Probing<'a>) {
        let of_half = |view: View<'a>| (Prober::from(view.half), view.probed.probing(view.half.migration));
        let own = [Some(self.first), self.elsewhere()].into_iter().flatten().map(of_half);
        let rank = |(prober, probing): &(Prober<'a>, Probing<'a>)| {
            let probed = match probing {
                Probing::Probed(probe) => 1 + u8::from(probe.echo.is_some()),
                Probing::Nobody | Probing::Another(_) | Probing::Doubtful(_) => 0,
            };
            (probed, !prober.clock.is_rough(), prober.vantage == Vantage::Observer)
        };
        let observing = self.observers.iter().map(|host| (self.observer(host), self.probing(host)));
        let best =
            own.chain(observing).reduce(|best, next| if rank(&next) > rank(&best) { next } else { best });
        best.unwrap_or_else(|| of_half(self.first))
    }

    fn observer(&self, host: &Observing<'a>) -> Prober<'a> {
        let migration = self.first.half.migration;
        Prober {
            facts: host.facts,
            clock: host.clock,
            vantage: Vantage::Observer,
            start: host.clock.earliest(migration.start),
            end: host.clock.latest(migration.end.at()),
        }
    }

    /// Whether an observer's echo requests went to the guest.
    pub(super) fn probing(&self, host: &Observing<'a>) -> Probing<'a> {
        let own: Vec<_> = self.own_hosts().map(|view| view.half).collect();
        probe_target::from_outside(host.facts, &own)
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
