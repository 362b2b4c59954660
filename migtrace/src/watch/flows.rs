//! What is known of a connection: enough that a journal can take it in later.

use tokio::time::Instant;

use super::journal::JournalId;
use crate::event::{Event, Fact};
use crate::units::{Flow, MonotonicNs};
use crate::vocabulary::Purpose;

/// So many events of a connection that is in no journal are kept: the first ones, and the latest.
const FIRST: usize = 32;
const MOST: usize = 128;

/// A connection.
#[derive(Debug)]
pub(super) struct KnownFlow {
    /// When it became known.
    pub(super) since: Instant,
    first_ns: MonotonicNs,
    seen: Option<Event>,
    owner: Option<Event>,
    purpose: Option<Event>,
    counters: Option<Event>,
    carried: Option<Event>,
    /// All of its events, until it is in a journal.
    held: Vec<Event>,
    /// The journals that it is in. It is of the last one; for the others it is an earlier connection of the same process.
    pub(super) journals: Vec<JournalId>,
    /// It was in a journal that is closed, so it is of no later one.
    is_of_before: bool,
    pub(super) is_gone: bool,
}

impl KnownFlow {
    pub(super) const fn new(now: Instant, first_ns: MonotonicNs) -> Self {
        Self {
            since: now,
            first_ns,
            seen: None,
            owner: None,
            purpose: None,
            counters: None,
            carried: None,
            held: Vec::new(),
            journals: Vec::new(),
            is_of_before: false,
            is_gone: false,
        }
    }

    /// Takes in one of its events.
    pub(super) fn take(&mut self, event: &Event) {
        let latest = match &event.fact {
            Fact::FlowSeen { .. } => &mut self.seen,
            Fact::FlowOwner { .. } => &mut self.owner,
            Fact::FlowPurpose { .. } => &mut self.purpose,
            Fact::FlowCounters(_) => &mut self.counters,
            Fact::FlowCarriedBefore(_) => &mut self.carried,
            Fact::FlowGone { .. } => {
                self.is_gone = true;
                return self.hold(event);
            }
            _ => return self.hold(event),
        };
        *latest = Some(event.clone());
        self.hold(event);
    }

    fn hold(&mut self, event: &Event) {
        if !self.journals.is_empty() || self.is_of_before {
            return;
        }
        self.held.push(event.clone());
        if self.held.len() > MOST {
            let is_count =
                |event: &Event| matches!(event.fact, Fact::FlowCounters(_) | Fact::Milestones { .. });
            // Counters are cumulative: the latest say all that those before have said.
            if let Some(oldest) = self.held.iter().skip(FIRST).position(is_count) {
                self.held.remove(FIRST + oldest);
            }
        }
    }

    /// Whether its first packet was reported.
    pub(super) const fn is_seen(&self) -> bool {
        self.seen.is_some()
    }

    /// The process that owns it.
    pub(super) fn pid(&self) -> Option<u32> {
        match self.owner.as_ref()?.fact {
            Fact::FlowOwner { pid, .. } => Some(pid),
            _ => None,
        }
    }

    pub(super) fn purpose(&self) -> Purpose {
        match self.purpose.as_ref().map(|event| &event.fact) {
            Some(Fact::FlowPurpose { purpose, .. }) => *purpose,
            _ => Purpose::Unknown,
        }
    }

    /// When its first packet crossed.
    pub(super) fn first(&self) -> MonotonicNs {
        match self.counters.as_ref().map(|event| &event.fact) {
            Some(Fact::FlowCounters(counted)) => counted.first_ns,
            _ => self.first_ns,
        }
    }

    pub(super) fn has_payload(&self) -> bool {
        match self.counters.as_ref().map(|event| &event.fact) {
            Some(Fact::FlowCounters(counted)) => {
                counted.counters.tx.payload_bytes > 0 || counted.counters.rx.payload_bytes > 0
            }
            _ => false,
        }
    }

    /// Whether nothing more will be counted.
    pub(super) fn is_closed(&self) -> bool {
        let closed = |event: &Event| matches!(&event.fact, Fact::FlowCounters(counted) if counted.closed);
        self.is_gone || self.counters.as_ref().is_some_and(closed)
    }

    /// Whether it can be of a migration that begins now.
    pub(super) fn may_be_of_next(&self) -> bool {
        !self.is_of_before && self.purpose() != Purpose::Other
    }

    /// Puts it into a journal. Returns what the journal needs of it. A connection of before is in it only because the
    /// counters that come with QEMU's events include it.
    pub(super) fn enter(&mut self, journal: JournalId) -> Vec<Event> {
        let is_of_another = self.is_of_before || !self.journals.is_empty();
        self.journals.push(journal);
        if !is_of_another {
            return std::mem::take(&mut self.held);
        }
        let Some(first) = self.summary().next() else { return Vec::new() };
        let other = flow_of(&first.fact).map(|flow| Fact::FlowPurpose { flow, purpose: Purpose::Other });
        let other = other.map(|fact| Event { at_ns: first.at_ns, fact });
        let is_purpose = |event: &&Event| matches!(event.fact, Fact::FlowPurpose { .. });
        self.summary().filter(|event| !is_purpose(event)).cloned().chain(other).collect()
    }

    /// A journal is closed. Unless there was no migration, the connection is of none that follows.
    pub(super) fn leave(&mut self, journal: JournalId, was_migration: bool) {
        if !self.journals.contains(&journal) {
            return;
        }
        self.journals.retain(|other| *other != journal);
        self.is_of_before |= was_migration;
        if !was_migration && self.journals.is_empty() {
            self.begin_anew();
        }
    }

    /// It is in no journal any more, and may enter another.
    pub(super) fn begin_anew(&mut self) {
        self.journals.clear();
        self.held = self.summary().cloned().collect();
    }

    /// The process that owned it is over. Another one with the same number has nothing to do with it.
    pub(super) fn disown(&mut self) {
        self.owner = None;
        self.is_of_before = true;
    }

    fn summary(&self) -> impl Iterator<Item = &Event> {
        [&self.seen, &self.owner, &self.purpose, &self.carried, &self.counters].into_iter().flatten()
    }

    /// The journals into which its events go.
    pub(super) fn journals(&self) -> Vec<JournalId> {
        self.journals.clone()
    }
}

const fn flow_of(fact: &Fact) -> Option<Flow> {
    match fact {
        Fact::FlowSeen { flow, .. } | Fact::FlowOwner { flow, .. } | Fact::FlowPurpose { flow, .. } => {
            Some(*flow)
        }
        Fact::FlowCounters(counted) => Some(counted.flow),
        Fact::FlowCarriedBefore(carried) => Some(carried.flow),
        _ => None,
    }
}
