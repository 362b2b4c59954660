//! One migration of one QEMU: its facts, and what they say as a whole.

use super::direction::dominant_role;
use super::facts::{FlowFacts, Process};
use super::stamped::Stamped;
use super::transition::{Transition, TransitionKind};
use crate::event::EndReason;
use crate::record::{Mode, Outcome, PhaseName, Role};
use crate::units::{Counters, Directions, MonotonicNs};
use crate::vocabulary::Purpose;

/// How long after the end of a migration its guest may still be resumed because of it. A later resume has another cause.
pub(super) const LATE_RESUME_NS: u64 = 60_000_000_000;

/// The facts of one migration of one QEMU.
#[derive(Clone, Debug)]
pub(super) struct MigrationFacts<'a> {
    /// None for a migration stream whose QEMU is not in this network namespace.
    pub(super) process: Option<&'a Process>,
    pub(super) role: Role,
    /// In the order of their stamps.
    pub(super) transitions: Vec<&'a Transition>,
    /// In the order of their first packets.
    pub(super) flows: Vec<&'a FlowFacts>,
    /// What the flows of the same process carried that began before this migration, were still counted then, and are none of
    /// its own.
    pub(super) earlier_counters: Directions<Counters>,
    /// When flows of the same process were counted no more, during this migration, and what each had carried; in the order of
    /// these instants.
    pub(super) leaving: Vec<(MonotonicNs, Directions<Counters>)>,
    /// When the latest of its earlier migrations ended.
    pub(super) previous_end: Option<MonotonicNs>,
    /// When the next migration of the same process began.
    pub(super) next_start: Option<MonotonicNs>,
    /// When QEMU had said that it begins, without anything after it, before it began anew.
    pub(super) given_up: Option<MonotonicNs>,
    /// False when the flows are this VM's only because there is no other whose they could be.
    pub(super) flows_owned: bool,
    pub(super) opening: Opening,
    pub(super) start: MonotonicNs,
    /// QEMU's own stamp of the start, in microseconds of the wall clock; none when a packet is the start.
    pub(super) start_stamp: Option<i64>,
    /// False when the migration had begun before anything of it was seen.
    pub(super) start_seen: bool,
    pub(super) end: Ending,
}

/// What the time before the first transition is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Opening {
    /// There is none: the first transition is the start.
    Transition,
    /// The destination waits for the source, whose first packet is the start.
    Listening,
    /// The disks are copied before the memory.
    DiskSync,
    /// Packets crossed before the first event was seen.
    Unseen,
    /// QEMU tells no phases: all that is known are its flows, STOP and RESUME.
    Transfer,
}

/// How the facts of a migration end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ending {
    /// QEMU said so.
    Declared(MonotonicNs, Outcome),
    /// QEMU did not say so, but replied it when it was asked, and then ended.
    Replied(MonotonicNs, Outcome),
    /// QEMU ended in the middle.
    Died(MonotonicNs),
    /// The next migration began although no end of this one was seen.
    Superseded(MonotonicNs),
    /// QEMU told nothing and all flows are closed.
    Closed(MonotonicNs),
    /// Nothing more is known.
    Open(MonotonicNs),
}

impl Ending {
    pub(super) const fn at(&self) -> MonotonicNs {
        match self {
            Self::Declared(at, _)
            | Self::Replied(at, _)
            | Self::Died(at)
            | Self::Superseded(at)
            | Self::Closed(at)
            | Self::Open(at) => *at,
        }
    }
}

/// The outcome that a status means, when it is a last one.
pub(super) const fn terminal(status: &PhaseName) -> Option<Outcome> {
    match status {
        PhaseName::Completed => Some(Outcome::Completed),
        PhaseName::Failed => Some(Outcome::Failed),
        PhaseName::Cancelled => Some(Outcome::Cancelled),
        _ => None,
    }
}

/// The status that means an outcome; none of one that QEMU does not tell.
pub(super) const fn last_phase(outcome: Outcome) -> Option<PhaseName> {
    match outcome {
        Outcome::Completed => Some(PhaseName::Completed),
        Outcome::Failed => Some(PhaseName::Failed),
        Outcome::Cancelled => Some(PhaseName::Cancelled),
        Outcome::Interrupted | Outcome::Unknown => None,
    }
}

/// The outcome that a reply to `query-migrate` tells, when it tells one.
pub(super) fn replied_outcome(reply: &serde_json::Value) -> Option<Outcome> {
    terminal(&reply.get("status")?.as_str()?.into())
}

