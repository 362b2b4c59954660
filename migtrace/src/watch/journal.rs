//! What belongs to one migration: the events of its log, and what they show.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::standing::rebased;
use crate::event::Event;
use crate::record::{Outcome, Record, Role};
use crate::recorder::pace::Pace;
use crate::recorder::settling::Settling;
use crate::selection::Selection;
use crate::timeline::{Ended, Live, Timeline};
use crate::units::MonotonicNs;
use crate::vocabulary::Lost;

/// A journal in which no migration is under way is given up when nothing has happened for this long. QEMU may report that a
/// migration begins seconds after the last packet of the disks' copy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which journal: the first of a watch is 1.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct JournalId(pub(super) u64);

impl std::fmt::Display for JournalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The journal of one migration.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) id: JournalId,
    /// The processes whose events it has. Both ends of a migration may be on this host.
    pub(super) pids: Vec<u32>,
    timeline: Timeline,
    /// What was lost before it began.
    lost_before: Lost,
    /// Its events until it is known that there is a migration.
    waiting: Vec<Event>,
    /// A migration is under way in it, or has ended.
    pub(super) has_begun: bool,
    /// What comes belongs to another journal, so this one ends.
    pub(super) is_ending: bool,
    pace: Pace,
    /// The migrations in it that have ended, by their processes.
    settlings: BTreeMap<Option<u32>, Settling>,
    /// When it last got an event of its own.
    touched: Instant,
    pub(super) opened: Instant,
    /// Connections whose owner is in it.
    pub(super) owned_flows: usize,
}

impl Journal {
    pub(super) fn new(id: JournalId, now: Instant, lost_before: Lost) -> Self {
        Self {
            id,
            pids: Vec::new(),
            timeline: Timeline::new(Selection::default()),
            lost_before,
            waiting: Vec::new(),
            has_begun: false,
            is_ending: false,
            pace: Pace::new(now),
            settlings: BTreeMap::new(),
            touched: now,
            opened: now,
            owned_flows: 0,
        }
    }

    /// Takes in what it begins with.
    pub(super) fn take_preamble(&mut self, event: Event) {
        self.timeline.push(&event);
        self.waiting.push(event);
    }

    /// Takes in an event of its own. Returns it as it is in the log, if that is written already, and whether it is time for
    /// a look.
    pub(super) fn take(&mut self, event: &Event, now: Instant) -> (Option<Event>, bool) {
        self.touched = now;
        self.take_of_host(event, now)
    }

    /// Takes in an event about the host.
    pub(super) fn take_of_host(&mut self, event: &Event, now: Instant) -> (Option<Event>, bool) {
        let event = rebased(event, &self.lost_before);
        self.timeline.push(&event);
        let is_time = self.pace.happened(now, event.fact.is_turning_point());
        if !self.has_begun {
            self.waiting.push(event);
            return (None, is_time);
        }
        (Some(event), is_time)
    }

    /// Finds out whether a migration has begun or ended. Returns the events until now, once it has begun.
    pub(super) fn look(&mut self, now: Instant, sharing: u32) -> Option<Vec<Event>> {
        let begun = Instant::now();
        let endings = self.timeline.endings();
        self.settlings.retain(|pid, _| endings.iter().any(|ended| ended.pid == *pid));
        for ended in endings {
            self.settlings.entry(ended.pid).or_insert_with(|| Settling::new(now, ended));
        }
        let is_one = !endings.is_empty() || self.timeline.is_under_way();
        self.pace.share(sharing);
        self.pace.looked(now, now + begun.elapsed());
        (!self.has_begun && is_one).then(|| self.begin())
    }

    /// There is a migration. Returns the events until now.
    pub(super) fn begin(&mut self) -> Vec<Event> {
        self.has_begun = true;
        std::mem::take(&mut self.waiting)
    }

    pub(super) fn is_look_due(&self, now: Instant) -> bool {
        self.pace.next_look().is_some_and(|next| next <= now)
    }

    /// When something may be due if nothing happens before.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let settled = self.settlings.values().filter_map(|settling| settling.next_look(now)).min();
        let given_up = (self.settlings.is_empty()).then(|| self.touched + PATIENCE).filter(|at| *at > now);
        [self.pace.next_look(), settled, given_up].into_iter().flatten().min()
    }

    /// Whether a migration in it is over and nothing more of it is awaited. Another of the same process does not matter:
    /// what has another purpose than a migration may look like one.
    pub(super) fn has_settled(&mut self, now: Instant) -> bool {
        if self.is_ending {
            return true;
        }
        let endings = self.timeline.endings();
        let others = self.timeline.busy().iter().any(|pid| endings.iter().all(|ended| ended.pid != *pid));
        let of = |pid: &Option<u32>| endings.iter().find(|ended| ended.pid == *pid);
        !self.settlings.is_empty()
            && !others
            && self.settlings.iter_mut().all(|(pid, settling)| settling.has_settled(now, of(pid)))
    }

    /// Whether it can be given up: no migration is under way or has ended, and nothing has happened for a while. Its
    /// connections are closed.
    pub(super) fn is_in_vain(&self, now: Instant) -> bool {
        self.settlings.is_empty() && !self.timeline.is_under_way() && now >= self.touched + PATIENCE
    }

    /// When the migration of this process in it ended; `None` while it has not.
    pub(super) fn ended(&mut self, pid: Option<u32>) -> Option<MonotonicNs> {
        if self.timeline.busy().contains(&pid) {
            return None;
        }
        let endings = self.timeline.endings();
        endings.iter().filter(|ended| ended.pid == pid).map(|ended| ended.at).max()
    }

    /// The processes whose guests have arrived here, or may have.
    pub(super) fn arrivals(&self) -> Vec<u32> {
        let has_arrived = |ended: &&Ended| {
            ended.role == Role::Destination && matches!(ended.outcome, Outcome::Completed | Outcome::Unknown)
        };
        self.timeline.endings().iter().filter(has_arrived).filter_map(|ended| ended.pid).collect()
    }

    /// Whether one of its migrations has ended.
    pub(super) fn has_ended(&self) -> bool {
        !self.timeline.endings().is_empty()
    }

    /// The migration as it is now.
    pub(super) fn live(&self, now: MonotonicNs) -> Option<Live> {
        self.timeline.live(now).filter(|_| self.has_begun)
    }

    /// The records of its log.
    pub(super) fn records(&self) -> Vec<Record> {
        super::records(&self.timeline)
    }
}
