//! Which transitions of a QEMU belong to which migration.

use crate::record::PhaseName;
use crate::timeline::facts::{FlowFacts, Process};
use crate::timeline::migration::{Ending, LATE_RESUME_NS, replied_outcome, terminal};
use crate::timeline::transition::{Transition, TransitionKind};
use crate::units::MonotonicNs;

/// The transitions of a process from the beginning of a migration to its end.
#[derive(Debug, Default)]
pub(super) struct Segment<'a> {
    pub(super) transitions: Vec<&'a Transition>,
    pub(super) end: Option<Ending>,
    pub(super) flows: Vec<&'a FlowFacts>,
    /// Nothing but `setup`, and that the guest runs, was reported.
    pub(super) only_setup: bool,
    /// Something was reported that only a source reports.
    of_source: bool,
    /// Whether the guest was last stopped or running; none: neither was reported.
    halted: Option<bool>,
    /// The guest was stopped again after the end, so whoever did that resumes it.
    stopped_since: bool,
}

impl<'a> Segment<'a> {
    fn beginning(transition: &'a Transition) -> Self {
        let mut segment = Self { only_setup: true, ..Self::default() };
        segment.push(transition);
        segment
    }

    fn push(&mut self, transition: &'a Transition) {
        self.only_setup &=
            transition.is_status(&PhaseName::Setup) || transition.kind == TransitionKind::Resume;
        self.of_source |= transition.is_of_source() || transition.kind == TransitionKind::Stop;
        match transition.kind {
            TransitionKind::Stop => self.halted = Some(true),
            TransitionKind::Resume => self.halted = Some(false),
            _ => {}
        }
        self.transitions.push(transition);
    }

    /// Whether `transition` resumes the guest after the end of this migration and because of it: at the destination of a
    /// libvirt migration, or here when the migration failed.
    fn takes_late(&self, transition: &Transition) -> bool {
        let in_time =
            self.end.is_some_and(|end| transition.at.0 <= end.at().0.saturating_add(LATE_RESUME_NS));
        let waits = self.halted.unwrap_or(!self.of_source);
        transition.kind == TransitionKind::Resume && in_time && waits && !self.stopped_since
    }

    /// Takes in stops and resumes from before QEMU's first report of the migration, if the migration was already under way.
    pub(super) fn take_in(&mut self, loose: &[&'a Transition]) {
        let Some(from) = self.flows.first().map(|flow| flow.first()).filter(|_| !self.begins()) else {
            return;
        };
        let until = self.first();
        let first = loose.partition_point(|m| m.at < from);
        let earlier = &loose[first..loose.partition_point(|m| m.at < until).max(first)];
        let later = std::mem::take(&mut self.transitions);
        earlier.iter().copied().chain(later).for_each(|transition| self.push(transition));
    }

    pub(super) fn first(&self) -> MonotonicNs {
        self.transitions.first().map_or_else(MonotonicNs::default, |m| m.at)
    }

    /// When QEMU first reported something of it. Stops and resumes do not count, since they happen at other times too.
    pub(super) fn first_report(&self) -> MonotonicNs {
        self.transitions
            .iter()
            .find(|transition| !transition.is_of_guest())
            .map_or_else(|| self.first(), |transition| transition.at)
    }

    /// How it ended with its process: as QEMU's last reply said, if that named an outcome, or in the middle. Neither is before
    /// the last thing that QEMU reported.
    fn end_with(&self, process: &Process, gone: MonotonicNs) -> Ending {
        let reported = self.transitions.last().map_or(MonotonicNs(0), |transition| transition.at);
        let reply = process.replies.since(self.first()).next_back();
        let replied = reply.and_then(|(at, reply)| Some((at, replied_outcome(reply)?)));
        match replied {
            Some((at, outcome)) => Ending::Replied(at.max(reported), outcome),
            None => Ending::Died(gone.max(reported)),
        }
    }

    /// Whether it is a postcopy that has lost its connections and waits for others.
    fn is_interrupted(&self) -> bool {
        let last = self.transitions.iter().rev().find_map(|transition| transition.status());
        last == Some(&PhaseName::PostcopyPaused)
    }

    /// Whether its beginning was seen.
    pub(super) fn begins(&self) -> bool {
        self.transitions.first().is_some_and(|m| m.is_status(&PhaseName::Setup))
    }
}

/// Cuts the transitions of a process into migrations. Those that belong to none (a person paused the guest) come second.
pub(super) fn segments(process: &Process) -> (Vec<Segment<'_>>, Vec<&Transition>) {
    let mut segments: Vec<Segment<'_>> = Vec::new();
    let mut loose = Vec::new();
    for transition in process.transitions.iter() {
        let mut current = segments.last_mut();
        let running = current.as_ref().is_some_and(|s| s.end.is_none());
        match &transition.kind {
            TransitionKind::Stop | TransitionKind::Resume => match current {
                Some(segment) if running || segment.takes_late(transition) => segment.push(transition),
                current => {
                    if let Some(segment) = current {
                        segment.stopped_since |= transition.kind == TransitionKind::Stop;
                    }
                    loose.push(transition);
                }
            },
            TransitionKind::Status(PhaseName::Other(status)) if status == "none" => {}
            // A destination that is to go on with its postcopy listens again, which QEMU 7.2 reports like a beginning.
            TransitionKind::Status(PhaseName::Setup)
                if running && current.as_ref().is_some_and(|s| s.is_interrupted()) => {}
            TransitionKind::Status(PhaseName::Setup) => {
                if let Some(segment) = current.take().filter(|_| running) {
                    segment.end = Some(Ending::Superseded(transition.at));
                }
                segments.push(Segment::beginning(transition));
            }
            TransitionKind::DirtyLog => {}
            TransitionKind::Status(_) | TransitionKind::Pass(_) => {
                let outcome = transition.status().and_then(terminal);
                match current {
                    // A second end repeats the first: it is not another migration.
                    Some(segment) if running || outcome.is_some() => segment.push(transition),
                    _ => segments.push(Segment::beginning(transition)),
                }
                if let (Some(outcome), Some(segment)) = (outcome, segments.last_mut()) {
                    segment.end.get_or_insert(Ending::Declared(transition.at, outcome));
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
