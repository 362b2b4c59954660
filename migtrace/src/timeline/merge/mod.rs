//! One record of what several hosts have seen.
//!
//! Each host has its facts, its migrations and its clock. A migration of one host and a migration of another are the two
//! halves of one if they have a connection in common, which both hosts know by the sequence numbers of its SYNs: those
//! are the same even if addresses are translated on the way.

mod by_time;
mod clock;
mod links;
mod peers;
mod strangers;
mod watchers;

use std::collections::{BTreeMap, BTreeSet};

use super::assemble;
use super::assign::migrations;
use super::facts::Facts;
use super::half::{Half, HostClock};
use super::joined::{Apart, Joined, Observing, View};
use super::migration::MigrationFacts;
use super::pairs::pairs;
use super::probe_target::ProbeTarget;
use super::{Timeline, selects};
use crate::record::{Record, Role};
use crate::selection::Selection;
use crate::units::MonotonicNs;
use clock::OtherClock;
use links::links;
use peers::Peers;
use strangers::{Stranger, copies, strangers};
use watchers::Watchers;

/// Why the facts of some hosts make no common record.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{why}")]
pub struct NotTogether {
    /// The place, in the order in which they were given, of the host that does not belong to the others.
    pub host: usize,
    /// Why.
    pub why: String,
}

/// The records of the selected migrations of several hosts: one for each migration, whichever hosts have seen it. In the
/// order of their starts. The order of the hosts does not matter; the first one's selection holds.
///
/// # Errors
/// A host has no part in a migration of the others.
pub fn merged(hosts: &[Timeline]) -> Result<Vec<Record>, NotTogether> {
    let [first, _, ..] = hosts else {
        return Ok(hosts.iter().flat_map(Timeline::finish).collect());
    };
    let hosts: Vec<_> = hosts.iter().map(|timeline| Host::of(&timeline.facts)).collect();
    let found = Found::of(&hosts);
    if let Some((why, host)) = strangers(&hosts, &found).into_iter().min() {
        return Err(NotTogether { host, why: why.to_string() });
    }
    let merged = records_of_all(&hosts, &first.selection, &found);
    Ok(merged.into_iter().map(|merged| merged.record).collect())
}

/// A record of what one host or several have seen.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Merged {
    /// The record.
    pub record: Record,
    /// The id that the migration has in a record of its other half alone, if that is another. It is where addresses are
    /// translated on the way.
    pub other_id: Option<String>,
}

/// As [`merged`], of hosts that need not all belong together: migrations of which only one host knows have records too.
/// Leaves out hosts that are recorded twice, and says which: as places in the order in which they were given.
#[must_use]
pub fn merged_as_found(hosts: &[Timeline]) -> (Vec<Merged>, Vec<NotTogether>) {
    let selection = hosts.first().map(|first| first.selection.clone()).unwrap_or_default();
    let mut hosts: Vec<_> = hosts.iter().map(|timeline| Host::of(&timeline.facts)).collect();
    let copies = copies(&hosts);
    let mut places = 0..;
    hosts.retain(|_| places.next().is_some_and(|place| !copies.contains(&place)));
    let found = Found::of(&hosts);
    let copy = |host| NotTogether { host, why: Stranger::Copy.to_string() };
    (records_of_all(&hosts, &selection, &found), copies.into_iter().map(copy).collect())
}

/// The records of the selected migrations of one host, in the order of their starts.
pub(super) fn of_one_host(facts: &Facts, selection: &Selection) -> Vec<Record> {
    let merged = records(&[Host::of(facts)], selection, &Found::default(), |_| false);
    merged.into_iter().map(|merged| merged.record).collect()
}

/// As [`of_one_host`], but a migration of which both ends are on this host has one record: that of its source.
pub(super) fn of_one_host_once(facts: &Facts, selection: &Selection) -> Vec<Record> {
    let hosts = [Host::of(facts)];
    let Host { migrations, pairs, .. } = &hosts[0];
    let is_repeat = |(_, migration): Place| {
        let other = pairs[migration].filter(|other| pairs[*other] == Some(migration));
        other.is_some() && migrations[migration].role == Role::Destination
    };
    let merged = records(&hosts, selection, &Found::default(), is_repeat);
    merged.into_iter().map(|merged| merged.record).collect()
}

/// What one host knows.
struct Host<'a> {
    facts: &'a Facts,
    migrations: Vec<MigrationFacts<'a>>,
    /// The other half of each migration, where it is on the same host.
    pairs: Vec<Option<usize>>,
    probed: ProbeTarget<'a>,
}

impl<'a> Host<'a> {
    fn of(facts: &'a Facts) -> Self {
        let migrations = migrations(facts);
        Self { facts, pairs: pairs(&migrations), probed: ProbeTarget::of(facts, &migrations), migrations }
    }

    fn view<'v>(&'v self, migration: usize, clock: HostClock<'v>) -> View<'v>
    where
        'a: 'v,
    {
        let half = Half { facts: self.facts, migration: &self.migrations[migration], clock };
        View { half, probed: &self.probed }
    }

