//! The events that wait to be taken.

use std::collections::{BTreeSet, VecDeque};

use super::error::{TracerError, host};
use crate::event::{Event, Fact};
use crate::host::clock;
use crate::units::MonotonicNs;
use crate::vocabulary::NotMeasured;

/// The events that wait to be taken, in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct EventQueue {
    events: VecDeque<Event>,
    /// All that was ever added as not measured.
    not_measured: BTreeSet<NotMeasured>,
}

impl EventQueue {
    /// Adds a fact.
    pub(super) fn add(&mut self, at_ns: MonotonicNs, fact: Fact) {
        self.events.push_back(Event { at_ns, fact });
    }

    /// Adds that something is not measured, unless the same was added before.
    pub(super) fn not_measured(&mut self, at_ns: MonotonicNs, what: &str, why: String) {
        let not_measured = NotMeasured { what: what.into(), why };
        if self.not_measured.insert(not_measured.clone()) {
            self.add(at_ns, Fact::NotMeasured(not_measured));
        }
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
pub(super) fn now() -> Result<MonotonicNs, TracerError> {
    clock::now().map_err(host("read the clock"))
}
