//! Whose guest was probed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::facts::{Facts, Process};
use super::gaps;
use super::half::Half;
use super::migration::MigrationFacts;
use super::pairs::vm;
use crate::event::{EchoGap, EchoStart, Qemu};
use crate::selection::Selection;
use crate::units::MonotonicNs;
use crate::vm::VmKey;
use crate::vocabulary::Echo;

/// The echo requests to a guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct GuestProbe<'a> {
    pub(super) since: MonotonicNs,
    pub(super) until: MonotonicNs,
    /// Whether their end was seen.
    pub(super) ended: bool,
    /// Their overall figures; none when no request was seen leaving.
    pub(super) echo: Option<&'a Echo>,
    /// How many of them were lost in gaps.
    pub(super) lost_in_gaps: u64,
    /// Silences up to this length are not reported, even if requests were lost in them.
    pub(super) min_gap_ns: u64,
}

/// Whether the guest of a migration was probed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Probing<'a> {
    Probed(GuestProbe<'a>),
    /// No guest was probed.
    Nobody,
    /// Another guest has the probed address.
    Another(IpAddr),
    /// It is not known which of several guests has the probed address.
    Doubtful(IpAddr),
}

/// Which of this host's VMs was probed.
pub(super) struct ProbeTarget<'a> {
    facts: &'a Facts,
    /// The VMs that have the probed address; none: it is not known.
    owners: Option<BTreeSet<VmKey<'a>>>,
    lost_in_gaps: u64,
}

impl<'a> ProbeTarget<'a> {
    pub(super) fn of(facts: &'a Facts, all: &[MigrationFacts<'a>]) -> Self {
        let named = facts.echo_owners();
        let owners = if named.is_empty() {
            // A VM that stays may have it just as well as one that migrates.
            let here: BTreeSet<_> = facts.processes.iter().map(Process::vm).collect();
            if here.len() > 1 { stopped_as_it_fell_silent(facts, all) } else { Some(here) }
        } else {
            Some(named)
        };
        Self { facts, owners, lost_in_gaps: facts.echo_gaps.lost() }
    }

    pub(super) fn probing(&self, migration: &MigrationFacts<'a>) -> Probing<'a> {
        let Some((since, start)) = &self.facts.echo_start else { return Probing::Nobody };
        let key = vm(migration);
        match &self.owners {
            None => Probing::Doubtful(start.target),
            // A migration whose QEMU is not in this network namespace is the only migration.
            Some(owners) if key.is_some_and(|key| !owners.contains(&key)) => Probing::Another(start.target),
            Some(_) => Probing::Probed(GuestProbe::of(self.facts, *since, start, self.lost_in_gaps)),
        }
    }
}

impl<'a> GuestProbe<'a> {
    fn of(facts: &'a Facts, since: MonotonicNs, start: &EchoStart, lost_in_gaps: u64) -> Self {
        let end = facts.echo_end.as_ref();
        Self {
            since,
            ended: end.is_some(),
            until: end.map_or(facts.latest, |(at, _)| *at),
            echo: end.and_then(|(_, end)| end.echo.as_ref()),
            lost_in_gaps,
            min_gap_ns: start.min_gap_ns,
        }
    }
}

/// Whether the echo requests of a host that has no part in a migration went to its guest. `halves` is what the hosts of the
/// migration know of it. The MAC to which the requests went says which VM it is, or else the person who named one; or there
/// is no other VM.
pub(super) fn from_outside<'a>(facts: &'a Facts, halves: &[Half<'a>]) -> Probing<'a> {
    let Some((since, start)) = &facts.echo_start else { return Probing::Nobody };
    let qemus = || halves.iter().flat_map(|half| &half.facts.processes).filter_map(|p| p.qemu.as_ref());
    let own: Vec<&Qemu> = halves.iter().filter_map(|half| half.migration.qemu()).collect();
    let has_mac = |qemu: &&Qemu| start.mac.as_ref().is_some_and(|mac| qemu.macs.contains(mac));
    let is_one_vm = |qemu: &Qemu, other: &&Qemu| match (&qemu.uuid, &other.uuid) {
        (Some(uuid), Some(other)) => uuid == other,
        _ => qemu.name == other.name,
    };
    let is_own = |qemu: &Qemu| own.iter().any(|own| is_one_vm(qemu, own));
    let is_named = |vm: &String| {
        let named = Selection::new(Some(vm.clone()), None);
        own.iter().any(|qemu| named.matches_vm(qemu.name.as_deref(), qemu.uuid.as_deref()))
    };
    let is_probed = match &start.vm {
        _ if own.iter().any(has_mac) => true,
        _ if qemus().any(|qemu| has_mac(&qemu)) => return Probing::Another(start.target),
        Some(vm) => is_named(vm),
        None => qemus().all(is_own),
    };
    if !is_probed {
        return match start.vm {
            Some(_) => Probing::Another(start.target),
            None => Probing::Doubtful(start.target),
        };
    }
    Probing::Probed(GuestProbe::of(facts, *since, start, facts.echo_gaps.lost()))
}

/// The one VM that stopped just when the address fell silent for the longest time, or for good.
fn stopped_as_it_fell_silent<'a>(facts: &Facts, all: &[MigrationFacts<'a>]) -> Option<BTreeSet<VmKey<'a>>> {
    let open = facts.echo_end.as_ref().and_then(|(_, end)| end.open.as_ref());
    let length_ns = |gap: &&EchoGap| gap.resumed_ns.0.saturating_sub(gap.last_reply_ns.0);
    let longest = facts.echo_gaps.iter().chain(open).max_by_key(length_ns)?;
    let silent = gaps::silent_from(longest);
    let stopped_then = all.iter().filter(|m| m.last_stop().is_some_and(|stop| silent.holds(stop.at)));
    let owners: BTreeSet<_> = stopped_then.filter_map(vm).collect();
    (owners.len() == 1).then_some(owners)
}
