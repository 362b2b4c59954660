//! What else happened to the guest that is not part of the stop.

use super::sides::{Sides, resume_after};
use crate::record::Outcome;
use crate::timeline::migration::{Ending, LATE_RESUME_NS, MigrationFacts};
use crate::timeline::transition::TransitionKind;
use crate::timeline::wording::spoken;
use crate::units::MonotonicNs;

/// At most this many pauses are listed one by one.
const MOST_PAUSES: usize = 10;

impl Sides<'_> {
    /// In the order of their times.
    pub(super) fn remarks(&self, migration: &MigrationFacts<'_>) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(at) = migration.given_up {
            remarks.push(format!(
                "{} before this migration QEMU reported `setup` and then nothing more: that attempt is not part of this \
                 migration",
                spoken(migration.start.0.saturating_sub(at.0))
            ));
        }
        let pauses = self.source.map(|source| source.pauses()).unwrap_or_default();
        for pause in pauses.iter().take(MOST_PAUSES) {
            remarks.push(format!(
                "{} after the start the guest was paused for {} and then resumed here: a person or an error caused this \
                 pause, and it is not part of the stop",
                spoken(pause.stop.0.saturating_sub(migration.start.0)),
                spoken(pause.resume.0 - pause.stop.0)
            ));
        }
        if pauses.len() > MOST_PAUSES {
            remarks.push(format!("and {} more such pauses", pauses.len() - MOST_PAUSES));
        }
        remarks.extend(self.returned());
        remarks.extend(self.stopped_again());
        remarks
    }

    /// The guest of a completed migration runs at the source again.
    fn returned(&self) -> Option<String> {
        let source = self.source?;
        let Ending::Declared(end, Outcome::Completed) = source.end else { return None };
        let until = MonotonicNs(end.0.saturating_add(LATE_RESUME_NS));
        let until = source.next_start.map_or(until, |next| next.min(until));
        let resumed = resume_after(&source, end).map(|resume| resume.at);
        let ran = source.process.and_then(|process| process.runs.first_since(end)).map(|(_, run)| run);
        let at = resumed.into_iter().chain(ran.filter(|run| *run <= until)).min()?;
        Some(format!(
            "the guest runs at the source again, {} after the migration completed: a person resumed it, or the \
             destination failed after the handover",
            spoken(at.0 - end.0)
        ))
    }

    /// The guest was stopped again after it had arrived, while QEMU was still migrating.
    fn stopped_again(&self) -> Option<String> {
        let destination = self.destination?;
        let ran = resume_after(&destination, destination.start)?.at;
        let again =
            destination.transitions.iter().find(|m| m.kind == TransitionKind::Stop && m.at >= ran)?.at;
        Some(format!(
            "{} after it arrived the guest was stopped again: an error or a person caused that, and it is not part of the \
             stop",
            spoken(again.0 - ran.0)
        ))
    }
}
