//! Which events and flows belong to which migration.

use std::collections::{BTreeSet, HashMap};

use super::facts::{Facts, FlowFacts, JobState, Mark, MarkKind, Process};
use super::migration::{End, Migration, Opening, replied_outcome, role, terminal};
use crate::record::{Outcome, PhaseName, Role};
use crate::units::{Counters, Directions, MonotonicNs};
use crate::vocabulary::Purpose;

/// A process's end is known at the latest this long after its connections have closed: where the kernel does not tell it, or
/// what it told was lost, /proc is read once a second.
const AT_ITS_END_NS: u64 = 2_000_000_000;

/// How long after the last packet QEMU may say that a migration has ended, or has begun: at the destination it still
/// loads the devices' state, and at the source it is told to migrate when the disks are copied.
const LAST_WORD_NS: u64 = 5_000_000_000;

/// How long after the end of a migration its guest may be let go on. Later it is somebody else's doing.
pub(super) const LATE_RESUME_NS: u64 = 60_000_000_000;

/// A stretch of a process's marks between a beginning and an end of a migration.
#[derive(Debug, Default)]
struct Segment<'a> {
    marks: Vec<&'a Mark>,
    end: Option<End>,
    flows: Vec<&'a FlowFacts>,
    /// Nothing but `setup` was said, and that the guest runs.
    only_setup: bool,
    /// Only a source says what was said.
    of_source: bool,
    /// Whether the guest was stopped last, or ran; none: neither was said.
    halted: Option<bool>,
    /// The guest was stopped once more after the end: whoever did that lets it go on.
    stopped_since: bool,
}

impl<'a> Segment<'a> {
    fn beginning(mark: &'a Mark) -> Self {
        let mut segment = Self { only_setup: true, ..Self::default() };
        segment.push(mark);
        segment
    }

    fn push(&mut self, mark: &'a Mark) {
        self.only_setup &= mark.is_status(&PhaseName::Setup) || mark.kind == MarkKind::Resume;
        self.of_source |= mark.is_of_source() || mark.kind == MarkKind::Stop;
        match mark.kind {
            MarkKind::Stop => self.halted = Some(true),
            MarkKind::Resume => self.halted = Some(false),
            _ => {}
        }
        self.marks.push(mark);
    }

    /// Whether the guest goes on with `mark` after the end of this migration and because of it: at the destination of a
    /// libvirt migration, or here when it failed.
    fn takes_late(&self, mark: &Mark) -> bool {
        let in_time = self.end.is_some_and(|end| mark.at.0 <= end.at().0.saturating_add(LATE_RESUME_NS));
        let waits = self.halted.unwrap_or(!self.of_source);
        mark.kind == MarkKind::Resume && in_time && waits && !self.stopped_since
    }

    /// Takes in that the guest stopped or ran before the first that QEMU was heard to say of the migration, which was under
    /// way by then.
    fn take_in(&mut self, loose: &[&'a Mark]) {
        let Some(from) = self.flows.first().map(|flow| flow.first()).filter(|_| !self.begins()) else {
            return;
        };
        let until = self.first();
        let first = loose.partition_point(|m| m.at < from);
        let earlier = &loose[first..loose.partition_point(|m| m.at < until).max(first)];
        let later = std::mem::take(&mut self.marks);
        earlier.iter().copied().chain(later).for_each(|mark| self.push(mark));
    }

    fn first(&self) -> MonotonicNs {
        self.marks.first().map_or_else(MonotonicNs::default, |m| m.at)
    }

    /// When QEMU was first heard to say something of it. That the guest stops or runs it says at other times too.
    fn heard(&self) -> MonotonicNs {
        let is_of_guest = |m: &&&Mark| matches!(m.kind, MarkKind::Stop | MarkKind::Resume);
        self.marks.iter().find(|mark| !is_of_guest(mark)).map_or_else(|| self.first(), |mark| mark.at)
    }

    /// How it ended with its process: as QEMU had replied before, when it had, or in the middle. Both are not before the
    /// last that QEMU said.
    fn end_with(&self, process: &Process, gone: MonotonicNs) -> End {
        let said = self.marks.last().map_or(MonotonicNs(0), |mark| mark.at);
        let reply = process.replies.since(self.first()).next_back();
        let replied = reply.and_then(|(at, reply)| Some((at, replied_outcome(reply)?)));
        match replied {
            Some((at, outcome)) => End::Replied(at.max(said), outcome),
            None => End::Died(gone.max(said)),
        }
    }

    /// Whether its beginning was seen.
    fn begins(&self) -> bool {
        self.marks.first().is_some_and(|m| m.is_status(&PhaseName::Setup))
    }
}

/// The migrations that the facts tell of, in the order of their starts.
pub(super) fn migrations(facts: &Facts) -> Vec<Migration<'_>> {
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
            found.extend(silent(facts, None, &flows, &[], false));
        }
    }
    found.sort_by_key(|m| (m.start, m.process.map(|p| p.pid)));
    found
}

