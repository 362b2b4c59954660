//! Migrations that QEMU's events report.

use super::disk_copy::{Jobs, disk_sync_start};
use super::segments::Segment;
use crate::record::Role;
use crate::timeline::facts::Facts;
use crate::timeline::migration::{Ending, MigrationFacts, Opening};
use crate::vocabulary::Purpose;

/// The migration of a segment.
pub(super) fn migration<'a>(
    facts: &'a Facts,
    jobs: &mut Jobs<'a>,
    segment: Segment<'a>,
    role: Role,
    flows_owned: bool,
) -> MigrationFacts<'a> {
    let first = segment.first();
    let setup = segment.begins();
    let disks = setup.then(|| disk_sync_start(jobs, &segment.flows, first)).flatten();
    let packet = segment.flows.iter().map(|f| f.first()).min();
    let (opening, (start, start_stamp)) = match (disks, packet) {
        (Some(disks), _) => (Opening::DiskSync, disks),
        (_, Some(packet)) if !setup && packet < segment.first_report() => (Opening::Unseen, (packet, None)),
        // A destination reports `setup` when it begins to listen: the migration begins when the source connects.
        (_, Some(packet))
            if setup
                && role == Role::Destination
                && segment.transitions.get(1).is_none_or(|next| packet <= next.at) =>
        {
            (Opening::Listening, (packet, None))
        }
        _ => (Opening::Transition, (first, Some(segment.transitions[0].qemu_realtime_us))),
    };
    let no_flows = segment.flows.is_empty();
    let disks_seen =
        segment.flows.iter().all(|f| f.is_whole() || f.purpose != Purpose::Nbd || f.first() >= first);
    MigrationFacts {
        end: segment.end.unwrap_or(Ending::Open(facts.latest)),
        flows_owned: flows_owned || no_flows,
        opening,
        start,
        start_stamp,
        start_seen: setup && disks_seen,
        ..MigrationFacts::new(Some(jobs.process), role, segment.transitions, segment.flows)
    }
}
