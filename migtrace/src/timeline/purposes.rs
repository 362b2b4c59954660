//! What flows carry when their first bytes do not show it.

use super::facts::FlowFacts;
use super::migration::MigrationFacts;
use crate::record::{Mode, PhaseName, Role};
use crate::units::MonotonicNs;
use crate::vocabulary::Purpose;

/// What each flow of a migration carries, in their order.
pub(super) fn purposes(migration: &MigrationFacts<'_>) -> Vec<Purpose> {
    let preempt = preempt_channel(migration);
    let resumed = resumed_streams(migration);
    let is = |found: &FlowFacts, flow: &FlowFacts| std::ptr::eq(found, flow);
    let of = |flow: &&FlowFacts| {
        if preempt.is_some_and(|found| is(found, flow)) {
            Purpose::PostcopyPreempt
        } else if resumed.iter().any(|found| is(found, flow)) {
            Purpose::Ram
        } else {
            flow.purpose
        }
    };
    migration.flows.iter().map(of).collect()
}

/// The channel for the pages that the guest waits for. It has no magic: QEMU sends bare pages on it, and the
/// destination recognises it because it is connected after the memory stream, to the same port
/// (migration/migration.c, `migration_ioc_process_incoming`). QEMU 7.2 connects it when the migration begins, 8.0 and
/// later just before the guest moves. So it is recognised only if the guest has moved ahead of its memory, and if
/// exactly one flow can be it.
fn preempt_channel<'a>(migration: &MigrationFacts<'a>) -> Option<&'a FlowFacts> {
    if migration.mode() != Mode::Postcopy {
        return None;
    }
    let memory = migration.flows.iter().find(|flow| flow.purpose == Purpose::Ram)?;
    let until = first_break(migration).unwrap_or(MonotonicNs(u64::MAX));
    let mut candidates = migration.flows.iter().filter(|flow| {
        flow.purpose == Purpose::Unknown
            && joins_same_ends(migration.role, flow, memory)
            && (memory.first()..until).contains(&flow.first())
            && sent_back(migration.role, flow) == 0
    });
    candidates.next().copied().filter(|_| candidates.next().is_none())
}

/// When the connections first broke.
fn first_break(migration: &MigrationFacts<'_>) -> Option<MonotonicNs> {
    breaks(migration).next()
}

/// When the connections broke.
fn breaks(migration: &MigrationFacts<'_>) -> impl Iterator<Item = MonotonicNs> {
    let breaks =
        migration.transitions.iter().filter(|transition| transition.is_status(&PhaseName::PostcopyPaused));
    breaks.map(|transition| transition.at)
}

/// The connections on which QEMU has resumed the memory stream, without its magic. Where several were made after a break,
/// one of them is the channel for the pages that the guest waits for, and nothing shows which.
fn resumed_streams<'a>(migration: &MigrationFacts<'a>) -> Vec<&'a FlowFacts> {
    let breaks: Vec<_> = breaks(migration).collect();
    let until = breaks.iter().skip(1).copied().chain([MonotonicNs(u64::MAX)]);
    let resumed = breaks.iter().zip(until).filter_map(|(from, until)| {
        let mut after = migration
            .flows
            .iter()
            .filter(|flow| flow.purpose == Purpose::Unknown && (*from..until).contains(&flow.first()));
        after.next().copied().filter(|_| after.next().is_none())
    });
    resumed.collect()
}

/// Whether two flows lead from the same source to the same port of the same destination.
fn joins_same_ends(role: Role, a: &FlowFacts, b: &FlowFacts) -> bool {
    let (a, b) = (a.flow, b.flow);
    match role {
        Role::Source => a.remote == b.remote && a.local.ip() == b.local.ip(),
        Role::Destination => a.local == b.local && a.remote.ip() == b.remote.ip(),
    }
}

/// Payload from the destination to the source.
fn sent_back(role: Role, flow: &FlowFacts) -> u64 {
    let payload = flow.payload_bytes();
    match role {
        Role::Source => payload.rx,
        Role::Destination => payload.tx,
    }
}
