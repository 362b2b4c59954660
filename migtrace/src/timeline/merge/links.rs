//! Which migrations of two hosts are the two halves of one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::by_time::link_by_time;
use super::clock::of_other_half;
use super::peers::Peers;
use super::{Host, Link, Links, Place, places_of};
use crate::record::Role;
use crate::timeline::alignment::crossings::{BySyns, mirrored, other_end};
use crate::timeline::migration::MigrationFacts;

/// Finds the other half of each migration at a source.
pub(super) fn links(hosts: &[Host<'_>], peers: &Peers) -> Links {
    let mirrors: Vec<_> = hosts.iter().map(|host| mirrored(host.facts)).collect();
    let with_syns = hosts_by_syns(&mirrors);
    let of_flows: Vec<_> = hosts.iter().map(destinations).collect();
    let mut links = Links::new();
    // Hosts have their own names, so the order in which they are given decides nothing.
    let name = |(there, _): Place| hosts[there].facts.observation.as_ref().map(|o| o.host.as_str());
    for (here, index) in places_of(hosts, Role::Source) {
        let migration = &hosts[here].migrations[index];
        let syns = migration.flows.iter().filter_map(|flow| flow.initial_sequences);
        let others = syns.filter_map(|syns| with_syns.get(&(syns.tx, syns.rx))).flatten();
        let elsewhere: BTreeSet<_> = others.copied().filter(|there| *there != here).collect();
        let shared = elsewhere.into_iter().flat_map(|there| {
            shared_connections(migration, &mirrors[there], &of_flows[there])
                .map(move |(half, count)| (count, (there, half)))
        });
        if let Some((_, other)) = shared.max_by_key(|(count, other)| (*count, name(*other))) {
            let clock = of_other_half(hosts, peers, (here, migration), (other.0, &mirrors[other.0]));
            links.insert((here, index), Link { other, clock });
        }
    }
    link_by_time(hosts, peers, &mut links);
    links
}

/// The hosts that have connections with these SYNs, as the other end sees them.
fn hosts_by_syns(mirrors: &[BySyns<'_>]) -> HashMap<(u32, u32), Vec<usize>> {
    let mut found: HashMap<_, Vec<usize>> = HashMap::new();
    for (host, mirror) in mirrors.iter().enumerate() {
        for syns in mirror.keys() {
            found.entry(*syns).or_default().push(host);
        }
    }
    found
}

/// The migration at a destination that each flow belongs to, by the flow's index.
fn destinations(host: &Host<'_>) -> HashMap<usize, usize> {
    let arriving = host.migrations.iter().enumerate().filter(|(_, half)| half.role == Role::Destination);
    arriving.flat_map(|(index, half)| half.flows.iter().map(move |flow| (flow.index, index))).collect()
}

/// The migrations of another host that have connections of this one, and how many.
fn shared_connections(
    migration: &MigrationFacts<'_>,
    mirror: &BySyns<'_>,
    of_flows: &HashMap<usize, usize>,
) -> impl Iterator<Item = (usize, usize)> + use<> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    let others = migration.flows.iter().filter_map(|flow| other_end(flow, mirror));
    for half in others.filter_map(|other| of_flows.get(&other.index)) {
        *counts.entry(*half).or_default() += 1;
    }
    counts.into_iter()
}
