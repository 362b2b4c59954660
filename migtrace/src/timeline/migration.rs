//! One migration of one QEMU: its facts, and what they show together.

use std::collections::BTreeMap;

use super::direction::dominant_role;
use super::facts::{FlowFacts, GivenUpCopy, Process};
use super::stamped::Stamped;
use super::transition::{Transition, TransitionKind};
use crate::event::{EndReason, Qemu};
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
    /// What earlier flows of the same process carried, if they were still counted when this migration began and are
    /// not its own.
    pub(super) earlier_counters: Directions<Counters>,
    /// When the counting of flows of the same process ended during this migration, and what each had carried; in the
    /// order of these instants.
    pub(super) leaving: Vec<(MonotonicNs, Directions<Counters>)>,
    /// When the latest of its earlier migrations ended.
    pub(super) previous_end: Option<MonotonicNs>,
    /// When the next migration of the same process began.
    pub(super) next_start: Option<MonotonicNs>,
    /// When QEMU reported an earlier beginning after which nothing happened.
    pub(super) given_up: Option<MonotonicNs>,
    /// False when the flows are attributed to this VM only because no other VM can own them.
    pub(super) flows_owned: bool,
    pub(super) opening: Opening,
    pub(super) start: MonotonicNs,
    /// QEMU's own stamp of the start, in microseconds of the wall clock; none when a packet is the start.
    pub(super) start_stamp: Option<i64>,
    /// False when the migration had begun before anything of it was seen.
    pub(super) start_seen: bool,
    pub(super) end: Ending,
}

/// What happens before the first transition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Opening {
    /// Nothing: the first transition is the start.
    Transition,
    /// The destination waits for the source, whose first packet is the start.
    Listening,
    /// The disks are copied before the memory.
    DiskSync,
    /// The disks are copied, and QEMU gives that up before it begins to migrate.
    GivenUpCopy,
    /// Packets crossed before the first event was seen.
    Unseen,
    /// QEMU reports no phases: only its flows, STOP and RESUME are known.
    Transfer,
}

/// How the facts of a migration end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ending {
    /// QEMU reported it.
    Declared(MonotonicNs, Outcome),
    /// QEMU did not report it, but said so in reply to a query, and then exited.
    Replied(MonotonicNs, Outcome),
    /// QEMU exited in the middle.
    Died(MonotonicNs),
    /// The next migration began although no end of this one was seen.
    Superseded(MonotonicNs),
    /// QEMU reported nothing, and all flows have closed.
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

/// The outcome that a status means, if it is a final one.
pub(super) const fn terminal(status: &PhaseName) -> Option<Outcome> {
    match status {
        PhaseName::Completed => Some(Outcome::Completed),
        PhaseName::Failed => Some(Outcome::Failed),
        PhaseName::Cancelled => Some(Outcome::Cancelled),
        _ => None,
    }
}

/// The status that means an outcome; none for an outcome that QEMU does not report.
pub(super) const fn last_phase(outcome: Outcome) -> Option<PhaseName> {
    match outcome {
        Outcome::Completed => Some(PhaseName::Completed),
        Outcome::Failed => Some(PhaseName::Failed),
        Outcome::Cancelled => Some(PhaseName::Cancelled),
        Outcome::Interrupted | Outcome::Unknown => None,
    }
}

/// The outcome in a reply to `query-migrate`, if it names one.
pub(super) fn replied_outcome(reply: &serde_json::Value) -> Option<Outcome> {
    terminal(&reply.get("status")?.as_str()?.into())
}

/// A time in which a person or an error paused the guest at the source, and it was then resumed. A migration itself
/// resumes the guest only after its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Pause {
    pub(super) stop: MonotonicNs,
    pub(super) resume: MonotonicNs,
}

/// Whether one of these pauses, which are in their order, begins at `at`.
pub(super) fn begins_pause(pauses: &[Pause], at: MonotonicNs) -> bool {
    pauses.binary_search_by_key(&at, |pause| pause.stop).is_ok()
}

impl<'a> MigrationFacts<'a> {
    /// One whose beginning and end are still to be filled in.
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