/// Flows in the order of their first packets.
fn in_order<'a>(flows: impl Iterator<Item = &'a FlowFacts>) -> Vec<&'a FlowFacts> {
    let mut flows: Vec<_> = flows.collect();
    flows.sort_by_key(|f| (f.first(), f.flow));
    flows
}

/// The one process whose flows they must be when the owner of no flow is known.
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

/// Cuts a process's marks into migrations; what belongs to none (the guest was paused by a person) comes second.
fn segments(process: &Process) -> (Vec<Segment<'_>>, Vec<&Mark>) {
    let mut segments: Vec<Segment<'_>> = Vec::new();
    let mut loose = Vec::new();
    for mark in process.marks.iter() {
        let mut current = segments.last_mut();
        let running = current.as_ref().is_some_and(|s| s.end.is_none());
        match &mark.kind {
            MarkKind::Stop | MarkKind::Resume => match current {
                Some(segment) if running || segment.takes_late(mark) => segment.push(mark),
                current => {
                    if let Some(segment) = current {
                        segment.stopped_since |= mark.kind == MarkKind::Stop;
                    }
                    loose.push(mark);
                }
            },
            MarkKind::Status(PhaseName::Other(status)) if status == "none" => {}
            MarkKind::Status(PhaseName::Setup) => {
                if let Some(segment) = current.take().filter(|_| running) {
                    segment.end = Some(End::Superseded(mark.at));
                }
                segments.push(Segment::beginning(mark));
            }
            MarkKind::DirtyLog => {}
            MarkKind::Status(_) | MarkKind::Pass(_) => {
                let outcome = mark.status().and_then(terminal);
                match current {
                    // A second end is an echo of the first, not a migration.
                    Some(segment) if running || outcome.is_some() => segment.push(mark),
                    _ => segments.push(Segment::beginning(mark)),
                }
                if let (Some(outcome), Some(segment)) = (outcome, segments.last_mut()) {
                    segment.end.get_or_insert(End::Declared(mark.at, outcome));
                }
            }
        }
    }
    if let (Some(segment), Some(gone)) = (segments.last_mut(), process.gone)
        && segment.end.is_none()
    {
        segment.end = Some(segment.end_with(process, gone));
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
    let mut jobs = Jobs::of(process);

    let mut found: Vec<Migration<'a>> = Vec::new();
    let mut arrived = false;
    let mut given_up = None;
    for mut segment in segments {
        segment.take_in(&loose);
        let role = role(&segment.marks, &segment.flows, Some(process), arrived);
        if segment.only_setup && role == Role::Destination {
            // QEMU 7.2 says `setup` when it begins to listen, even to a manager that wants no events.
            if segment.flows.iter().any(|f| f.payload_by.is_some()) {
                found.extend(silent(facts, Some(process), &segment.flows, &segment.marks, flows_owned));
            }
            continue;
        }
        // QEMU said that it begins, did nothing, and then began anew.
        if segment.only_setup && segment.flows.is_empty() && matches!(segment.end, Some(End::Superseded(_))) {
            given_up = given_up.or(Some(segment.first()));
            continue;
        }
        arrived |=
            role == Role::Destination && matches!(segment.end, Some(End::Declared(_, Outcome::Completed)));
        found.push(Migration {
            given_up: given_up.take(),
            ..told(facts, &mut jobs, segment, role, flows_owned)
        });
    }
    for group in groups(left) {
        if group.iter().any(|f| f.payload_by.is_some()) {
            found.extend(silent(facts, Some(process), &group, &loose, flows_owned));
        }
    }
    found.sort_by_key(|m| m.start);
    relate(&mut found, flows);
    found
}

/// Tells the migrations of a process of those before and after them, and of its flows that are none of theirs. All are in
/// the order of their starts.
fn relate(migrations: &mut [Migration<'_>], flows: &[&FlowFacts]) {
    let mut gone: Vec<_> = flows.iter().filter_map(|flow| Some((flow.gone?, carried(flow)))).collect();
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
            begun += carried(flow);
        }
        while let Some((_, carried)) = gone.get(left).filter(|(at, _)| *at < migration.start) {
            begun = begun.since(carried);
            left += 1;
        }
        let mut own = Directions::<Counters>::default();
        for flow in migration.flows.iter().filter(|flow| is_of_before(flow)) {
            own += carried(flow);
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

fn carried(flow: &FlowFacts) -> Directions<Counters> {
    flow.last.as_ref().map(|counted| counted.counters).unwrap_or_default()
}

/// Gives each segment the flows that began in it or, when they began between two, before it: the connection is
/// made, and disks are copied, before QEMU says `setup`. Returns the flows that belong to none of these, and may belong to a
/// migration of which nothing was said.
fn share_out<'a>(segments: &mut [Segment<'a>], flows: &[&'a FlowFacts]) -> Vec<&'a FlowFacts> {
    let mut left = Vec::new();
    for flow in flows.iter().filter(|flow| flow.purpose != Purpose::Other) {
        let first = flow.first();
        let next = segments.partition_point(|s| s.first() <= first);
        let inside = next.checked_sub(1).filter(|&i| segments[i].end.is_none_or(|end| first <= end.at()));
        // What ended before a migration began has nothing to do with it. But all that was seen of one may be its end, and a
        // destination tells that after the streams are closed; and a copy of disks goes on until the guest has moved, or
        // ends just before.
        let ahead = || {
            let segment = segments.get(next)?;
            let until = segment.first();
            let just_ended =
                is_open_until(flow, until) && (!segment.begins() || flow.purpose == Purpose::Nbd);
            (flow.last() >= until || just_ended).then_some(next)
        };
        match inside.or_else(ahead) {
            Some(i) => segments[i].flows.push(flow),
            None => left.push(*flow),
        }
    }
    left
}

/// Whether a flow was open at an instant, or had just been closed.
fn is_open_until(flow: &FlowFacts, at: MonotonicNs) -> bool {
    !flow.closed() || flow.last().0.saturating_add(LAST_WORD_NS) >= at.0
}

/// Parts flows of which no event tells into migrations: one is over when its streams are closed. Copies of disks that
/// are over, and that no memory followed, are none.
fn groups(flows: Vec<&FlowFacts>) -> Vec<Vec<&FlowFacts>> {
    let mut groups: Vec<(Vec<&FlowFacts>, MonotonicNs)> = Vec::new();
    for flow in flows {
        let open_until = if flow.closed() { flow.last() } else { MonotonicNs(u64::MAX) };
        let is_copy = flow.purpose == Purpose::Nbd;
        let open_until =
            if is_copy { MonotonicNs(open_until.0.saturating_add(LAST_WORD_NS)) } else { open_until };
        match groups.last_mut() {
            Some((group, until)) if *until >= flow.first() => {
                group.push(flow);
                *until = (*until).max(open_until);
            }
            _ => groups.push((vec![flow], open_until)),
        }
    }
    let is_finished_copy =
        |group: &[&FlowFacts]| group.iter().all(|f| f.purpose == Purpose::Nbd && f.closed());
    groups.into_iter().map(|(group, _)| group).filter(|group| !is_finished_copy(group)).collect()
}

/// A migration of which QEMU's events tell.
fn told<'a>(
    facts: &'a Facts,
    jobs: &mut Jobs<'a>,
    segment: Segment<'a>,
    role: Role,
    flows_owned: bool,
) -> Migration<'a> {
    let first = segment.first();
    let setup = segment.begins();
    let disks = setup.then(|| disk_sync_start(jobs, &segment.flows, first)).flatten();
    let packet = segment.flows.iter().map(|f| f.first()).min();
    let (opening, (start, start_stamp)) = match (disks, packet) {
        (Some(disks), _) => (Opening::DiskSync, disks),
        (_, Some(packet)) if !setup && packet < segment.heard() => (Opening::Unseen, (packet, None)),
        // A destination says `setup` when it begins to listen: the migration begins when the source connects.
        (_, Some(packet))
            if setup
                && role == Role::Destination
                && segment.marks.get(1).is_none_or(|next| packet <= next.at) =>
        {
            (Opening::Listening, (packet, None))
        }
        _ => (Opening::Mark, (first, Some(segment.marks[0].qemu_realtime_us))),
    };
    let no_flows = segment.flows.is_empty();
    let disks_seen =
        segment.flows.iter().all(|f| f.from_start || f.purpose != Purpose::Nbd || f.first() >= first);
    Migration {
        end: segment.end.unwrap_or(End::Open(facts.latest)),
        flows_owned: flows_owned || no_flows,
        opening,
        start,
        start_stamp,
        start_seen: setup && disks_seen,
        ..Migration::new(Some(jobs.process), role, segment.marks, segment.flows)
    }
}

/// When the copying of disks began, and QEMU's stamp if an event tells.
type CopyStart = (MonotonicNs, Option<i64>);

/// The block jobs of a process, as they were at one `setup` after the other.
struct Jobs<'a> {
    process: &'a Process,
    /// The steps before were looked at.
    until: MonotonicNs,
    /// The latest creation of each job.
    created: HashMap<&'a str, CopyStart>,
    /// The jobs whose latest step was that they became ready.
    ready: BTreeSet<(CopyStart, &'a str)>,
}

impl<'a> Jobs<'a> {
    fn of(process: &'a Process) -> Self {
        Self { process, until: MonotonicNs(0), created: HashMap::new(), ready: BTreeSet::new() }
    }

    /// The creation of the first mirror that was ready and not over at `setup`, which is not before the one asked for
    /// last.
    fn ready_since(&mut self, setup: MonotonicNs) -> Option<CopyStart> {
        for (at, job) in self.process.jobs.since(self.until).take_while(|(at, _)| *at < setup) {
            let id = job.id.as_str();
            let created = self.created.get(id).copied();
            if let Some(created) = created {
                self.ready.remove(&(created, id));
            }
            match job.step {
                JobState::Created => drop(self.created.insert(id, (at, Some(job.qemu_realtime_us)))),
                JobState::Ready => self.ready.extend(created.map(|created| (created, id))),
                JobState::Over => {}
            }
        }
        self.until = self.until.max(setup);
        self.ready.first().map(|(start, _)| *start)
    }
}

/// When the copying of disks began that was done before `setup`: with the first NBD flow, or with the first mirror.
fn disk_sync_start(jobs: &mut Jobs<'_>, flows: &[&FlowFacts], setup: MonotonicNs) -> Option<CopyStart> {
    let flow = flows.iter().filter(|f| f.purpose == Purpose::Nbd).map(|f| (f.first(), None)).min();
    flow.into_iter().chain(jobs.ready_since(setup)).min().filter(|(start, _)| *start < setup)
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
    let from = marks.partition_point(|m| m.at < start);
    let to = marks.partition_point(|m| m.at <= last).max(from);
    let is_stop = |m: &&Mark| matches!(m.kind, MarkKind::Stop | MarkKind::Resume);
    let next = marks[to..].iter().copied().find(is_stop).filter(|m| m.kind == MarkKind::Resume);
    let mut marks: Vec<_> = marks[from..to].iter().copied().filter(is_stop).collect();
    if !marks.iter().any(|m| m.kind == MarkKind::Resume) {
        marks.extend(next.filter(|m| m.at.0 <= last.0.saturating_add(LATE_RESUME_NS)));
    }
    if let Some(process) = process {
        marks.extend(process.dirty_logs.between(start, last).map(|(_, mark)| mark));
    }
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
        flows_owned,
        opening: Opening::Transfer,
        start,
        start_seen: flows.iter().all(|f| f.from_start),
        end,
        ..Migration::new(process, role, marks, flows.to_vec())
    })
}
