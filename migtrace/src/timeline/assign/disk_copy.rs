//! When the copy of disks that precedes a migration began.

use std::collections::{BTreeSet, HashMap};

use crate::timeline::facts::{FlowFacts, JobState, Process};
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

/// When the disk copy before `setup` began: with the first NBD flow, or with the first mirror.
pub(super) fn disk_sync_start(
    jobs: &mut Jobs<'_>,
    flows: &[&FlowFacts],
    setup: MonotonicNs,
) -> Option<CopyStart> {
    let flow = flows.iter().filter(|f| f.purpose == Purpose::Nbd).map(|f| (f.first(), None)).min();
    flow.into_iter().chain(jobs.ready_since(setup)).min().filter(|(start, _)| *start < setup)
}
