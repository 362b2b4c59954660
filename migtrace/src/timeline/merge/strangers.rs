//! Hosts whose facts do not belong to those of the others.

use std::collections::HashSet;

use super::{Found, Host};
use crate::timeline::facts::{Facts, FlowFacts};
use crate::units::Flow;

/// Why a host does not belong to the others; the plainest reason first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
pub(super) enum Stranger {
    #[error("it was recorded on the same host, at the same time, as another of the logs")]
    Copy,
    #[error("it holds neither a migration nor echo requests")]
    Nothing,
    #[error("its echo requests were sent at another time than the migrations in the other logs")]
    AnotherTime,
    #[error(
        "no migration in it has a connection in common with a migration in another of the logs, nor, where no connection was seen to begin, its VM and its time"
    )]
    Unrelated,
}

/// Why a host does not belong to the others; none if it does.
pub(super) fn stranger(index: usize, hosts: &[Host<'_>], found: &Found) -> Option<Stranger> {
    let host = &hosts[index];
    let own = connections(host);
    let is_copy = |other: &Host<'_>| {
        !own.is_disjoint(&connections(other))
            || (host.facts.recording().is_some() && host.facts.recording() == other.facts.recording())
    };
    if hosts[..index].iter().any(is_copy) {
        return Some(Stranger::Copy);
    }
    let Found { links, watchers } = found;
    let is_peer = |other: &Host<'_>| {
        let read = |a: &Facts, b: &Facts| !a.readings_of(b).is_empty();
        read(host.facts, other.facts) || read(other.facts, host.facts)
    };
    let takes_part = links.iter().any(|(from, link)| from.0 == index || link.other.0 == index);
    if takes_part || hosts.iter().any(is_peer) || watchers.has_watched(hosts, links, index) {
        return None;
    }
    Some(match (host.migrations.is_empty(), &host.facts.echo_start) {
        (false, _) => Stranger::Unrelated,
        (true, Some(_)) => Stranger::AnotherTime,
        (true, None) => Stranger::Nothing,
    })
}

/// The connections of a host, as no other host sees them.
fn connections(host: &Host<'_>) -> HashSet<(Flow, u32, u32)> {
    let known = |flow: &FlowFacts| flow.initial_sequences.map(|syns| (flow.flow, syns.tx, syns.rx));
    host.facts.flows.iter().filter_map(known).collect()
}
