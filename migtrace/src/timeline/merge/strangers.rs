//! Hosts whose facts do not belong to those of the others.

use std::collections::{BTreeSet, HashSet};

use super::{Found, Host};
use crate::event::PeerRecording;
use crate::timeline::facts::FlowFacts;
use crate::units::{Flow, MonotonicNs};
use crate::vocabulary::Purpose;

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

/// The hosts that do not belong to the others, each with the reason.
pub(super) fn strangers(hosts: &[Host<'_>], found: &Found) -> Vec<(Stranger, usize)> {
    let copies = copies(hosts);
    let linked: HashSet<usize> = found.links.iter().flat_map(|(from, link)| [from.0, link.other.0]).collect();
    let why = |index: usize| {
        let host = &hosts[index];
        if copies.contains(&index) {
            return Some(Stranger::Copy);
        }
        let takes_part = linked.contains(&index) || found.peers.has(index);
        if takes_part || found.watchers.has_watched(hosts, &found.links, index) {
            return None;
        }
        Some(match (host.migrations.is_empty(), &host.facts.echo_start) {
            (false, _) => Stranger::Unrelated,
            (true, Some(_)) => Stranger::AnotherTime,
            (true, None) => Stranger::Nothing,
        })
    };
    (0..hosts.len()).filter_map(|index| Some((why(index)?, index))).collect()
}

/// The hosts whose migrations another before them has recorded too, on the same host.
pub(super) fn copies(hosts: &[Host<'_>]) -> BTreeSet<usize> {
    let (mut seen_connections, mut seen_migrations) = (HashSet::new(), HashSet::new());
    let mut is_copy = |host: &Host<'_>| {
        let (own, migrations) = (connections(host), migrations(host));
        let is_copy = own.iter().any(|connection| seen_connections.contains(connection))
            || migrations.iter().any(|migration| seen_migrations.contains(migration));
        seen_connections.extend(own);
        seen_migrations.extend(migrations);
        is_copy
    };
    (0..hosts.len()).filter(|index| is_copy(&hosts[*index])).collect()
}

/// The migrations of a host, as no other log has them: by the recording, the process and the start. One recording may have a
/// log for each. What has none counts as one.
fn migrations(host: &Host<'_>) -> HashSet<(PeerRecording, Option<(u32, MonotonicNs)>)> {
    let Some(recording) = host.facts.recording() else { return HashSet::new() };
    let all = host.migrations.iter().map(|migration| {
        let process = migration.process.map_or(0, |process| process.pid);
        (recording.clone(), Some((process, migration.start)))
    });
    let none = host.migrations.is_empty().then(|| (recording.clone(), None));
    all.chain(none).collect()
}

/// The connections of a host, as no other host sees them. A log may also have those of an earlier migration of the same process,
/// with another purpose: that with which a guest has arrived, when it leaves again.
fn connections(host: &Host<'_>) -> HashSet<(Flow, u32, u32)> {
    let known = |flow: &FlowFacts| flow.initial_sequences.map(|syns| (flow.flow, syns.tx, syns.rx));
    host.facts.flows.iter().filter(|flow| flow.purpose != Purpose::Other).filter_map(known).collect()
}
