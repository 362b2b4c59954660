//! Whose guest was asked for echo replies.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::facts::Facts;
use super::gaps;
use super::migration::Migration;
use super::pairs::VmKey;
use crate::event::Echo;
use crate::units::MonotonicNs;

/// The echo requests to a guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe<'a> {
    pub(super) since: MonotonicNs,
    pub(super) until: MonotonicNs,
    /// Whether their end was seen.
    pub(super) ended: bool,
    /// What they told as a whole; none when none was seen to leave.
    pub(super) echo: Option<&'a Echo>,
}

/// Whether the guest of a migration was asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Probing<'a> {
    Asked(Probe<'a>),
    /// No guest was.
    Nobody,
    /// Another guest has the address that was asked.
    Another(IpAddr),
    /// It is not known which of several guests has the address that was asked.
    Doubtful(IpAddr),
}

/// Who was asked, among the VMs that migrate.
pub(super) struct Probed<'a> {
    facts: &'a Facts,
    /// The VMs that have the address; none: it is not known.
    owners: Option<BTreeSet<VmKey<'a>>>,
}

impl<'a> Probed<'a> {
    pub(super) fn of(facts: &'a Facts, all: &[Migration<'a>]) -> Self {
        let keys: BTreeSet<_> = all.iter().filter_map(VmKey::of).collect();
        let owners = if !facts.echo_owners.is_empty() {
            let is_owner = |m: &&Migration<'_>| m.process.is_some_and(|p| facts.echo_owners.contains(&p.pid));
            Some(all.iter().filter(is_owner).filter_map(VmKey::of).collect())
        } else if keys.len() > 1 {
            stopped_as_it_fell_silent(facts, all)
        } else {
            Some(keys)
        };
        Self { facts, owners }
    }

    pub(super) fn probing(&self, migration: &Migration<'a>) -> Probing<'a> {
        let Some((since, start)) = &self.facts.echo_start else { return Probing::Nobody };
        let key = VmKey::of(migration);
        match &self.owners {
            None => Probing::Doubtful(start.target),
            // A migration whose QEMU is not in this network namespace is the only one.
            Some(owners) if key.is_some_and(|key| !owners.contains(&key)) => Probing::Another(start.target),
            Some(_) => {
                let end = self.facts.echo_end.as_ref();
                Probing::Asked(Probe {
                    since: *since,
                    ended: end.is_some(),
                    until: end.map_or(self.facts.latest, |(at, _)| *at),
                    echo: end.and_then(|(_, end)| end.echo.as_ref()),
                })
            }
        }
    }
}

/// The one VM that stopped just when the address fell silent for the longest time.
fn stopped_as_it_fell_silent<'a>(facts: &Facts, all: &[Migration<'a>]) -> Option<BTreeSet<VmKey<'a>>> {
    let longest =
        facts.silences.iter().max_by_key(|gap| gap.resumed_ns.0.saturating_sub(gap.last_reply_ns.0))?;
    let silent = gaps::silent_from(longest);
    let stopped_then = all.iter().filter(|m| m.last_stop().is_some_and(|stop| silent.holds(stop.at)));
    let owners: BTreeSet<_> = stopped_then.filter_map(VmKey::of).collect();
    (owners.len() == 1).then_some(owners)
}
