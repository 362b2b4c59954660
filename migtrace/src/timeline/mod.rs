//! The fold: events in, records out. It does no I/O and reads no clock, so the same log gives the same records.
//!
//! Events are kept, indexed by what they are about; what they mean is decided when somebody asks, because a later
//! fact can change it (the owner of a flow, whether a disk copy was followed by a migration).

mod assemble;
mod assign;
mod clocks;
mod curve;
mod downtime;
mod estimates;
mod facts;
pub(crate) mod gaps;
mod look;
mod losses;
mod migration;
mod pairs;
mod phases;
mod probed;
mod purposes;
pub(crate) mod removals;
mod runs;
mod silences;
mod stamped;
mod unmeasured;
mod untied;

use std::sync::OnceLock;

use assign::migrations;
use facts::Facts;
use look::Look;
use migration::Migration;
use pairs::pairs;
use probed::Probed;

use crate::event::Event;
use crate::record::{Outcome, PhaseName, Record, Role};
use crate::selection::Selection;
use crate::units::{Directions, MonotonicNs};

/// Folds the events of one log into records.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    selection: Selection,
    facts: Facts,
    /// What the facts say of now, as long as they say the same: most events only count on.
    look: OnceLock<Look>,
}

/// A migration as it is now, for a display.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Live {
    /// The migration's id, as in its record; none as long as it is not known.
    pub id: Option<String>,
    /// The VM's name.
    pub vm: Option<String>,
    /// QEMU's process id; none when its QEMU is not in this network namespace.
    pub pid: Option<u32>,
    /// This host's part.
    pub role: Role,
    /// What QEMU is doing.
    pub phase: PhaseName,
    /// The round of dirty-page copying.
    pub pass: Option<u64>,
    /// Time since the migration's start.
    pub elapsed_ns: u64,
    /// Wire bytes so far, as last counted; `tx` is from the source to the destination. None as long as no flow was counted.
    pub wire_bytes: Option<Directions<u64>>,
}

/// The end of the awaited migration.
#[non_exhaustive]
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
        Self { selection, ..Self::default() }
    }

    /// From now on, the timeline is of these migrations.
    pub(crate) fn select(&mut self, selection: Selection) {
        self.selection = selection;
        self.look.take();
    }

    /// Takes in the next event of the log.
    pub fn push(&mut self, event: &Event) {
        let turns = self.facts.push(event);
        if turns || self.look.get().is_some_and(|look| !look.holds(&self.facts)) {
            self.look.take();
        }
    }

    /// The migration that runs now, or else the latest one; `now` is this host's monotonic clock.
    #[must_use]
    pub fn live(&self, now: MonotonicNs) -> Option<Live> {
        self.look().live(&self.facts, now)
    }

    /// The first of the selected migrations that has ended; none while none has.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.look().ended.clone()
    }

    /// The records of the selected migrations, in the order of their starts.
    #[must_use]
    pub fn finish(&self) -> Vec<Record> {
        let all = migrations(&self.facts);
        let others = pairs(&all);
        let probed = Probed::of(&self.facts, &all);
        let with_other = all.iter().zip(others).filter(|(migration, _)| selects(&self.selection, migration));
        with_other
            .map(|(migration, other)| {
                assemble::record(&self.facts, &probed, migration, other.map(|other| &all[other]))
            })
            .collect()
    }

    fn look(&self) -> &Look {
        self.look.get_or_init(|| {
            let all = migrations(&self.facts);
            let selected: Vec<_> = all.iter().filter(|m| selects(&self.selection, m)).collect();
            Look::at(&self.facts, &selected)
        })
    }
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
