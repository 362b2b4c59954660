//! Which flows of a QEMU belong to which migration.

use super::disk_copy::{given_up_at, has_died_copying};
use super::segments::Segment;
use crate::timeline::facts::{FlowFacts, Process};
use crate::units::MonotonicNs;
use crate::vocabulary::Purpose;

/// How long after the last packet QEMU may report the end of a migration, of a disk copy, or its beginning. The destination
/// still has to load the devices' state, and the source is told to migrate once the disks are copied.
pub(super) const LAST_REPORT_NS: u64 = 5_000_000_000;

/// Flows in the order of their first packets.
pub(super) fn in_order<'a>(flows: impl Iterator<Item = &'a FlowFacts>) -> Vec<&'a FlowFacts> {
    let mut flows: Vec<_> = flows.collect();
    flows.sort_by_key(|f| (f.first(), f.flow));
    flows
}

/// Gives each segment the flows that began during it. A flow that began between two segments belongs to the later one:
/// connections are made, and disks copied, before QEMU reports `setup`. Returns the flows that belong to no segment; they may
/// belong to a migration that QEMU did not report.
pub(super) fn share_out<'a>(
    segments: &mut [Segment<'a>],
    flows: &[&'a FlowFacts],
    process: &Process,
) -> Vec<&'a FlowFacts> {
    let mut left = Vec::new();
    for flow in flows.iter().filter(|flow| flow.purpose != Purpose::Other) {
        let first = flow.first();
        let next = segments.partition_point(|s| s.first() <= first);
        let inside = next.checked_sub(1).filter(|&i| segments[i].end.is_none_or(|end| first <= end.at()));
        // A flow that ended before a migration began usually has nothing to do with it. There are two exceptions. If only the
        // end of the migration was seen, a destination reports it after its streams have closed. And a disk copy goes on until
        // the guest has moved, or ends just before; one that was given up belongs to an earlier attempt.
        let ahead = || {
            let segment = segments.get(next)?;
            let until = segment.first();
            let just_ended =
                is_open_until(flow, until) && (!segment.begins() || flow.purpose == Purpose::Nbd);
            let was_given_up = given_up_at(process, flow).is_some_and(|at| at < until);
            ((flow.last() >= until || just_ended) && !was_given_up).then_some(next)
        };
        match inside.or_else(ahead) {
            Some(i) => segments[i].flows.push(flow),
            None => left.push(*flow),
        }
    }
    left
}

/// Whether a flow was open at an instant, or had only just closed.
fn is_open_until(flow: &FlowFacts, at: MonotonicNs) -> bool {
    !flow.closed() || flow.last().0.saturating_add(LAST_REPORT_NS) >= at.0
}

/// Groups the flows that no event explains into migrations: a migration is over when its streams have closed, or the copy of
/// its disks was given up. A disk copy that has come to its end, without a memory stream after it, is not a migration.
pub(super) fn groups<'a>(flows: Vec<&'a FlowFacts>, process: &Process) -> Vec<Vec<&'a FlowFacts>> {
    let mut groups: Vec<(Vec<&FlowFacts>, MonotonicNs)> = Vec::new();
    for flow in flows {
        let was_given_up = given_up_at(process, flow).is_some();
        let open_until = match flow.purpose {
            _ if was_given_up => flow.last(),
            _ if !flow.closed() => MonotonicNs(u64::MAX),
            Purpose::Nbd => MonotonicNs(flow.last().0.saturating_add(LAST_REPORT_NS)),
            _ => flow.last(),
        };
        match groups.last_mut() {
            Some((group, until)) if *until >= flow.first() => {
                group.push(flow);
                *until = (*until).max(open_until);
            }
            _ => groups.push((vec![flow], open_until)),
        }
    }
    let is_finished_copy = |group: &[&FlowFacts]| {
        group.iter().all(|f| f.purpose == Purpose::Nbd && f.closed())
            && group.iter().all(|f| given_up_at(process, f).is_none())
            && !has_died_copying(process, group)
    };
    groups.into_iter().map(|(group, _)| group).filter(|group| !is_finished_copy(group)).collect()
}
