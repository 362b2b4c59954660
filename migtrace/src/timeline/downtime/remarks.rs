//! What else befell the guest, and is no part of the stop.

use super::{Sides, resume_after, spoken};
use crate::record::Outcome;
use crate::timeline::assign::LATE_RESUME_NS;
use crate::timeline::facts::MarkKind;
use crate::timeline::migration::{End, Migration};
use crate::units::MonotonicNs;

/// As many pauses are told one by one.
const MOST_PAUSES: usize = 10;

impl Sides<'_> {
    /// In the order of their times.
    pub(super) fn remarks(&self, migration: &Migration<'_>) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(at) = migration.given_up {
            remarks.push(format!(
                "QEMU had said `setup` {} before this migration, and nothing after it: that attempt is no part of it",
                spoken(migration.start.0.saturating_sub(at.0))
            ));
        }
        let pauses = self.source.map(Migration::pauses).unwrap_or_default();
        for pause in pauses.iter().take(MOST_PAUSES) {
            remarks.push(format!(
                "{} after the start the guest was paused for {} and went on here: a person or an error did that, and it is \
                 no part of the stop",
                spoken(pause.stop.0.saturating_sub(self.start.0)),
                spoken(pause.resume.0 - pause.stop.0)
            ));
        }
        if pauses.len() > MOST_PAUSES {
            remarks.push(format!("and {} such pauses more", pauses.len() - MOST_PAUSES));
        }
        remarks.extend(self.returned());
        remarks.extend(self.stopped_again());
        remarks
    }

    /// The guest of a migration that has completed runs at the source again.
    fn returned(&self) -> Option<String> {
        let source = self.source?;
        let End::Declared(end, Outcome::Completed) = source.end else { return None };
        let until = MonotonicNs(end.0.saturating_add(LATE_RESUME_NS));
        let until = source.next_start.map_or(until, |next| next.min(until));
        let resumed = resume_after(source, end).map(|resume| resume.at);
        let ran = source.process.and_then(|process| process.runs.first_since(end)).map(|(_, run)| run);
        let at = resumed.into_iter().chain(ran.filter(|run| *run <= until)).min()?;
        Some(format!(
            "the guest runs at the source again, {} after the migration had completed: a person let it, or the \
             destination failed after the handover",
            spoken(at.0 - end.0)
        ))
    }

    /// The guest that has arrived was stopped once more while QEMU was still at it.
    fn stopped_again(&self) -> Option<String> {
        let destination = self.destination?;
        let ran = resume_after(destination, destination.start)?.at;
        let again = destination.marks.iter().find(|m| m.kind == MarkKind::Stop && m.at >= ran)?.at;
        Some(format!(
            "{} after it had arrived the guest was stopped again: an error or a person did that, and it is no part of the \
             stop",
            spoken(again.0 - ran.0)
        ))
    }
}
