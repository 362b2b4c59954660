//! The fold: events in, records out. It does no I/O and reads no clock, so the same log gives the same records.
//!
//! Events are kept, indexed by what they are about; what they mean is decided when somebody asks, because a later
//! fact can change it (the owner of a flow, whether a disk copy was followed by a migration).

mod assemble;
mod assign;
mod clocks;
mod downtime;
mod estimates;
mod facts;
pub(crate) mod gaps;
mod migration;
mod phases;
mod unmeasured;

use assign::migrations;
use facts::{Facts, MarkKind, Process};
use migration::{End, Migration};

use crate::event::Event;
use crate::record::{Outcome, Record, Role};
use crate::selection::Selection;
use crate::units::{Directions, MonotonicNs};

/// Folds the events of one log into records.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    selection: Selection,
    facts: Facts,
}

/// A migration as it is now, for a display.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Live {
    /// The VM's name.
    pub vm: Option<String>,
    /// QEMU's process id; none when its QEMU is not in this network namespace.
    pub pid: Option<u32>,
    /// This host's part.
    pub role: Role,
    /// What QEMU is doing.
    pub phase: String,
    /// The round of dirty-page copying.
    pub pass: Option<u64>,
    /// Time since the migration's start.
    pub elapsed_ns: u64,
    /// Wire bytes so far, as last counted; `tx` is from the source to the destination.
    pub wire_bytes: Directions<u64>,
}

/// The end of the awaited migration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ended {
    /// QEMU's process id; none when its QEMU is not in this network namespace.
    pub pid: Option<u32>,
    /// When QEMU said so, died, or closed its last flow.
    pub at: MonotonicNs,
    /// How.
    pub outcome: Outcome,
    /// True once all of its flows are closed: nothing more will be counted.
    pub flows_closed: bool,
    /// True once all was told: how it ended and, where the guest has arrived, that it runs, where it is, and that its
    /// tap carries its frames.
    pub all_told: bool,
    /// True while a guest that has arrived here does not run yet, though its QEMU lives: whoever manages it lets it run,
    /// and may do so seconds later.
    pub awaits_guest: bool,
}

impl Timeline {
    /// A timeline of the selected migrations.
    #[must_use]
    pub fn new(selection: Selection) -> Self {
        Self { selection, facts: Facts::default() }
    }

    /// Takes in the next event of the log.
    pub fn push(&mut self, event: &Event) {
        self.facts.push(event);
    }

    /// The migration that runs now, or else the latest one; `now` is this host's monotonic clock.
    #[must_use]
    pub fn live(&self, now: MonotonicNs) -> Option<Live> {
        let all = migrations(&self.facts);
        let selected = || all.iter().filter(|m| selects(&self.selection, m));
        let running = selected().rfind(|m| matches!(m.end, End::Open(_)));
        let migration = running.or_else(|| selected().next_back())?;
        let (phases, _) = phases::phases(migration);
        let phase = phases.last()?;
        let wire_bytes = phases::total(migration).unwrap_or_default().map(|c| c.wire_bytes);
        let until = if matches!(migration.end, End::Open(_)) { now } else { migration.end.at() };
        Some(Live {
            vm: migration.process.and_then(|p| p.qemu.as_ref()).and_then(|q| q.name.clone()),
            pid: migration.process.map(|p| p.pid),
            role: migration.role,
            phase: phase.name.clone(),
            pass: phase.pass,
            elapsed_ns: until.0.saturating_sub(migration.start.0),
            wire_bytes: match migration.role {
                Role::Source => wire_bytes,
                Role::Destination => wire_bytes.swapped(),
            },
        })
    }

    /// The first of the selected migrations that has ended; none while none has.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        let all = migrations(&self.facts);
        let ended = |m: &&Migration<'_>| matches!(m.end, End::Declared(..) | End::Died(_) | End::Closed(_));
        let migration = all.iter().filter(|m| selects(&self.selection, m)).find(ended)?;
        let outcome = migration.outcome(self.facts.end);
        let arrived = migration.role == Role::Destination && outcome == Outcome::Completed;
        let runs = migration.marks.iter().any(|m| m.kind == MarkKind::Resume);
        let told = runs && migration.process.is_none_or(|process| has_shown_itself(process, migration.start));
        let awaits_guest = migration.may_still_run() && self.facts.hears_qemu();
        let has_died = migration.process.is_some_and(|process| process.gone.is_some());
        Some(Ended {
            pid: migration.process.map(|p| p.pid),
            at: migration.end.at(),
            outcome,
            all_told: !matches!(migration.end, End::Closed(_)) && (told || !arrived || has_died),
            awaits_guest,
            flows_closed: migration.flows.iter().all(|f| f.closed()),
        })
    }

    /// The records of the selected migrations, in the order of their starts.
    #[must_use]
    pub fn finish(&self) -> Vec<Record> {
        let all = migrations(&self.facts);
        let selected = all.iter().filter(|m| selects(&self.selection, m));
        selected.map(|migration| assemble::record(&self.facts, &all, migration)).collect()
    }
}

/// Whether the network was told of a guest that has arrived, and has had a frame from it; true where no tap tells.
fn has_shown_itself(process: &Process, start: MonotonicNs) -> bool {
    let no_tap = process.qemu.as_ref().is_none_or(|qemu| qemu.taps.is_empty());
    let announced = process.announcements.iter().any(|announced| announced.at >= start);
    no_tap || (announced && process.first_frames.iter().any(|at| *at >= start))
}

/// Whether a migration is one of those that are wanted. Of a QEMU that was never described only the process is
/// known, and of a migration whose QEMU was never seen nothing.
fn selects(selection: &Selection, migration: &Migration<'_>) -> bool {
    let Some(process) = migration.process else { return *selection == Selection::default() };
    match &process.qemu {
        Some(qemu) => selection.matches(qemu),
        None => selection.vm.is_none() && selection.pid.is_none_or(|pid| pid == process.pid),
    }
}
