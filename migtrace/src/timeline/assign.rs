//! Which events and flows belong to which migration.

use std::collections::BTreeSet;

use super::facts::{Facts, FlowFacts, JobState, Mark, MarkKind, Process};
use super::migration::{End, Migration, Opening, role, terminal};
use crate::event::Purpose;
use crate::record::{Outcome, Role};
use crate::units::MonotonicNs;

/// A process's end is known at the latest this long after its connections have closed: /proc is read once a second.
const AT_ITS_END_NS: u64 = 2_000_000_000;

/// How long after the last packet QEMU may say that a migration has ended: it still loads the devices' state.
const LAST_WORD_NS: u64 = 5_000_000_000;

/// A stretch of a process's marks between a beginning and an end of a migration.
#[derive(Debug, Default)]
struct Segment<'a> {
    marks: Vec<&'a Mark>,
    end: Option<End>,
    flows: Vec<&'a FlowFacts>,
}

impl Segment<'_> {
    fn first(&self) -> MonotonicNs {
        self.marks.first().map_or_else(MonotonicNs::default, |m| m.at)
    }

    /// Whether its beginning was seen.
    fn begins(&self) -> bool {
        self.marks.first().is_some_and(|m| m.is_status("setup"))
    }

    fn only_setup(&self) -> bool {
        self.marks.iter().all(|m| m.is_status("setup") || m.kind == MarkKind::Resume)
    }
}

/// The migrations that the facts tell of, in the order of their starts.
pub(super) fn migrations(facts: &Facts) -> Vec<Migration<'_>> {
    let only = only_candidate(facts);
    let mut found = Vec::new();
    for (index, process) in facts.processes.iter().enumerate() {
        let mut flows: Vec<_> =
            facts.flows.iter().filter(|f| f.owner.is_some_and(|o| o.process == index)).collect();
        let flows_owned = !(flows.is_empty() && only == Some(index));
        if !flows_owned {
            flows = facts.flows.iter().filter(|f| f.owner.is_none()).collect();
        }
        flows.sort_by_key(|f| (f.first(), f.flow));
        found.extend(of_process(facts, process, &flows, flows_owned));
    }
    if facts.processes.is_empty() {
        let mut flows: Vec<_> = facts.flows.iter().collect();
        flows.sort_by_key(|f| (f.first(), f.flow));
        if flows.iter().any(|f| f.purpose == Purpose::Ram) {
            found.extend(silent(facts, None, &flows, &[], false));
        }
    }
    found.sort_by_key(|m| (m.start, m.process.map(|p| p.pid)));
    found
}

/// The one process whose flows they must be when the owner of no flow is known.
fn only_candidate(facts: &Facts) -> Option<usize> {
    if facts.flows.iter().any(|f| f.owner.is_some()) {
        return None;
    }
    let migrating: Vec<_> =
        (0..facts.processes.len()).filter(|&p| !segments(&facts.processes[p]).0.is_empty()).collect();
    match (migrating.as_slice(), facts.processes.len()) {
        ([one], _) => Some(*one),
        ([], 1) => Some(0),
        _ => None,
    }
}

/// Cuts a process's marks into migrations; what belongs to none (the guest was paused by a person) comes second.
fn segments(process: &Process) -> (Vec<Segment<'_>>, Vec<&Mark>) {
    let mut segments: Vec<Segment<'_>> = Vec::new();
    let mut loose = Vec::new();
    for mark in &process.marks {
        let current = segments.last_mut();
        let running = current.as_ref().is_some_and(|s| s.end.is_none());
        match &mark.kind {
            MarkKind::Stop | MarkKind::Resume => match current {
                Some(segment) if running => segment.marks.push(mark),
                // The guest goes on: at the destination of a libvirt migration, or here when it failed.
                Some(segment)
                    if mark.kind == MarkKind::Resume
                        && !segment.marks.iter().any(|m| m.kind == MarkKind::Resume) =>
                {
                    segment.marks.push(mark);
                }
                _ => loose.push(mark),
            },
            MarkKind::Status(status) if status == "none" => {}
            MarkKind::Status(status) if status == "setup" => match current {
                Some(segment) if running && segment.only_setup() => segment.marks.push(mark),
                current => {
                    if let Some(segment) = current.filter(|_| running) {
                        segment.end = Some(End::Superseded(mark.at));
                    }
                    segments.push(Segment { marks: vec![mark], ..Segment::default() });
                }
            },
            MarkKind::DirtyLog => {}
            MarkKind::Status(_) | MarkKind::Pass(_) => {
                let outcome = mark.status().and_then(terminal);
                let end = outcome.map(|outcome| End::Declared(mark.at, outcome));
                match current {
                    Some(segment) if running => {
                        segment.marks.push(mark);
                        segment.end = end;
                    }
                    // A second end is an echo of the first, not a migration.
                    Some(segment) if end.is_some() => segment.marks.push(mark),
                    _ => segments.push(Segment { marks: vec![mark], end, flows: Vec::new() }),
                }
            }
        }
    }
    if let (Some(segment), Some(gone)) = (segments.last_mut(), process.gone)
        && segment.end.is_none()
    {
        segment.end = Some(End::Died(gone));
    }
    (segments, loose)
}

