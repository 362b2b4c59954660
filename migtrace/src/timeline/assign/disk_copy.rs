//! The copy of disks that precedes a migration: when it began, and whether it was given up before the memory followed.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::flows::LAST_REPORT_NS;
use super::unreported::DEATH_NOTICED_NS;
use crate::record::{PhaseName, Role};
use crate::timeline::facts::{FlowFacts, JobState, Process};
use crate::timeline::migration::{Ending, MigrationFacts, Opening, terminal};
use crate::timeline::transition::Transition;
use crate::units::MonotonicNs;
use crate::vocabulary::Purpose;

/// When a disk copy began, and QEMU's own stamp if an event reported it.
type CopyStart = (MonotonicNs, Option<i64>);

/// The block jobs of a process, followed from one `setup` to the next.
pub(super) struct Jobs<'a> {
    pub(super) process: &'a Process,
    /// Earlier steps have been taken in.
    until: MonotonicNs,
    /// The latest creation of each job.
    created: HashMap<&'a str, CopyStart>,
    /// The jobs that are ready.
    ready: BTreeSet<(CopyStart, &'a str)>,
}

impl<'a> Jobs<'a> {
    pub(super) fn of(process: &'a Process) -> Self {
        Self { process, until: MonotonicNs(0), created: HashMap::new(), ready: BTreeSet::new() }
    }

    /// The creation of the first mirror that was ready and not over at `setup`. Each call needs a `setup` no earlier than the
    /// one before.
    fn ready_since(&mut self, setup: MonotonicNs) -> Option<CopyStart> {
        for (at, job) in self.process.jobs.since(self.until).take_while(|(at, _)| *at < setup) {
            let id = job.id.as_str();
            let created = self.created.get(id).copied();
            if let Some(created) = created {
                self.ready.remove(&(created, id));
            }
            match job.state {
                JobState::Created => drop(self.created.insert(id, (at, Some(job.qemu_realtime_us)))),
                JobState::Ready => self.ready.extend(created.map(|created| (created, id))),
                JobState::Over => {}
            }
        }
        self.until = self.until.max(setup);
        self.ready.first().map(|(start, _)| *start)
    }
}

/// When the copy of a disk that a connection carries was given up; none if it was not, or it carries something else.
pub(super) fn given_up_at(process: &Process, flow: &FlowFacts) -> Option<MonotonicNs> {
    let until = last_report(flow.last());
    let mut given_up = process.given_up.between(flow.first(), until).filter(|_| flow.purpose == Purpose::Nbd);
    given_up.next().map(|(at, _)| at)
}

/// Until when QEMU may report that a copy was given up whose last packet came then: its connection may have failed first.
const fn last_report(last: MonotonicNs) -> MonotonicNs {
    MonotonicNs(last.0.saturating_add(LAST_REPORT_NS))
}

/// How the copy of disks that some connections carry was given up; none if it was not. Where one disk could not be copied, the
/// copies of the others are cancelled.
fn given_up<'a>(process: &'a Process, flows: &[&FlowFacts]) -> Option<&'a Transition> {
    let first = flows.iter().map(|flow| flow.first()).min()?;
    let last = flows.iter().map(|flow| flow.last()).max()?;
    let mut given_up = process.given_up.between(first, last_report(last)).map(|(_, copy)| &copy.transition);
    let earliest = given_up.next()?;
    let others = given_up.take_while(|other| other.at <= last);
    [earliest].into_iter().chain(others).max_by_key(|copy| (copy.is_status(&PhaseName::Failed), copy.at))
}

/// Whether the process of these connections ended in the middle of a block job that they may have served.
pub(super) fn has_died_copying(process: &Process, flows: &[&FlowFacts]) -> bool {
    let last = flows.iter().map(|flow| flow.last()).max().unwrap_or_default();
    let is_in_time = |gone: &MonotonicNs| gone.0 <= last.0.saturating_add(DEATH_NOTICED_NS);
    let Some(gone) = process.gone.filter(is_in_time) else { return false };
    let mut under_way = HashSet::new();
    for (_, step) in process.jobs.between(MonotonicNs(0), gone) {
        match step.state {
            JobState::Over => drop(under_way.remove(step.id.as_str())),
            JobState::Created | JobState::Ready => drop(under_way.insert(step.id.as_str())),
        }
    }
    !under_way.is_empty()
}

/// The migration that was given up while its disks were copied, if these connections show one.
pub(super) fn migration<'a>(
    process: &'a Process,
    flows: &[&'a FlowFacts],
    flows_owned: bool,
) -> Option<MigrationFacts<'a>> {
    if flows.iter().any(|flow| flow.purpose != Purpose::Nbd) {
        return None;
    }
    let given_up = given_up(process, flows)?;
    let outcome = terminal(given_up.status()?)?;
    Some(MigrationFacts {
        flows_owned,
        opening: Opening::GivenUpCopy,
        start: flows.iter().map(|flow| flow.first()).min()?,
        start_seen: flows.iter().all(|flow| flow.is_whole()),
        end: Ending::Declared(given_up.at, outcome),
        ..MigrationFacts::new(Some(process), Role::Source, vec![given_up], flows.to_vec())
    })
}

/// When the disk copy before `setup` began: with the first NBD flow, or with the first mirror.
pub(super) fn disk_sync_start(
    jobs: &mut Jobs<'_>,
    flows: &[&FlowFacts],
    setup: MonotonicNs,
) -> Option<CopyStart> {
    let flow = flows.iter().filter(|f| f.purpose == Purpose::Nbd).map(|f| (f.first(), None)).min();
    flow.into_iter().chain(jobs.ready_since(setup)).min().filter(|(start, _)| *start < setup)
}
