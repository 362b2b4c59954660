//! The fold: events go in, records come out. It does no I/O and reads no clock, so the same log gives the same
//! records.
//!
//! Events are kept, indexed by what they are about. What they mean is decided when somebody asks, because a later
//! fact can change it: the owner of a flow, or whether a migration followed a disk copy.

mod alignment;
mod assemble;
mod assign;
mod clocks;
mod curve;
mod direction;
mod downtime;
mod echo_gaps;
mod estimates;
mod facts;
pub(crate) mod gaps;
mod half;
mod joined;
mod look;
mod losses;
mod merge;
mod migration;
mod moment;
mod not_measured;
mod observers;
mod pairs;
mod phases;
mod probe_target;
mod prober;
mod purposes;
pub(crate) mod removals;
mod runs;
mod stamped;
mod traffic;
mod transition;
mod untied;
mod wording;

use std::sync::OnceLock;

pub(crate) use alignment::relation::WALL_CLOCKS_APART_NS;
use assign::migrations;
use facts::Facts;
use look::Look;
pub use look::{Ended, Live};
#[cfg(feature = "trace")]
pub(crate) use losses::less;
pub use merge::{Merged, NotTogether, merged, merged_as_found};
use migration::MigrationFacts;

use crate::event::Event;
use crate::record::Record;
use crate::selection::Selection;
use crate::units::MonotonicNs;

/// Folds the events of one log into records.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    selection: Selection,
    facts: Facts,
    /// What the facts say about now. It is kept while it holds: most events only change counts.
    look: OnceLock<Look>,
}

impl Timeline {
    /// A timeline of the selected migrations.
    #[must_use]
    pub fn new(selection: Selection) -> Self {
        Self { selection, ..Self::default() }
    }

    /// Changes which migrations are selected.
    pub(crate) fn select(&mut self, selection: Selection) {
        self.selection = selection;
        self.look.take();
    }

    /// Takes in the next event of the log.
    pub fn push(&mut self, event: &Event) {
        let may_change = self.facts.push(event);
        if may_change || self.look.get().is_some_and(|look| !look.holds(&self.facts)) {
            self.look.take();
        }
    }

    /// The migration that is running, or else the latest one. `now` is this host's monotonic clock.
    #[must_use]
    pub fn live(&self, now: MonotonicNs) -> Option<Live> {
        self.look().live(&self.facts, now)
    }

    /// The first of the selected migrations that has ended.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.look().ended.first().cloned()
    }

    /// All of the selected migrations that have ended, in the order of their starts.
    pub(crate) fn endings(&self) -> &[Ended] {
        &self.look().ended
    }

    /// The processes of the selected migrations that are under way; `None` for one whose QEMU is not here.
    pub(crate) fn busy(&self) -> &[Option<u32>] {
        &self.look().busy
    }

    /// Whether a selected migration is under way.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.look().under_way
    }

    /// The records of the selected migrations, in the order of their starts.
    #[must_use]
    pub fn finish(&self) -> Vec<Record> {
        merge::of_one_host(&self.facts, &self.selection)
    }

    /// As [`Self::finish`], but a migration of which both ends are on this host has one record: that of the source, which has
    /// all that both have seen. This is what a watch writes for each log.
    #[must_use]
    pub fn finish_once(&self) -> Vec<Record> {
        merge::of_one_host_once(&self.facts, &self.selection)
    }

    fn look(&self) -> &Look {
        self.look.get_or_init(|| {
            let all = migrations(&self.facts);
            let selected: Vec<_> = all.iter().filter(|m| selects(&self.selection, m)).collect();
            Look::at(&self.facts, &selected)
        })
    }
}

/// Whether a migration is selected. For a QEMU that was never described only the process is known; for a migration
/// whose QEMU was never seen, nothing is.
fn selects(selection: &Selection, migration: &MigrationFacts<'_>) -> bool {
    let Some(process) = migration.process else { return *selection == Selection::default() };
    match &process.qemu {
        Some(qemu) => selection.matches(qemu),
        None => selection.vm.is_none() && selection.pid.is_none_or(|pid| pid == process.pid),
    }
}
