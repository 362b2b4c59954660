//! A migration that both hosts record, and the record of both logs.

use super::{GUEST_PATIENCE, clock_offset_ns, keep, number};
use migtrace_lab::migtrace_command::{self, Recorded, Recording};
use migtrace_lab::record_checks::clock_bounds;
use migtrace_lab::{Host, Lab, Migrated, Migration, Outcome, QmpEvent, Side};
use serde_json::Value;
use std::path::Path;

/// QEMU's stamps are in whole microseconds, on a clock that is known to less than one.
const STAMP_NS: u64 = 2_000;

/// A migration as its driver saw it, and the record of both hosts' logs.
pub(crate) struct Merged {
    pub(crate) migrated: Migrated,
    pub(crate) source: Recorded,
    pub(crate) destination: Recorded,
    pub(crate) record: Value,
}

/// The recordings of both hosts, while they run.
pub(crate) struct BothRecordings {
    pub(crate) source: Recording,
    pub(crate) destination: Recording,
}

impl BothRecordings {
    pub(crate) fn start(from: &Host, to: &Host, options: &[&str]) -> Self {
        let [source, destination] = [from, to].map(|host| Recording::start(host, options).unwrap());
        Self { source, destination }
    }

    /// Waits until both have ended by themselves, and merges their logs.
    pub(crate) fn finish(self, migrated: Migrated) -> Merged {
        self.finish_of(None, migrated)
    }

    /// The same for the migration of one VM among others.
    pub(crate) fn finish_of(self, vm: Option<&str>, migrated: Migrated) -> Merged {
        let [source, destination] =
            [self.source, self.destination].map(|recording| recording.finish(GUEST_PATIENCE).unwrap());
        let logs = [source.events_path(), destination.events_path()];
        let text = merge_of(vm, &[&logs[0], &logs[1]]).unwrap();
        assert_eq!(merge_of(vm, &[&logs[1], &logs[0]]).unwrap(), text, "the order does not matter");
        let record = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        Merged { migrated, source, destination, record }
    }
}

/// The record of several logs, or why there is none.
pub(crate) fn merge(logs: &[&Path]) -> Result<String, String> {
    merge_of(None, logs)
}

fn merge_of(vm: Option<&str>, logs: &[&Path]) -> Result<String, String> {
    let merged = migtrace_command::merge_of(vm, logs).unwrap();
    if merged.code == Some(0) { Ok(merged.stdout) } else { Err(merged.stderr) }
}

/// Migrates the guest to the other host while both record, and merges their logs.
pub(crate) fn migrate(lab: &mut Lab, migration: &Migration) -> Merged {
    let recordings = BothRecordings::start(lab.guest_host(), lab.other_host(), &[]);
    let migrated = lab.migrate(migration).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed);
    recordings.finish(migrated)
}

impl Merged {
    /// Checks the lower bound of the stop, and its value, against the driver's stamps of STOP and RESUME.
    pub(crate) fn assert_stop(&self) {
        self.assert_stop_until(Side::Destination);
    }

    /// The same where the guest runs again on this side.
    pub(crate) fn assert_stop_until(&self, side: Side) {
        assert_stop(&self.record, &self.migrated, side);
    }

    /// Keeps the logs under this name, if somebody wants them ([`keep`]).
    pub(crate) fn keep(&self, name: &str) {
        keep::pair(name, [&self.source, &self.destination].map(|recorded| recorded.events().unwrap()));
    }

    /// Half of the distance between the two bounds of the other host's clock.
    pub(crate) fn half_width_ns(&self) -> i64 {
        half_width_ns(&self.record)
    }
}

fn half_width_ns(record: &Value) -> i64 {
    let (low, high) = clock_bounds(record);
    (high - low) / 2
}

/// As [`Merged::assert_stop_until`], of a record in which both sides are seen: of both hosts, or of the only one.
pub(crate) fn assert_stop(record: &Value, migrated: &Migrated, side: Side) {
    let [stop, resume] =
        [(Side::Source, "STOP"), (side, "RESUME")].map(|(side, name)| migrated.event(side, name).unwrap());
    let length = &record["downtime"]["stop"];
    assert_eq!(length["method"], "qmp-events", "{length}");
    // QEMU stamps just before it writes, and the driver just after.
    let offset_ns = clock_offset_ns(record);
    let built_ns = |event: &QmpEvent| event.built_ns(offset_ns).cast_unsigned();
    let shortest_ns = built_ns(resume).saturating_sub(stop.received_ns);
    let longest_ns = resume.received_ns - built_ns(stop);
    let (low_ns, value_ns) = (number(&length["low_ns"]), number(&length["value_ns"]));
    let is_one_clock = side == Side::Source || record["observers"].as_array().unwrap().len() == 1;
    let clock_ns = if is_one_clock { 0 } else { half_width_ns(record).cast_unsigned() };
    let possible = shortest_ns.saturating_sub(clock_ns)..=longest_ns + clock_ns;
    assert!(low_ns <= longest_ns, "{length}: at most {longest_ns}");
    assert!(possible.contains(&value_ns), "{length}: {possible:?}");
    // What is not certain is when QEMU resumed the guest, between its own stamp and the kernel's, and the clock.
    let uncertain_ns = resume.received_ns - built_ns(resume) + 2 * clock_ns + STAMP_NS;
    assert!(value_ns - low_ns <= uncertain_ns, "{length}: at most {uncertain_ns} between");
}