/// A time in which the guest of a source was paused and then let go on, by a person or because of an error: the migration
/// itself lets a guest go on only when it has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Pause {
    pub(super) stop: MonotonicNs,
    pub(super) resume: MonotonicNs,
}

impl<'a> MigrationFacts<'a> {
    /// One whose beginning and end are still to be told.
    pub(super) fn new(
        process: Option<&'a Process>,
        role: Role,
        transitions: Vec<&'a Transition>,
        flows: Vec<&'a FlowFacts>,
    ) -> Self {
        Self {
            process,
            role,
            transitions,
            flows,
            earlier_counters: Directions::default(),
            leaving: Vec::new(),
            previous_end: None,
            next_start: None,
            given_up: None,
            flows_owned: false,
            opening: Opening::Transition,
            start: MonotonicNs::default(),
            start_stamp: None,
            start_seen: false,
            end: Ending::Open(MonotonicNs::default()),
        }
    }

    /// The pauses that are not the migration's, in their order.
    pub(super) fn pauses(&self) -> Vec<Pause> {
        let mut pauses = Vec::new();
        let (mut may_pause, mut stopped) = (true, None);
        for transition in self.transitions.iter().filter(|_| self.role == Role::Source) {
            match &transition.kind {
                TransitionKind::Status(status) => {
                    may_pause =
                        matches!(status, PhaseName::Setup | PhaseName::WaitUnplug | PhaseName::Active);
                    stopped = None;
                    if terminal(status).is_some() {
                        break;
                    }
                }
                TransitionKind::Stop => stopped = may_pause.then_some(transition.at),
                TransitionKind::Resume => {
                    pauses.extend(stopped.take().map(|stop| Pause { stop, resume: transition.at }));
                }
                TransitionKind::Pass(_) | TransitionKind::DirtyLog => {}
            }
        }
        // Without states nothing tells a failed migration from a pause but that it went on to another stop.
        if self.opening == Opening::Transfer && stopped.is_none() {
            pauses.pop();
        }
        pauses
    }

