//! What the recording itself lacks.

use std::fmt::Write as _;

use super::list::{List, MOST_ENTRIES, MOST_NAMES};
use crate::event::{InstrumentStatus, TcProgram, TcRemoved};
use crate::timeline::facts::Facts;
use crate::timeline::migration::MigrationFacts;
use crate::timeline::probe_target::Probing;
use crate::timeline::removals;
use crate::vocabulary::{Lost, NotMeasured};

pub(super) fn instruments(facts: &Facts, list: &mut List) {
    let Some(observation) = &facts.observation else { return };
    for instrument in &observation.instruments {
        let lost = match (instrument.status, &instrument.lost) {
            (InstrumentStatus::Ok, _) | (InstrumentStatus::Fallback, None) => continue,
            (InstrumentStatus::Missing | InstrumentStatus::Fallback, Some(lost)) => lost.clone(),
            (InstrumentStatus::Missing, None) => {
                format!("the instrument `{}` is not attached", instrument.name)
            }
        };
        let why = instrument.why.as_ref().map_or_else(String::new, |why| format!("; {why}"));
        list.push(&instrument.observes, format!("{lost}{why}"));
    }
}

/// What was found while recording.
pub(super) fn while_recording(facts: &Facts, list: &mut List) {
    for entry in facts.not_measured.iter().take(MOST_ENTRIES) {
        list.push(&entry.what, entry.why.clone());
    }
    if let Some(more) = facts.not_measured.len().checked_sub(MOST_ENTRIES).filter(|more| *more > 0) {
        list.push(
            &format!("{more} more things that the recording could not measure"),
            "too many for a record: the event log lists all of them (`not_measured`)",
        );
    }
}

/// The interfaces that vanished while the migration was under way.
pub(super) fn gone_interfaces(facts: &Facts, migration: &MigrationFacts<'_>, list: &mut List) {
    let gone = facts.gone_interfaces.between(migration.start, migration.end.at());
    let count = gone.len();
    let named: Vec<&str> = gone.take(MOST_NAMES).map(|(_, interface)| interface.as_str()).collect();
    let named = named.join(", ");
    let (what, which) = match count {
        0 => return,
        1 => (named, "the interface"),
        2..=MOST_NAMES => (named, "the interfaces"),
        all => (format!("{named} and {} others", all - MOST_NAMES), "the interfaces"),
    };
    list.push(
        &format!("packets on {what}"),
        format!("{which} vanished during the recording: only what crossed before that is counted"),
    );
}

/// The TC programs that somebody removed while the migration was under way, if the migration needed them.
pub(super) fn removed_programs(
    facts: &Facts,
    migration: &MigrationFacts<'_>,
    probing: Probing<'_>,
    list: &mut List,
) {
    let taps = migration.qemu().map_or(&[][..], |qemu| &qemu.taps);
    let concerns = |removed: &&TcRemoved| match removed.program {
        TcProgram::Count => true,
        TcProgram::Guest => taps.contains(&removed.interface),
        TcProgram::Echo => matches!(probing, Probing::Probed(_)),
    };
    let removals = facts.removals.between(migration.start, migration.end.at());
    for removed in removals.filter(concerns).take(MOST_ENTRIES) {
        let NotMeasured { what, why } = removals::described(removed, migration.start, "the migration");
        list.push(&what, why);
    }
}

pub(super) fn not_understood(facts: &Facts, list: &mut List) {
    for (kind, count) in facts.not_understood.iter().take(MOST_NAMES) {
        let events = if *count == 1 { "1 event".to_owned() } else { format!("{count} events") };
        list.push(
            &format!("what {events} of the kind `{kind}` reported"),
            "this version of migtrace does not know that kind: read the log with the version that wrote it",
        );
    }
    if let Some(more) = facts.not_understood.len().checked_sub(MOST_NAMES).filter(|more| *more > 0) {
        list.push(
            &format!("what events of {more} other kinds reported"),
            "this version of migtrace does not know them: read the log with the version that wrote it",
        );
    }
}

/// Whether the recording ended properly, and knew the time.
pub(super) fn end(facts: &Facts, list: &mut List) {
    if facts.end.is_none() {
        list.push(
            "the end of the recording",
            "the recording was cut off: everything after the last line of the event log is missing, and the bytes \
             are those of the last count",
        );
    }
    if facts.clocks.at(facts.latest).is_none() {
        list.push("wall time", "the event log holds no clock sample");
    }
}

/// Facts were lost.
pub(super) fn losses(lost: Lost, list: &mut List) {
    let mut counts = format!(
        "ring buffer full: {}, flow table full: {}, hook calls skipped: {}",
        lost.ring_buffer, lost.flows, lost.hook_calls
    );
    for (what, count) in [("lines of QMP not read", lost.qmp_lines), ("vCPU table full", lost.vcpus)] {
        if count > 0 {
            let _ = write!(counts, ", {what}: {count}");
        }
    }
    list.push("everything", format!("facts were lost ({counts}): every figure is a lower bound"));
}