    /// The wall time of an instant.
    fn wall_ns(&self, at: MonotonicNs) -> Option<i64> {
        Some(self.facts.clocks.at(at)?.realtime_ns(at))
    }
}

/// A migration of a host: indices of both.
type Place = (usize, usize);

/// The other half of each migration at a source whose destination is another host.
type Links = BTreeMap<Place, Link>;

struct Link {
    other: Place,
    clock: OtherClock,
}

/// How the hosts belong together.
#[derive(Default)]
struct Found {
    peers: Peers,
    links: Links,
    watchers: Watchers,
}

impl Found {
    fn of(hosts: &[Host<'_>]) -> Self {
        let peers = Peers::of(hosts);
        Self { links: links(hosts, &peers), watchers: Watchers::of(hosts, &peers), peers }
    }
}

/// The records of the selected migrations of all hosts. Those that arrive are in the records of their sources.
fn records_of_all(hosts: &[Host<'_>], selection: &Selection, found: &Found) -> Vec<Merged> {
    let arrivals = arrivals(&found.links);
    records(hosts, selection, found, |place| arrivals.contains(&place))
}

/// The records of the selected migrations, in the order of their starts; without those that are in the record of another.
fn records(
    hosts: &[Host<'_>],
    selection: &Selection,
    found: &Found,
    is_in_another: impl Fn(Place) -> bool,
) -> Vec<Merged> {
    let joined =
        places(hosts).filter(|place| !is_in_another(*place)).map(|place| joined(hosts, place, found));
    let is_selected =
        |joined: &Joined<'_>| joined.own_hosts().any(|view| selects(selection, view.half.migration));
    let merged = joined.filter(is_selected).map(|joined| {
        let record = assemble::record(&joined);
        let id = |view: View<'_>| assemble::id(view.half.facts, view.half.migration);
        let other = joined.own_hosts().skip(1).find_map(id);
        Merged { other_id: other.filter(|other| record.migration.id.as_ref() != Some(other)), record }
    });
    let mut merged: Vec<_> = merged.collect();
    if hosts.len() > 1 {
        merged.sort_by_key(|Merged { record, .. }| {
            let host = record.observers.first().map(|observer| observer.host.clone());
            (record.start.realtime_ns, host, record.migration.id.clone())
        });
    }
    merged
}

/// All migrations, host by host.
fn places(hosts: &[Host<'_>]) -> impl Iterator<Item = Place> {
    let of_host = |(index, host): (usize, &Host<'_>)| {
        (0..host.migrations.len()).map(move |migration| (index, migration))
    };
    hosts.iter().enumerate().flat_map(of_host)
}

/// Those in which the host has this role.
fn places_of(hosts: &[Host<'_>], role: Role) -> impl Iterator<Item = Place> {
    places(hosts).filter(move |(host, migration)| hosts[*host].migrations[*migration].role == role)
}

/// The migrations at a destination that are linked to their sources.
fn arrivals(links: &Links) -> BTreeSet<Place> {
    links.values().map(|link| link.other).collect()
}

/// The hosts that were to record a migration together with the others, since one of those has read their clocks, and have
/// seen nothing of it.
fn blind<'h>(
    hosts: &'h [Host<'h>],
    place: Place,
    found: &Found,
    observers: &[Observing<'_>],
) -> Vec<&'h Facts> {
    let other = found.links.get(&place).map(|link| link.other.0);
    let observes = |host: &Host<'_>| observers.iter().any(|found| std::ptr::eq(found.facts, host.facts));
    let others = found.peers.read().filter(|index| *index != place.0 && Some(*index) != other);
    let mut blind: Vec<_> = others.map(|index| &hosts[index]).filter(|host| !observes(host)).collect();
    blind.sort_by_key(|host| host.facts.host());
    blind.into_iter().map(|host| host.facts).collect()
}

fn joined<'h>(hosts: &'h [Host<'h>], place: Place, found: &'h Found) -> Joined<'h> {
    let (host, migration) = (&hosts[place.0], place.1);
    let own = HostClock { start: host.migrations[migration].start, relation: None };
    let observers = found.watchers.watching(hosts, &found.links, place);
    let blind = blind(hosts, place, found, &observers);
    let first = host.view(migration, own);
    let alone = Joined { first, other: None, apart: None, contradicted: false, observers, blind };
    let Some(Link { other: (there, half), clock }) = found.links.get(&place) else {
        let other = host.pairs[migration].map(|other| host.view(other, own));
        return Joined { other, ..alone };
    };
    match &clock.relation {
        Ok(relation) => {
            let view = HostClock { relation: Some(relation), ..own };
            Joined { other: Some(hosts[*there].view(*half, view)), contradicted: clock.contradicted, ..alone }
        }
        Err(why) => {
            let own = HostClock { start: hosts[*there].migrations[*half].start, relation: None };
            let apart = Apart { view: hosts[*there].view(*half, own), why: *why };
            Joined { apart: Some(apart), ..alone }
        }
    }
}
