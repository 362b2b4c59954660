//! Whose guest was probed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::facts::{Facts, Process};
use super::gaps;
use super::migration::MigrationFacts;
use super::pairs::vm;
use crate::event::EchoGap;
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
            Some(_) => {
                let end = self.facts.echo_end.as_ref();
                Probing::Probed(GuestProbe {
                    since: *since,
                    ended: end.is_some(),
                    until: end.map_or(self.facts.latest, |(at, _)| *at),
                    echo: end.and_then(|(_, end)| end.echo.as_ref()),
                    lost_in_gaps: self.lost_in_gaps,
                    min_gap_ns: start.min_gap_ns,
                })
            }
        }
    }
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
