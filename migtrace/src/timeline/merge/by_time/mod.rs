//! Links migrations whose connections were not seen on both hosts, by their VM or their addresses, and by time.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;

use super::clock::{OtherClock, by_readings};
use super::peers::Peers;
use super::{Host, Link, Links, Place, arrivals, places_of};
use crate::record::Role;
use crate::timeline::alignment::NotAligned;
use crate::timeline::alignment::relation::WALL_CLOCKS_APART_NS;
use crate::timeline::facts::FlowFacts;
use crate::timeline::migration::MigrationFacts;

/// Links migrations that are of one VM, or between the same addresses, if no other could be meant.
pub(super) fn link_by_time(hosts: &[Host<'_>], peers: &Peers, links: &mut Links) {
    for (from, other) in pairs(hosts, links) {
        let relation = by_readings(hosts, peers, from.0, other.0).ok_or(NotAligned::NoPackets);
        links.insert(from, Link { other, clock: OtherClock { relation, contradicted: false } });
    }
}

/// The migrations at sources and at destinations that are not linked yet and may be halves of each other, but not of any
/// other.
fn pairs(hosts: &[Host<'_>], links: &Links) -> Vec<(Place, Place)> {
    let linked = arrivals(links);
    let arrived = places_of(hosts, Role::Destination).filter(|arrival| !linked.contains(arrival));
    let left = places_of(hosts, Role::Source).filter(|from| !links.contains_key(from));
    let (arrived, left) = (ByKey::of(hosts, arrived), ByKey::of(hosts, left));
    let only_pair = |from: &Candidate| {
        let other = arrived.only(hosts, from, |to| came_by(hosts, from.place, to))?;
        let back = left.only(hosts, other, |from| came_by(hosts, from, other.place))?;
        (back.place == from.place).then_some((from.place, other.place))
    };
    left.all.iter().filter_map(only_pair).collect()
}

/// A migration whose wall time is known.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    place: Place,
    start: i64,
    end: i64,
}

/// What two halves of a migration have in common, as its source sees it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Key<'a> {
    Vm(&'a str),
    Ends { local: SocketAddr, remote: SocketAddr },
}

/// The keys of a migration.
fn keys<'a>(migration: &MigrationFacts<'a>) -> impl Iterator<Item = Key<'a>> {
    let uuid = migration.qemu().and_then(|qemu| qemu.uuid.as_deref());
    let ends = migration.flows.iter().map(|flow| {
        let ends = if migration.role == Role::Source {
            (flow.flow.local, flow.flow.remote)
        } else {
            (flow.flow.remote, flow.flow.local)
        };
        Key::Ends { local: ends.0, remote: ends.1 }
    });
    uuid.map(Key::Vm).into_iter().chain(ends)
}

/// Migrations by what they may have in common with others, and by time.
struct ByKey<'a> {
    all: Vec<Candidate>,
    /// Places in `all`, in the order of the starts, each with the latest end until there.
    by_key: HashMap<Key<'a>, Vec<(usize, i64)>>,
}

impl<'a> ByKey<'a> {
    fn of(hosts: &[Host<'a>], places: impl Iterator<Item = Place>) -> Self {
        let candidates = places.filter_map(|place| {
            let host = &hosts[place.0];
            let migration = &host.migrations[place.1];
            let (start, end) = (host.wall_ns(migration.start)?, host.wall_ns(migration.end.at())?);
            Some(Candidate { place, start, end })
        });
        let mut all: Vec<_> = candidates.collect();
        all.sort_by_key(|candidate| (candidate.start, candidate.place));
        let mut by_key: HashMap<_, Vec<(usize, i64)>> = HashMap::new();
        for (index, candidate) in all.iter().enumerate() {
            for key in keys(&hosts[candidate.place.0].migrations[candidate.place.1]) {
                let same = by_key.entry(key).or_default();
                let latest_end = same.last().map_or(candidate.end, |(_, before)| candidate.end.max(*before));
                same.push((index, latest_end));
            }
        }
        Self { all, by_key }
    }

    /// The only one of another host that has a key in common with `half`, overlaps with it in time and `may_be` the other
    /// half.
    fn only(
        &self,
        hosts: &[Host<'a>],
        half: &Candidate,
        may_be: impl Fn(Place) -> bool,
    ) -> Option<&Candidate> {
        let mut found: Option<&Candidate> = None;
        for key in keys(&hosts[half.place.0].migrations[half.place.1]) {
            for other in self.overlapping(&key, half) {
                let is_known = found.is_some_and(|found| found.place == other.place);
                if is_known || other.place.0 == half.place.0 || !may_be(other.place) {
                    continue;
                }
                if found.replace(other).is_some() {
                    return None;
                }
            }
        }
        found
    }

    /// Those with a key that overlap in time, as far as wall clocks show it.
    fn overlapping(&self, key: &Key<'a>, half: &Candidate) -> impl Iterator<Item = &Candidate> {
        let later = |at: i64| at.saturating_add(WALL_CLOCKS_APART_NS);
        let (start, end) = (half.start, later(half.end));
        let same = self.by_key.get(key).map_or(&[][..], Vec::as_slice);
        let begun = same.partition_point(|(index, _)| self.all[*index].start <= end);
        let not_over = same[..begun].iter().rev().take_while(move |(_, latest)| start <= later(*latest));
        not_over.map(|(index, _)| &self.all[*index]).filter(move |other| start <= later(other.end))
    }
}

/// Whether the connections of a migration that left and of one that arrived allow that they are one.
fn came_by(hosts: &[Host<'_>], from: Place, to: Place) -> bool {
    let (left, arrived) = (&hosts[from.0].migrations[from.1], &hosts[to.0].migrations[to.1]);
    is_mirrored(left, arrived) || !came_otherwise(left, arrived)
}

/// Whether one has a connection with the ends that one of the other has.
fn is_mirrored(left: &MigrationFacts<'_>, arrived: &MigrationFacts<'_>) -> bool {
    left.flows.iter().any(|flow| {
        let ends = flow.flow;
        arrived.flows.iter().any(|other| other.flow.local == ends.remote && other.flow.remote == ends.local)
    })
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
