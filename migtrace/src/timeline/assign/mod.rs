//! Which events and flows belong to which migration.

mod disk_copy;
mod flows;
mod reported;
mod segments;
mod unreported;

use disk_copy::Jobs;
use flows::{groups, in_order, share_out};
use segments::segments;

use super::facts::{Facts, FlowFacts, Process};
use super::migration::{Ending, MigrationFacts, role};
use crate::record::{Outcome, Role};
use crate::units::{Counters, Directions};
use crate::vocabulary::Purpose;

/// All migrations, in the order of their starts.
pub(super) fn migrations(facts: &Facts) -> Vec<MigrationFacts<'_>> {
    let only = only_candidate(facts);
    let mut found = Vec::new();
    for (index, process) in facts.processes.iter().enumerate() {
        let flows_owned = !(process.flows.is_empty() && only == Some(index));
        let flows = if flows_owned { &process.flows } else { &facts.unowned };
        let flows = in_order(flows.iter().map(|&flow| &facts.flows[flow]));
        found.extend(of_process(facts, process, &flows, flows_owned));
    }
    if facts.processes.is_empty() {
        let flows = in_order(facts.flows.iter());
        if flows.iter().any(|f| f.purpose == Purpose::Ram) {
            let flows: Vec<_> = flows.into_iter().filter(|f| f.purpose != Purpose::Other).collect();
            found.extend(unreported::migration(facts, None, &flows, &[], false));
        }
    }
    found.sort_by_key(|m| (m.start, m.process.map(|p| p.pid)));
    found
}

/// When no flow has a known owner: the only process that they can belong to.
fn only_candidate(facts: &Facts) -> Option<usize> {
    if facts.unowned.len() < facts.flows.len() {
        return None;
    }
    let mut migrating = (0..facts.processes.len()).filter(|&p| !segments(&facts.processes[p]).0.is_empty());
    match (migrating.next(), migrating.next(), facts.processes.len()) {
        (Some(one), None, _) => Some(one),
        (None, None, 1) => Some(0),
        _ => None,
    }
}

/// The migrations of one process, in the order of their starts.
fn of_process<'a>(
    facts: &'a Facts,
    process: &'a Process,
    flows: &[&'a FlowFacts],
    flows_owned: bool,
) -> Vec<MigrationFacts<'a>> {
    let (mut segments, loose) = segments(process);
    let left = share_out(&mut segments, flows, process);
    let mut jobs = Jobs::of(process);

    let mut found: Vec<MigrationFacts<'a>> = Vec::new();
    let mut arrived = false;
    let mut given_up = None;
    for mut segment in segments {
        segment.take_in(&loose);
        let role = role(&segment.transitions, &segment.flows, Some(process), arrived);
        if segment.only_setup && role == Role::Destination {
            // QEMU 7.2 reports `setup` when it begins to listen, even to a manager that wants no events.
            if segment.flows.iter().any(|f| f.payload_by.is_some()) {
                found.extend(unreported::migration(
                    facts,
                    Some(process),
                    &segment.flows,
                    &segment.transitions,
                    flows_owned,
                ));
            }
            continue;
        }
        // QEMU reported a beginning, did nothing, and began again.
        if segment.only_setup
            && segment.flows.is_empty()
            && matches!(segment.end, Some(Ending::Superseded(_)))
        {
            given_up = given_up.or(Some(segment.first()));
            continue;
        }
        arrived |=
            role == Role::Destination && matches!(segment.end, Some(Ending::Declared(_, Outcome::Completed)));
        found.push(MigrationFacts {
            given_up: given_up.take(),
            ..reported::migration(facts, &mut jobs, segment, role, flows_owned)
        });
    }
    for group in groups(left, process) {
        if let Some(migration) = disk_copy::migration(process, &group, flows_owned) {
            found.push(migration);
        } else if group.iter().any(|f| f.payload_by.is_some()) {
            found.extend(unreported::migration(facts, Some(process), &group, &loose, flows_owned));
        }
    }
    found.sort_by_key(|m| m.start);
    relate(&mut found, flows);
    found
}

/// Notes in each migration of a process what concerns it of the migrations before and after, and of the flows that are not
/// its own. Both are in the order of their starts.
fn relate(migrations: &mut [MigrationFacts<'_>], flows: &[&FlowFacts]) {
    let mut gone: Vec<_> = flows.iter().filter_map(|flow| Some((flow.gone?, flow.counted()))).collect();
    gone.sort_by_key(|(at, _)| *at);
    let mut left = 0;
    let mut flows = flows.iter().peekable();
    let mut begun = Directions::<Counters>::default();
    let mut previous_end = None;
    for migration in &mut *migrations {
        let is_of_before = |flow: &FlowFacts| {
            flow.first() < migration.start && flow.gone.is_none_or(|gone| gone >= migration.start)
        };
        while let Some(flow) = flows.next_if(|flow| flow.first() < migration.start) {
            begun += flow.counted();
        }
        while let Some((_, carried)) = gone.get(left).filter(|(at, _)| *at < migration.start) {
            begun = begun.since(carried);
            left += 1;
        }
        let mut own = Directions::<Counters>::default();
        for flow in migration.flows.iter().filter(|flow| is_of_before(flow)) {
            own += flow.counted();
        }
        let end = gone.partition_point(|(at, _)| *at <= migration.end.at());
        migration.leaving = gone.get(left..end).unwrap_or_default().to_vec();
        migration.earlier_counters = begun.since(&own);
        migration.previous_end = previous_end;
        previous_end = previous_end.max(Some(migration.end.at()));
    }
    let mut next = None;
    for migration in migrations.iter_mut().rev() {
        migration.next_start = next;
        next = Some(migration.start);
    }
}