fn of_process<'a>(
    facts: &'a Facts,
    process: &'a Process,
    flows: &[&'a FlowFacts],
    flows_owned: bool,
) -> Vec<Migration<'a>> {
    let (mut segments, loose) = segments(process);
    let left = share_out(&mut segments, flows);

    let mut found: Vec<Migration<'a>> = Vec::new();
    let mut arrived = false;
    for segment in segments {
        let role = role(&segment.marks, &segment.flows, Some(process), arrived);
        if role == Role::Destination && segment.only_setup() {
            // QEMU 7.2 says `setup` when it begins to listen, even to a manager that wants no events.
            if segment.flows.iter().any(|f| f.payload_by.is_some()) {
                found.extend(silent(facts, Some(process), &segment.flows, &segment.marks, flows_owned));
            }
            continue;
        }
        arrived |=
            role == Role::Destination && matches!(segment.end, Some(End::Declared(_, Outcome::Completed)));
        found.push(told(facts, process, segment, role, flows_owned));
    }
    for group in groups(left) {
        if group.iter().any(|f| f.payload_by.is_some()) {
            found.extend(silent(facts, Some(process), &group, &loose, flows_owned));
        }
    }
    found.sort_by_key(|m| m.start);

    let mut earlier = Vec::new();
    for migration in &mut found {
        migration.earlier_flows.clone_from(&earlier);
        earlier.extend(&migration.flows);
    }
    found
}

/// Gives each segment the flows that began in it or, when they began between two, before it: the connection is
/// made, and disks are copied, before QEMU says `setup`. Returns the flows that began after the last.
fn share_out<'a>(segments: &mut [Segment<'a>], flows: &[&'a FlowFacts]) -> Vec<&'a FlowFacts> {
    let mut left = Vec::new();
    for flow in flows {
        let first = flow.first();
        let next = segments.partition_point(|s| s.first() <= first);
        let inside = next.checked_sub(1).filter(|&i| segments[i].end.is_none_or(|end| first <= end.at()));
        // What ended before a migration began and is no disk copy has nothing to do with it. But all that was seen of
        // one may be its end, and a destination tells that after the streams are closed.
        let ahead = || {
            let segment = segments.get(next)?;
            let until = segment.first().0;
            let just_ended = !segment.begins() && flow.last().0.saturating_add(LAST_WORD_NS) >= until;
            (flow.purpose == Purpose::Nbd || flow.last().0 >= until || just_ended).then_some(next)
        };
        match inside.or_else(ahead) {
            Some(i) => segments[i].flows.push(flow),
            None => left.push(*flow),
        }
    }
    left
}

/// Parts flows of which no event tells into migrations: one is over when its streams are closed.
fn groups(flows: Vec<&FlowFacts>) -> Vec<Vec<&FlowFacts>> {
    let mut groups: Vec<Vec<&FlowFacts>> = Vec::new();
    for flow in flows {
        match groups.last_mut() {
            Some(group)
                if group.iter().all(|f| f.purpose == Purpose::Nbd)
                    || group.iter().any(|f| !f.closed() || f.last() >= flow.first()) =>
            {
                group.push(flow);
            }
            _ => groups.push(vec![flow]),
        }
    }
    groups
}

/// A migration of which QEMU's events tell.
fn told<'a>(
    facts: &'a Facts,
    process: &'a Process,
    segment: Segment<'a>,
    role: Role,
    flows_owned: bool,
) -> Migration<'a> {
    let first = segment.first();
    let setup = segment.marks[0].is_status("setup");
    let disks = disk_sync_start(process, &segment.flows, first);
    let packet = segment.flows.iter().map(|f| f.first()).min();
    let (opening, (start, start_stamp)) = match (disks, packet) {
        (Some(disks), _) if setup => (Opening::DiskSync, disks),
        (_, Some(packet)) if !setup && packet < first => (Opening::Unseen, (packet, None)),
        _ => (Opening::Mark, (first, Some(segment.marks[0].qemu_realtime_us))),
    };
    let no_flows = segment.flows.is_empty();
    let disks_seen =
        segment.flows.iter().all(|f| f.from_start || f.purpose != Purpose::Nbd || f.first() >= first);
    Migration {
        process: Some(process),
        role,
        end: segment.end.unwrap_or(End::Open(facts.latest)),
        marks: segment.marks,
        flows: segment.flows,
        earlier_flows: Vec::new(),
        flows_owned: flows_owned || no_flows,
        opening,
        start,
        start_stamp,
        start_seen: setup && disks_seen,
    }
}