    /// The stop of the guest that the end of the migration found.
    pub(super) fn last_stop(&self) -> Option<&'a Transition> {
        let pauses = self.pauses();
        let is_pause = |transition: &&Transition| {
            pauses.binary_search_by_key(&transition.at, |pause| pause.stop).is_ok()
        };
        self.transitions
            .iter()
            .copied()
            .rfind(|transition| transition.kind == TransitionKind::Stop && !is_pause(transition))
    }

    pub(super) fn mode(&self) -> Mode {
        use PhaseName as P;
        let status = |test: fn(&P) -> bool| self.transitions.iter().any(|m| m.status().is_some_and(test));
        if status(|s| s.as_str().starts_with("postcopy")) {
            Mode::Postcopy
        } else if self.opening != Opening::Transfer && status(|s| matches!(s, P::Active | P::Completed)) {
            Mode::Precopy
        } else {
            Mode::Unknown
        }
    }

    pub(super) fn first_packet(&self) -> Option<MonotonicNs> {
        self.flows.iter().map(|f| f.first()).min()
    }

    pub(super) fn last_packet(&self) -> Option<MonotonicNs> {
        self.flows.iter().map(|f| f.last()).max()
    }

    /// When the last byte of the memory stream crossed for the first time; it ends with the devices' state and what
    /// describes it, and without them the guest cannot run at the destination. Unknown where QEMU itself does not end
    /// the stream there: TLS adds a farewell, COLO goes on.
    pub(super) fn last_byte(&self) -> Option<MonotonicNs> {
        if self.mode() != Mode::Precopy || self.transitions.iter().any(|m| m.is_status(&PhaseName::Colo)) {
            return None;
        }
        let streams = self.flows.iter().filter(|f| f.purpose == Purpose::Ram);
        let last = streams.filter_map(|f| f.last.as_ref()).map(|counted| match self.role {
            Role::Source => counted.last_byte_ns.tx,
            Role::Destination => counted.last_byte_ns.rx,
        });
        last.max().flatten()
    }

    /// The last reply of `query-migrate` about this migration: QEMU answers for the one that it began last.
    pub(super) fn reply(&self) -> Option<&'a serde_json::Value> {
        self.until_next(&self.process?.replies, self.start)
    }

    /// The last of QEMU's parameters that may have held for this migration.
    pub(super) fn parameters(&self) -> Option<&'a serde_json::Value> {
        let since = self.previous_end.map_or(MonotonicNs(0), |end| MonotonicNs(end.0.saturating_add(1)));
        self.until_next(&self.process?.parameters, since)
    }

    fn until_next(
        &self,
        answers: &'a Stamped<serde_json::Value>,
        since: MonotonicNs,
    ) -> Option<&'a serde_json::Value> {
        self.before_next(answers, since).next_back().map(|(_, answer)| answer)
    }

    /// What was told from `since` on, and before the next migration of the same process began.
    pub(super) fn before_next<T>(
        &self,
        told: &'a Stamped<T>,
        since: MonotonicNs,
    ) -> impl DoubleEndedIterator<Item = (MonotonicNs, &'a T)> + use<'a, T> {
        let until = self.next_start.map_or(u64::MAX, |next| next.0.saturating_sub(1));
        told.between(since, MonotonicNs(until))
    }

    /// The outcome that QEMU's reply tells, when it has one.
    pub(super) fn replied_outcome(&self) -> Option<Outcome> {
        replied_outcome(self.reply()?)
    }

    pub(super) fn outcome(&self, log_end: Option<EndReason>) -> Outcome {
        let told = || self.replied_outcome();
        match self.end {
            Ending::Declared(_, outcome) | Ending::Replied(_, outcome) => outcome,
            // Without events a source that has stopped its guest and then ends has most likely succeeded.
            Ending::Died(_) if self.opening == Opening::Transfer && self.stopped() => {
                told().unwrap_or(Outcome::Unknown)
            }
            Ending::Died(_) if self.opening == Opening::Transfer => told().unwrap_or(Outcome::Failed),
            Ending::Died(_) => Outcome::Failed,
            Ending::Superseded(_) | Ending::Closed(_) => told().unwrap_or(Outcome::Unknown),
            Ending::Open(_) => told().unwrap_or(match log_end {
                Some(EndReason::MigrationEnded) => Outcome::Unknown,
                Some(EndReason::Interrupted | EndReason::TimedOut) | None => Outcome::Interrupted,
            }),
        }
    }

    /// Whether a guest that has arrived here, or may have, did not run so far and still can: its QEMU lives.
    pub(super) fn may_still_run(&self) -> bool {
        let has_arrived = match self.end {
            Ending::Declared(_, outcome) => outcome == Outcome::Completed,
            Ending::Closed(_) => true,
            Ending::Replied(..) | Ending::Died(_) | Ending::Superseded(_) | Ending::Open(_) => false,
        };
        let runs = self.transitions.iter().any(|m| m.kind == TransitionKind::Resume);
        let lives = self.process.is_some_and(|process| process.gone.is_none());
        self.role == Role::Destination && has_arrived && lives && !runs
    }

    /// Whether the guest was stopped and not resumed here.
    fn stopped(&self) -> bool {
        let last = |kind: &TransitionKind| self.transitions.iter().rposition(|m| m.kind == *kind);
        last(&TransitionKind::Stop) > last(&TransitionKind::Resume)
    }
}

/// This host's part. Decides by what was seen: by what only a source says, then by where the memory goes, then by whether
/// the guest stopped before it ran (a destination enters `paused` without ever having run, which emits no STOP; its
/// guest can be stopped once it has arrived). The command line (`-incoming`) decides only when nothing tells, because a
/// guest that has arrived can leave again.
pub(super) fn role(
    transitions: &[&Transition],
    flows: &[&FlowFacts],
    process: Option<&Process>,
    arrived: bool,
) -> Role {
    let end =
        transitions.iter().position(|m| m.status().and_then(terminal).is_some()).unwrap_or(transitions.len());
    if transitions.iter().take(end + 1).any(|m| m.is_of_source()) {
        return Role::Source;
    }
    if let Some(role) = dominant_role(flows.iter().map(|f| f.payload_bytes())) {
        return role;
    }
    let mut changes =
        transitions.iter().filter(|m| matches!(m.kind, TransitionKind::Stop | TransitionKind::Resume));
    if changes.next().is_some_and(|first| first.kind == TransitionKind::Stop) {
        return Role::Source;
    }
    let qemu = process.and_then(|p| p.qemu.as_ref());
    let incoming = qemu.is_some_and(|q| q.incoming) && !arrived;
    let resumed_only = qemu.is_none() && transitions.iter().any(|m| m.kind == TransitionKind::Resume);
    if incoming || resumed_only { Role::Destination } else { Role::Source }
}
