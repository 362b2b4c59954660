//! The events that wait to be taken.

use std::collections::{BTreeSet, VecDeque};

use super::error::{TracerError, host};
use crate::event::{Event, Fact};
use crate::host::clock;
use crate::units::MonotonicNs;
use crate::vocabulary::NotMeasured;
use crate::watch::process_of;

/// The events that wait to be taken, in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct EventQueue {
    events: VecDeque<Event>,
    /// What was added as not measured, except of QEMUs that have ended.
    not_measured: BTreeSet<NotMeasured>,
}

/// So many things that are not measured are remembered, so that each is added once. There are hardly ever more than a few, but
/// a tracer may run for months.
const MOST_NOT_MEASURED: usize = 1024;

impl EventQueue {
    /// Adds a fact.
    pub(super) fn add(&mut self, at_ns: MonotonicNs, fact: Fact) {
        self.events.push_back(Event { at_ns, fact });
    }

    /// Adds that something is not measured, unless the same was added before.
    pub(super) fn not_measured(&mut self, at_ns: MonotonicNs, what: &str, why: String) {
        let not_measured = NotMeasured { what: what.into(), why };
        if self.not_measured.len() >= MOST_NOT_MEASURED && !self.not_measured.contains(&not_measured) {
            self.not_measured.pop_first();
        }
        if self.not_measured.insert(not_measured.clone()) {
            self.add(at_ns, Fact::NotMeasured(not_measured));
        }
    }

    /// A QEMU has ended: another one may get its number, and what is not measured of that is another thing.
    pub(super) fn forget_process(&mut self, pid: u32) {
        self.not_measured.retain(|entry| process_of(&entry.what) != Some(pid));
    }

    /// Adds what ties the monotonic clock to wall time now.
    pub(super) fn clock(&mut self) -> Result<(), TracerError> {
        let sample = clock::sample().map_err(host("read the clocks"))?;
        self.add(now()?, Fact::Clock(sample));
        Ok(())
    }

    /// Takes the next event.
    pub(super) fn take(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// All events that wait.
    pub(super) fn into_events(self) -> Vec<Event> {
        self.events.into()
    }
}

/// The stamp of a fact that user space finds now.
pub(crate) fn now() -> Result<MonotonicNs, TracerError> {
    clock::now().map_err(host("read the clock"))
}
