//! Which migrations of two hosts are the two halves of one.

use std::collections::{BTreeMap, HashMap};

use super::clock::{OtherClock, by_readings, of_other_half};
use super::{Host, Link, Links, Place, arrivals, places_of};
use crate::record::Role;
use crate::timeline::alignment::NotAligned;
use crate::timeline::alignment::crossings::{BySyns, mirrored, other_end};
use crate::timeline::alignment::relation::WALL_CLOCKS_APART_NS;
use crate::timeline::facts::FlowFacts;
use crate::timeline::migration::MigrationFacts;

/// Finds the other half of each migration at a source.
pub(super) fn links(hosts: &[Host<'_>]) -> Links {
    let mirrors: Vec<_> = hosts.iter().map(|host| mirrored(host.facts)).collect();
    let of_flows: Vec<_> = hosts.iter().map(destinations).collect();
    let mut links = Links::new();
    // Hosts have their own names, so the order in which they are given decides nothing.
    let name = |(there, _): Place| hosts[there].facts.observation.as_ref().map(|o| o.host.as_str());
    for (here, index) in places_of(hosts, Role::Source) {
        let migration = &hosts[here].migrations[index];
        let elsewhere = (0..hosts.len()).filter(|there| *there != here);
        let shared = elsewhere.flat_map(|there| {
            shared_connections(migration, &mirrors[there], &of_flows[there])
                .map(move |(half, count)| (count, (there, half)))
        });
        if let Some((_, other)) = shared.max_by_key(|(count, other)| (*count, name(*other))) {
            let clock = of_other_half(hosts, (here, migration), other.0, &mirrors[other.0]);
            links.insert((here, index), Link { other, clock });
        }
    }
    link_by_time(hosts, &mut links);
    links
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

/// Links migrations whose connections were not seen on both hosts: they are of one VM, or between the same addresses, and
/// no other could be meant.
fn link_by_time(hosts: &[Host<'_>], links: &mut Links) {
    let linked = arrivals(links);
    let arrivals: Vec<_> =
        places_of(hosts, Role::Destination).filter(|arrival| !linked.contains(arrival)).collect();
    let departures: Vec<_> =
        places_of(hosts, Role::Source).filter(|from| !links.contains_key(from)).collect();
    let may_be_one = |from: Place, to: Place| from.0 != to.0 && may_be_halves(hosts, from, to);
    for from in &departures {
        let mut candidates = arrivals.iter().filter(|to| may_be_one(*from, **to));
        let (Some(other), None) = (candidates.next(), candidates.next()) else { continue };
        let rivals = departures.iter().filter(|rival| may_be_one(**rival, *other)).count();
        if rivals == 1 {
            let relation = by_readings(hosts, from.0, other.0).ok_or(NotAligned::NoPackets);
            let clock = OtherClock { relation, contradicted: false };
            links.insert(*from, Link { other: *other, clock });
        }
    }
}

/// Whether two migrations may be halves of one, as far as VM, addresses and wall time show.
fn may_be_halves<'a>(hosts: &[Host<'a>], from: Place, to: Place) -> bool {
    let (source, destination) = (&hosts[from.0], &hosts[to.0]);
    let (left, arrived) = (&source.migrations[from.1], &destination.migrations[to.1]);
    let uuid = |half: &MigrationFacts<'a>| half.qemu().and_then(|qemu| qemu.uuid.as_deref());
    let is_same_vm = uuid(left).is_some() && uuid(left) == uuid(arrived);
    let is_mirrored = left.flows.iter().any(|flow| {
        let ends = flow.flow;
        arrived.flows.iter().any(|other| other.flow.local == ends.remote && other.flow.remote == ends.local)
    });
    let is_another = !is_mirrored && came_otherwise(left, arrived);
    let time = |host: &Host<'_>, half: &MigrationFacts<'_>| {
        Some((host.wall_ns(half.start)?, host.wall_ns(half.end.at())?))
    };
    let overlap = time(source, left).zip(time(destination, arrived)).is_some_and(|(a, b)| {
        a.0 <= b.1.saturating_add(WALL_CLOCKS_APART_NS) && b.0 <= a.1.saturating_add(WALL_CLOCKS_APART_NS)
    });
    (is_same_vm || is_mirrored) && overlap && !is_another
}

/// Whether the beginnings of both migrations' connections show that they are two: one arrived where the other went, but by
/// another connection, or where the other came from. A guest may come again within seconds.
fn came_otherwise(left: &MigrationFacts<'_>, arrived: &MigrationFacts<'_>) -> bool {
    let began = |flow: &&&FlowFacts| flow.initial_sequences.is_some();
    left.flows.iter().filter(began).any(|from| {
        arrived
            .flows
            .iter()
            .filter(began)
            .any(|to| to.flow.local == from.flow.remote || to.flow.local.ip() == from.flow.local.ip())
    })
}
