//! One record of what several hosts have seen.
//!
//! Each host has its facts, its migrations and its clock. A migration of one host and a migration of another are the two
//! halves of one if they have a connection in common, which both hosts know by the sequence numbers of its SYNs: those
//! are the same even if addresses are translated on the way.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::alignment::crossings::{BySyns, Pairs, mirrored, other_end};
use super::alignment::{Alignment, NotAligned, most_drift_ppm};
use super::assemble;
use super::assign::migrations;
use super::facts::{Facts, FlowFacts};
use super::half::{Half, HostClock};
use super::joined::{Apart, Joined, View};
use super::migration::MigrationFacts;
use super::pairs::pairs;
use super::probe_target::ProbeTarget;
use super::{Timeline, selects};
use crate::record::{Record, Role};
use crate::selection::Selection;
use crate::units::{Flow, MonotonicNs};

/// How far the wall clocks of two hosts may be apart where nothing but the time shows that two migrations are one.
const WALL_CLOCKS_APART_NS: i64 = 10_000_000_000;

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
    let links = links(&hosts);
    let strangers = (0..hosts.len()).filter_map(|host| Some((stranger(host, &hosts, &links)?, host)));
    if let Some((why, host)) = strangers.min() {
        return Err(NotTogether { host, why: why.to_string() });
    }
    let mut records = records(&hosts, &first.selection, &links);
    records.sort_by_key(|record| {
        let host = record.observers.first().map(|observer| observer.host.clone());
        (record.start.realtime_ns, host, record.migration.id.clone())
    });
    Ok(records)
}

/// The records of the selected migrations of one host, in the order of their starts.
pub(super) fn of_one_host(facts: &Facts, selection: &Selection) -> Vec<Record> {
    records(&[Host::of(facts)], selection, &Links::new())
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
    clock: Result<Alignment, NotAligned>,
}

/// The records of the selected migrations, host by host.
fn records(hosts: &[Host<'_>], selection: &Selection, links: &Links) -> Vec<Record> {
    // Those are in the records of their sources.
    let arrivals = arrivals(links);
    let joined =
        places(hosts).filter(|place| !arrivals.contains(place)).map(|place| joined(hosts, place, links));
    let is_selected = |joined: &Joined<'_>| {
        let views = [Some(joined.first), joined.elsewhere(), joined.apart.as_ref().map(|apart| apart.view)];
        views.into_iter().flatten().any(|view| selects(selection, view.half.migration))
    };
    joined.filter(is_selected).map(|joined| assemble::record(&joined)).collect()
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

fn joined<'h>(hosts: &'h [Host<'h>], (index, migration): Place, links: &'h Links) -> Joined<'h> {
    let host = &hosts[index];
    let own = HostClock { start: host.migrations[migration].start, alignment: None };
    let first = host.view(migration, own);
    let Some(Link { other: (there, half), clock }) = links.get(&(index, migration)) else {
        let other = host.pairs[migration].map(|other| host.view(other, own));
        return Joined { first, other, apart: None };
    };
    match clock {
        Ok(alignment) => {
            let clock = HostClock { alignment: Some(alignment), ..own };
            Joined { first, other: Some(hosts[*there].view(*half, clock)), apart: None }
        }
        Err(why) => {
            let own = HostClock { start: hosts[*there].migrations[*half].start, alignment: None };
            let apart = Apart { view: hosts[*there].view(*half, own), why: *why };
            Joined { first, other: None, apart: Some(apart) }
        }
    }
}

/// Finds the other half of each migration at a source.
fn links(hosts: &[Host<'_>]) -> Links {
    let mirrors: Vec<_> = hosts.iter().map(|host| mirrored(host.facts)).collect();
    let of_flows: Vec<_> = hosts.iter().map(destinations).collect();
    let mut links = Links::new();
    // Hosts have their own names, so the order in which they are given decides nothing.
    let name = |(there, _): Place| hosts[there].facts.observation.as_ref().map(|o| o.host.as_str());
    for (here, index) in places_of(hosts, Role::Source) {
        let (host, migration) = (&hosts[here], &hosts[here].migrations[index]);
        let elsewhere = (0..hosts.len()).filter(|there| *there != here);
        let shared = elsewhere.flat_map(|there| {
            shared_connections(migration, &mirrors[there], &of_flows[there])
                .map(move |(half, count)| (count, (there, half)))
        });
        if let Some((_, other)) = shared.max_by_key(|(count, other)| (*count, name(*other))) {
            let clock = alignment(host, migration, &hosts[other.0], &mirrors[other.0]);
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

/// The clock of another host, by all connections that the migration has with it.
fn alignment(
    host: &Host<'_>,
    migration: &MigrationFacts<'_>,
    other: &Host<'_>,
    mirror: &BySyns<'_>,
) -> Result<Alignment, NotAligned> {
    let mut pairs = Pairs::default();
    for flow in &migration.flows {
        if let Some(end) = other_end(flow, mirror) {
            pairs.add((host.facts, flow), (other.facts, end));
        }
    }
    let slews = [host.facts.fastest_slew_ppm, other.facts.fastest_slew_ppm];
    Alignment::of(pairs.there, pairs.back, most_drift_ppm(slews))
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
            links.insert(*from, Link { other: *other, clock: Err(NotAligned::NoPackets) });
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
    let time = |host: &Host<'_>, half: &MigrationFacts<'_>| {
        Some((host.wall_ns(half.start)?, host.wall_ns(half.end.at())?))
    };
    let overlap = time(source, left).zip(time(destination, arrived)).is_some_and(|(a, b)| {
        a.0 <= b.1.saturating_add(WALL_CLOCKS_APART_NS) && b.0 <= a.1.saturating_add(WALL_CLOCKS_APART_NS)
    });
    (is_same_vm || is_mirrored) && overlap
}

/// Why a host does not belong to the others; the plainest reason first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
enum Stranger {
    #[error("it was recorded on the same host, at the same time, as another of the logs")]
    Copy,
    #[error("it holds no migration")]
    NoMigration,
    #[error(
        "no migration in it has a connection in common with a migration in another of the logs, nor its VM and its time"
    )]
    Unrelated,
}

/// Why a host does not belong to the others; none if it does.
fn stranger(index: usize, hosts: &[Host<'_>], links: &Links) -> Option<Stranger> {
    let host = &hosts[index];
    let own = connections(host);
    if hosts[..index].iter().any(|other| !own.is_disjoint(&connections(other))) {
        return Some(Stranger::Copy);
    }
    if links.iter().any(|(from, link)| from.0 == index || link.other.0 == index) {
        return None;
    }
    Some(if host.migrations.is_empty() { Stranger::NoMigration } else { Stranger::Unrelated })
}

/// The connections of a host, as no other host sees them.
fn connections(host: &Host<'_>) -> HashSet<(Flow, u32, u32)> {
    let known = |flow: &FlowFacts| flow.initial_sequences.map(|syns| (flow.flow, syns.tx, syns.rx));
    host.facts.flows.iter().filter_map(known).collect()
}