/// When the copying of disks began that was done before `setup`, and QEMU's stamp if an event tells: with the
/// first NBD flow, or with the creation of the first mirror that was ready and not over at `setup`.
fn disk_sync_start(
    process: &Process,
    flows: &[&FlowFacts],
    setup: MonotonicNs,
) -> Option<(MonotonicNs, Option<i64>)> {
    let flow = flows.iter().filter(|f| f.purpose == Purpose::Nbd).map(|f| (f.first(), None)).min();
    let steps = || process.jobs.iter().filter(|j| j.at < setup);
    let ids: BTreeSet<_> = steps().map(|j| &j.id).collect();
    let job = ids.into_iter().filter_map(|id| {
        let last = steps().rfind(|j| j.id == *id)?;
        let created = steps().rfind(|j| j.id == *id && j.step == JobState::Created)?;
        (last.step == JobState::Ready).then_some((created.at, Some(created.qemu_realtime_us)))
    });
    flow.into_iter().chain(job).min().filter(|(start, _)| *start < setup)
}

/// A migration of which only the flows, STOP and RESUME tell.
fn silent<'a>(
    facts: &'a Facts,
    process: Option<&'a Process>,
    flows: &[&'a FlowFacts],
    marks: &[&'a Mark],
    flows_owned: bool,
) -> Option<Migration<'a>> {
    let start = flows.iter().map(|f| f.first()).min()?;
    let last = flows.iter().map(|f| f.last()).max()?;
    let stops = || marks.iter().copied().filter(|m| matches!(m.kind, MarkKind::Stop | MarkKind::Resume));
    let mut marks: Vec<_> = stops().filter(|m| (start..=last).contains(&m.at)).collect();
    if !marks.iter().any(|m| m.kind == MarkKind::Resume) {
        marks.extend(stops().find(|m| m.at > last).filter(|m| m.kind == MarkKind::Resume));
    }
    let rounds = process.map_or(&[][..], |p| &p.dirty_logs);
    marks.extend(rounds.iter().filter(|m| (start..=last).contains(&m.at)));
    marks.sort_by_key(|m| m.at);
    let role = role(&marks, flows, process, false);
    let streams = || flows.iter().filter(|f| f.purpose != Purpose::Nbd);
    let handed_over = match role {
        Role::Source => marks.iter().any(|m| m.kind == MarkKind::Stop),
        Role::Destination => marks.iter().any(|m| m.kind == MarkKind::Resume),
    };
    let end = match process.and_then(|p| p.gone) {
        // Its end closed the streams, and not they its work.
        Some(gone)
            if facts.hears_qemu()
                && !handed_over
                && gone >= start
                && gone.0 <= last.0.saturating_add(AT_ITS_END_NS) =>
        {
            End::Died(gone.max(last))
        }
        _ if streams().next().is_some() && streams().all(|f| f.closed()) => End::Closed(last),
        Some(gone) if gone >= start => End::Died(gone.max(last)),
        _ => End::Open(facts.latest.max(last)),
    };
    Some(Migration {
        process,
        role,
        marks,
        flows: flows.to_vec(),
        earlier_flows: Vec::new(),
        flows_owned,
        opening: Opening::Transfer,
        start,
        start_stamp: None,
        start_seen: flows.iter().all(|f| f.from_start),
        end,
    })
}
