//! Phases: their order in time, their bytes, and the times that follow from them.

use serde_json::Value;

use super::traffic::sums;
use super::violations::Violations;
use crate::record::{Outcome, Record};

/// The names of the phases in which a migration ends, and the outcome of each.
const LAST_PHASES: [(&str, Outcome); 3] =
    [("completed", Outcome::Completed), ("failed", Outcome::Failed), ("cancelled", Outcome::Cancelled)];

/// The phase before the start: a destination waits for its source.
const LISTENING: &str = "listening";

/// The phases follow one another without holes from the start, but for the wait that may precede it.
pub(super) fn phases(record: &Record, json: &Value, found: &mut Violations) {
    let Some(first) = record.phases.first() else {
        return found.0.push("phases: there is none".to_owned());
    };
    let begins = if phase_names(json)[0] == LISTENING {
        first.start_ns <= 0 && first.end_ns == 0
    } else {
        first.start_ns == 0
    };
    found.unless(begins, || format!("phases: the first is from {} to {}", first.start_ns, first.end_ns));
    for (index, phase) in record.phases.iter().enumerate() {
        found.unless(!phase.name.as_str().is_empty(), || format!("phases: number {index} has no name"));
        found.unless(phase.start_ns <= phase.end_ns, || {
            format!("phases: number {index} is from {} to {}", phase.start_ns, phase.end_ns)
        });
    }
    for (index, pair) in record.phases.windows(2).enumerate() {
        found.unless(pair[0].end_ns == pair[1].start_ns, || {
            let (end, start) = (pair[0].end_ns, pair[1].start_ns);
            format!("phases: number {index} ends at {end}, and the next begins at {start}")
        });
    }
}

/// As a reader of the record sees them.
fn phase_names(json: &Value) -> Vec<&str> {
    let phases = json["phases"].as_array().map_or(&[][..], Vec::as_slice);
    phases.iter().map(|phase| phase["name"].as_str().unwrap_or_default()).collect()
}

/// The bytes of the phases are no more than the total, and are the total when all are known.
pub(super) fn phase_bytes(record: &Record, found: &mut Violations) {
    let known: Vec<_> = record.phases.iter().filter_map(|phase| phase.traffic).collect();
    let Some(total) = record.traffic.total else {
        return found.unless(known.is_empty(), || "phase bytes: known, and the total is not".to_owned());
    };
    let known_sums = sums(known.iter());
    for ((name, sum), (_, total)) in known_sums.into_iter().zip(sums([&total])) {
        found.unless(sum <= total, || format!("phase bytes: {name}: {sum} are more than the total {total}"));
        let all_known = !known.is_empty() && known.len() == record.phases.len();
        found.unless(!all_known || sum == total, || {
            format!("phase bytes: {name}: {sum} are not the total {total}, and every phase is known")
        });
    }
}

/// The total, the setup, the phases and the outcome are about the same migration.
pub(super) fn times(record: &Record, json: &Value, found: &mut Violations) {
    let outcome = record.migration.outcome;
    let names = phase_names(json);
    let total = record.total_time.as_ref().map(|total| i128::from(total.value_ns));
    found.unless(outcome != Outcome::Interrupted || total.is_none(), || {
        "times: a total, and the recording ended before the migration".to_owned()
    });
    let end = record.phases.last().map_or(0, |phase| i128::from(phase.end_ns));
    found.unless(total.is_none_or(|total| total <= end), || {
        format!("times: the total is {total:?}, and the phases end at {end}")
    });
    for (index, name) in names.iter().enumerate() {
        let Some((_, means)) = LAST_PHASES.iter().find(|(last, _)| last == name) else { continue };
        found.unless(index + 1 == names.len(), || format!("times: a phase follows {name}"));
        found.unless(outcome == *means, || format!("times: {name}, and the outcome is {outcome:?}"));
        let start = i128::from(record.phases[index].start_ns);
        found.unless(total.is_none_or(|total| total == start), || {
            format!("times: {name} at {start}, and the total is {total:?}")
        });
    }
    let first = |name| names.iter().position(|other| *other == name);
    if let (Some(setup), Some(from), Some(to)) = (&record.setup_time, first("setup"), first("active")) {
        let between = i128::from(record.phases[to].start_ns) - i128::from(record.phases[from].start_ns);
        found.unless(i128::from(setup.value_ns) == between, || {
            format!("times: the setup took {}, and by its phases {between}", setup.value_ns)
        });
    }
}
