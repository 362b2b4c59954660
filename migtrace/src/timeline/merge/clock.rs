//! How the clocks of two hosts relate.

use super::Host;
use super::peers::Peers;
use crate::record::AlignmentMethod;
use crate::timeline::alignment::crossings::{BySyns, Pairs, other_end};
use crate::timeline::alignment::readings::readings;
use crate::timeline::alignment::relation::Relation;
use crate::timeline::alignment::{Alignment, NotAligned, most_drift_ppm};
use crate::timeline::facts::Facts;
use crate::timeline::migration::MigrationFacts;

/// The clock of the host of a migration's other half.
pub(super) struct OtherClock {
    pub(super) relation: Result<Relation, NotAligned>,
    /// Packets contradict each other, and say nothing of it.
    pub(super) contradicted: bool,
}

/// By all connections that the two hosts have in common for the migration, and by what they have read of each other's clocks.
/// Where the packets contradict each other, the readings still hold: nobody on the network can make them up.
pub(super) fn of_other_half(
    hosts: &[Host<'_>],
    peers: &Peers,
    (here, migration): (usize, &MigrationFacts<'_>),
    (there, mirror): (usize, &BySyns<'_>),
) -> OtherClock {
    let (own, other) = (hosts[here].facts, hosts[there].facts);
    let mut pairs = Pairs::default();
    for flow in &migration.flows {
        if let Some(end) = other_end(flow, mirror) {
            pairs.add((own, flow), (other, end));
        }
    }
    let by_readings = || by_readings(hosts, peers, here, there);
    if pairs.there.is_empty() || pairs.back.is_empty() {
        return OtherClock { relation: by_readings().ok_or(NotAligned::NoPackets), contradicted: false };
    }
    let Pairs { there, back } = readings(own, other);
    pairs.there.extend(there);
    pairs.back.extend(back);
    let by_packets = aligned(own, other, pairs);
    let contradicted = by_packets.as_ref().err() == Some(&NotAligned::Contradiction);
    let relation = match by_packets {
        Ok(alignment) => Ok(Relation::Direct(alignment, AlignmentMethod::Tcp)),
        Err(why) => by_readings().ok_or(why),
    };
    OtherClock { relation, contradicted }
}

/// The clock of a host, by what it and others have read of clocks.
pub(super) fn by_readings(hosts: &[Host<'_>], peers: &Peers, here: usize, there: usize) -> Option<Relation> {
    let read = |from: usize, of: usize| {
        let (from, of) = (hosts[from].facts, hosts[of].facts);
        aligned(from, of, readings(from, of)).ok()
    };
    if let Some(alignment) = read(here, there) {
        return Some(Relation::Direct(alignment, AlignmentMethod::ControlConnection));
    }
    let thirds = peers.all().filter(|third| *third != here && *third != there);
    let through = thirds.filter_map(|third| Some((third, [read(here, third)?, read(third, there)?])));
    // Hosts have their own names, so the order in which they are given decides nothing.
    let (_, chain) = through.min_by_key(|(third, _)| hosts[*third].facts.host())?;
    Some(Relation::Through(chain))
}

/// The clock of a host, by the wall clocks.
pub(super) fn by_wall_clocks(here: &Facts, there: &Facts) -> Option<Relation> {
    let [here, there] = [here, there].map(|facts| facts.clocks.at(facts.latest));
    Some(Relation::WallClock { offset_ns: here?.offset_ns.saturating_sub(there?.offset_ns) })
}

fn aligned(own: &Facts, other: &Facts, pairs: Pairs) -> Result<Alignment, NotAligned> {
    Alignment::of(pairs.there, pairs.back, most_drift_ppm([own.fastest_slew_ppm, other.fastest_slew_ppm]))
}
