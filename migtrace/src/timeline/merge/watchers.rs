//! Hosts that have no part in a migration, and have sent echo requests while it was under way.

use std::collections::BTreeMap;

use super::clock::{by_readings, by_wall_clocks};
use super::peers::Peers;
use super::{Host, Links, Place, places};
use crate::timeline::alignment::relation::Relation;
use crate::timeline::half::HostClock;
use crate::timeline::joined::Observing;

/// How the clock of each host that has sent echo requests relates to that of each other one, by both.
#[derive(Default)]
pub(super) struct Watchers(BTreeMap<(usize, usize), Relation>);

impl Watchers {
    /// All of them.
    pub(super) fn of(hosts: &[Host<'_>], peers: &Peers) -> Self {
        let mut found = BTreeMap::new();
        for (watcher, host) in hosts.iter().enumerate().filter(|(_, host)| host.facts.echo_start.is_some()) {
            for here in (0..hosts.len()).filter(|here| *here != watcher) {
                let by_wall_clocks = || by_wall_clocks(hosts[here].facts, host.facts);
                if let Some(relation) = by_readings(hosts, peers, here, watcher).or_else(by_wall_clocks) {
                    found.insert((here, watcher), relation);
                }
            }
        }
        Self(found)
    }

    /// Those that watched while a migration was under way, and are not on its own hosts.
    pub(super) fn watching<'h>(
        &'h self,
        hosts: &'h [Host<'h>],
        links: &Links,
        (here, migration): Place,
    ) -> Vec<Observing<'h>> {
        let own = &hosts[here].migrations[migration];
        let other = links.get(&(here, migration)).map(|link| link.other.0);
        let candidates =
            self.0.range((here, 0)..=(here, usize::MAX)).filter(|((_, there), _)| Some(*there) != other);
        let observing = candidates.filter_map(|((_, there), relation)| {
            let facts = hosts[*there].facts;
            let clock = HostClock { start: own.start, relation: Some(relation) };
            let since = facts.echo_start.as_ref()?.0;
            let until = facts.echo_end.as_ref().map_or(facts.latest, |(at, _)| *at);
            let overlaps = since <= clock.latest(own.end.at()) && clock.earliest(own.start) <= until;
            overlaps.then_some(Observing { facts, clock })
        });
        let mut observing: Vec<_> = observing.collect();
        observing.sort_by_key(|watcher| watcher.facts.host());
        observing
    }

    /// Whether a host watched while any migration of another was under way.
    pub(super) fn has_watched(&self, hosts: &[Host<'_>], links: &Links, watcher: usize) -> bool {
        let watched = |place: Place| {
            let is_it = |found: &Observing<'_>| std::ptr::eq(found.facts, hosts[watcher].facts);
            self.watching(hosts, links, place).iter().any(is_it)
        };
        places(hosts).any(watched)
    }
}