    /// The copy of a disk that was given up, if QEMU never got beyond that.
    pub(super) fn given_up_copy(&self) -> Option<&'a GivenUpCopy> {
        let at = self.transitions.first().filter(|_| self.opening == Opening::GivenUpCopy)?.at;
        let copies = self.process?.given_up.between(at, at);
        copies.map(|(_, copy)| copy).next_back()
    }

    /// Whether nothing but a copy of disks was seen leaving, which may have had another purpose.
    pub(super) fn is_only_copy(&self) -> bool {
        self.role == Role::Source
            && matches!(self.opening, Opening::GivenUpCopy | Opening::Transfer)
            && self.flows.iter().all(|flow| flow.purpose == Purpose::Nbd)
    }

    /// Whether it is a destination to which disks were copied, and which does nothing but listen now.
    pub(super) fn only_listens(&self) -> bool {
        self.role == Role::Destination
            && self.opening == Opening::Transfer
            && self.flows.iter().all(|flow| flow.purpose == Purpose::Nbd && flow.closed())
    }

    /// What is known of the QEMU; none if it was never described.
    pub(super) fn qemu(&self) -> Option<&'a Qemu> {
        self.process?.qemu.as_ref()
    }

    /// The pauses that the migration did not cause, in their order.
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
        // Without states, only another stop later distinguishes a pause from a failed migration.
        if self.opening == Opening::Transfer && stopped.is_none() {
            pauses.pop();
        }
        pauses
    }

    /// The stop of the guest that lasted until the end of the migration.
    pub(super) fn last_stop(&self) -> Option<&'a Transition> {
        let pauses = self.pauses();
        let is_pause = |transition: &&Transition| begins_pause(&pauses, transition.at);
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

    /// When the last byte of the memory stream crossed for the first time. The stream ends with the devices' state,
    /// without which the guest cannot run at the destination. Unknown where the stream does not end there: TLS adds a
    /// closing message, and COLO goes on.
    pub(super) fn last_byte(&self) -> Option<MonotonicNs> {
        if self.mode() != Mode::Precopy || self.is_of_colo() {
            return None;
        }
        let streams = self.flows.iter().filter(|f| f.purpose == Purpose::Ram);
        let last = streams.filter_map(|f| f.last.as_ref()).map(|counted| match self.role {
            Role::Source => counted.last_byte_ns.tx,
            Role::Destination => counted.last_byte_ns.rx,
        });
        last.max().flatten()
    }

    /// Whether the guest goes on on both hosts, and its memory is sent on.
    pub(super) fn is_of_colo(&self) -> bool {
        self.transitions.iter().any(|m| m.is_status(&PhaseName::Colo))
    }

    /// The last reply to `query-migrate` about this migration: QEMU replies for the migration that it began last.
    pub(super) fn reply(&self) -> Option<&'a serde_json::Value> {
        self.until_next(&self.process?.replies, self.start)
    }

    /// QEMU's last known parameters that may have applied to this migration.
    pub(super) fn parameters(&self) -> Option<&'a serde_json::Value> {
        let since = self.previous_end.map_or(MonotonicNs(0), |end| MonotonicNs(end.0.saturating_add(1)));
        self.until_next(&self.process?.parameters, since)
    }

    /// What libvirt has said of this migration.
    pub(super) fn libvirt_figures(&self) -> Option<&'a BTreeMap<String, u64>> {
        self.until_next(&self.process?.libvirt_figures, self.start)
    }

    fn until_next<T>(&self, answers: &'a Stamped<T>, since: MonotonicNs) -> Option<&'a T> {
        self.before_next(answers, since).next_back().map(|(_, answer)| answer)
    }

    /// The items from `since` on, until the next migration of the same process began.
    pub(super) fn before_next<T>(
        &self,
        items: &'a Stamped<T>,
        since: MonotonicNs,
    ) -> impl DoubleEndedIterator<Item = (MonotonicNs, &'a T)> + use<'a, T> {
        let until = self.next_start.map_or(u64::MAX, |next| next.0.saturating_sub(1));
        items.between(since, MonotonicNs(until))
    }

    /// The outcome in QEMU's last reply, if it names one.
    pub(super) fn replied_outcome(&self) -> Option<Outcome> {
        replied_outcome(self.reply()?)
    }

    pub(super) fn outcome(&self, log_end: Option<EndReason>) -> Outcome {
        let replied = || self.replied_outcome();
        match self.end {
            Ending::Declared(_, outcome) | Ending::Replied(_, outcome) => outcome,
            // Without events, a source that stopped its guest and then exited has most likely succeeded.
            Ending::Died(_) if self.opening == Opening::Transfer && self.stopped() => {
                replied().unwrap_or(Outcome::Unknown)
            }
            Ending::Died(_) if self.opening == Opening::Transfer => replied().unwrap_or(Outcome::Failed),
            Ending::Died(_) => Outcome::Failed,
            Ending::Superseded(_) | Ending::Closed(_) => replied().unwrap_or(Outcome::Unknown),
            Ending::Open(_) => replied().unwrap_or(match log_end {
                Some(EndReason::MigrationEnded) => Outcome::Unknown,
                Some(EndReason::Interrupted | EndReason::TimedOut) | None => Outcome::Interrupted,
            }),
        }
    }

    /// Whether a guest that has arrived here, or may have, has not run yet but still can, since its QEMU lives.
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

    /// When the guest first ran here since the migration began, as far as that was seen.
    pub(super) fn runs_from(&self) -> Option<MonotonicNs> {
        let run = self.process.and_then(|process| process.runs.first_since(self.start));
        let resume = self.transitions.iter().find(|m| m.kind == TransitionKind::Resume);
        run.map(|(_, run)| run).or_else(|| resume.map(|resume| resume.at))
    }

    /// Whether the guest was stopped and not resumed here.
    fn stopped(&self) -> bool {
        let last = |kind: &TransitionKind| self.transitions.iter().rposition(|m| m.kind == *kind);
        last(&TransitionKind::Stop) > last(&TransitionKind::Resume)
    }
}

/// This host's part, from what was seen: what only a source reports; else, where the memory goes; else, whether the
/// guest stopped before it ran. (A destination starts paused, which emits no STOP; its guest can be stopped once it
/// has arrived.) The command line (`-incoming`) decides only when nothing else does, because a guest that has arrived
/// can leave again.
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
