//! Where one phase ends and the next begins.

use super::counts::BytesUnknown;
use crate::record::{PhaseName, Role};
use crate::timeline::facts::FlowFacts;
use crate::timeline::migration::{
    Ending, MigrationFacts, Opening, Pause, begins_pause, last_phase, terminal,
};
use crate::timeline::transition::{Transition, TransitionKind};
use crate::units::{Counters, Directions, MonotonicNs};
use crate::vocabulary::Purpose;

/// The point where one phase ends and the next begins.
pub(super) struct Border {
    pub(super) at: MonotonicNs,
    pub(super) name: PhaseName,
    pub(super) pass: Option<u64>,
    /// What the kernel program read at that instant.
    pub(super) counters: Result<Directions<Counters>, BytesUnknown>,
}

impl Border {
    /// One that no event reports.
    const fn inferred(at: MonotonicNs, name: PhaseName) -> Self {
        Self { at, name, pass: None, counters: Err(BytesUnknown::NoEvent) }
    }
}

/// Where the phases begin, in order.
pub(super) fn borders(migration: &MigrationFacts<'_>) -> Vec<Border> {
    let mut course = Course {
        migration,
        pauses: migration.pauses(),
        borders: openings(migration),
        latest_pass: None,
        before_stop: None,
    };
    for transition in &migration.transitions {
        course.push(transition);
        if course.has_ended() {
            break;
        }
    }
    let last = match migration.end {
        Ending::Died(at) if migration.opening != Opening::Transfer => Some((at, PhaseName::Failed)),
        Ending::Replied(at, outcome) => last_phase(outcome).map(|name| (at, name)),
        _ => None,
    };
    let mut borders = course.borders;
    borders.extend(last.map(|(at, name)| Border::inferred(at, name)));
    borders
}

/// The phases of a migration up to some transition.
struct Course<'m> {
    migration: &'m MigrationFacts<'m>,
    pauses: Vec<Pause>,
    borders: Vec<Border>,
    latest_pass: Option<u64>,
    /// The phase that a stop or a pause interrupted.
    before_stop: Option<PhaseName>,
}

impl Course<'_> {
    fn phase(&self) -> Option<&PhaseName> {
        self.borders.last().map(|border| &border.name)
    }

    fn begin(&mut self, transition: &Transition, name: PhaseName, pass: Option<u64>) {
        let counters = transition.counters.ok_or(BytesUnknown::NoSnapshot);
        self.borders.push(Border { at: transition.at, name, pass, counters });
    }

    /// Whether the last phase is a final one that an event reported.
    fn has_ended(&self) -> bool {
        self.phase().is_some_and(|name| terminal(name).is_some())
    }

    fn push(&mut self, transition: &Transition) {
        match &transition.kind {
            TransitionKind::Status(status) => self.status(transition, status),
            TransitionKind::Pass(pass) => self.pass(transition, *pass),
            TransitionKind::DirtyLog => self.dirty_log(transition),
            TransitionKind::Stop => self.stop(transition),
            TransitionKind::Resume => self.resume(transition),
        }
    }

    fn status(&mut self, transition: &Transition, status: &PhaseName) {
        // The wait for the source, and its end, are there already.
        let is_opening = *status == PhaseName::Setup && self.migration.opening == Opening::Listening;
        if !is_opening && self.phase() != Some(status) {
            let pass = self.latest_pass.filter(|_| *status == PhaseName::Active);
            self.begin(transition, status.clone(), pass);
        }
    }

    fn pass(&mut self, transition: &Transition, pass: u64) {
        self.latest_pass = Some(pass);
        let begins = match self.borders.last_mut() {
            None => true,
            // The first pass begins with `active`, whichever of the two is reported first.
            Some(active) if active.name == PhaseName::Active && active.pass.is_none() && pass == 1 => {
                active.pass = Some(pass);
                false
            }
            Some(active) if active.name == PhaseName::Active => active.pass != Some(pass),
            // The first pass may be part of `setup`, and the last is part of `stop` or `device`.
            Some(other) => other.name == PhaseName::Unseen,
        };
        if begins {
            self.begin(transition, PhaseName::Active, Some(pass));
        }
    }

    fn dirty_log(&mut self, transition: &Transition) {
        if self.phase() == Some(&PhaseName::Transfer) {
            self.latest_pass = Some(self.latest_pass.map_or(1, |pass| pass.saturating_add(1)));
            self.begin(transition, PhaseName::Transfer, self.latest_pass);
        }
    }

    /// At a destination the guest stops only after it has arrived. In post-copy the source never runs again, and in COLO the
    /// guest stops at every checkpoint: there QEMU's states say more than the stop.
    fn stop(&mut self, transition: &Transition) {
        let interrupted = self.phase().cloned().filter(|name| {
            matches!(name, PhaseName::Active | PhaseName::Transfer | PhaseName::Unseen)
                && self.migration.role == Role::Source
        });
        if interrupted.is_some() {
            self.before_stop = interrupted;
            let is_pause = begins_pause(&self.pauses, transition.at);
            self.begin(transition, if is_pause { PhaseName::Paused } else { PhaseName::Stop }, None);
        }
    }

    fn resume(&mut self, transition: &Transition) {
        if matches!(self.phase(), Some(PhaseName::Stop | PhaseName::Paused))
            && let Some(name) = self.before_stop.take()
        {
            let pass = self.latest_pass.filter(|_| name == PhaseName::Active);
            self.begin(transition, name, pass);
        }
    }
}

/// Where the phases begin that no event reports.
fn openings(migration: &MigrationFacts<'_>) -> Vec<Border> {
    let is_copy = |f: &FlowFacts| f.purpose == Purpose::Nbd;
    let border = |at, name| vec![Border::inferred(at, name)];
    let start = migration.start;
    match migration.opening {
        Opening::Transition => Vec::new(),
        Opening::DiskSync | Opening::GivenUpCopy => border(start, PhaseName::DiskSync),
        Opening::Transfer if migration.flows.iter().all(|f| is_copy(f)) => border(start, PhaseName::DiskSync),
        Opening::Transfer => border(start, PhaseName::Transfer),
        Opening::Unseen => border(start, PhaseName::Unseen),
        Opening::Listening => {
            let since = migration.transitions.first().map_or(start, |transition| transition.at);
            let mut borders = border(since.min(start), PhaseName::Listening);
            let name = if migration.flows.first().is_some_and(|f| is_copy(f)) {
                PhaseName::DiskSync
            } else {
                PhaseName::Setup
            };
            borders.extend(border(start, name));
            borders
        }
    }
}
