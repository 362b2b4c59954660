//! The event logs of both hosts make one record. Both hosts of the lab have the same clock, so the true difference of
//! their clocks is 0; and the driver knows when the guest stopped and ran again.

use std::path::Path;

use crate::support::{GUEST_PATIENCE, clock_offset_ns, number};
use migtrace_lab::migtrace_command::{self, Recorded, Recording};
use migtrace_lab::record_checks::{clock_bounds, not_measured};
use migtrace_lab::{Lab, Migrated, Migration, Outcome, QmpEvent, Side, shared_lab};
use serde_json::Value;

/// A migration as its driver saw it, and the record of both hosts' logs.
struct Merged {
    migrated: Migrated,
    source: Recorded,
    destination: Recorded,
    record: Value,
}

/// The record of several logs, or why there is none.
fn merge(logs: &[&Path]) -> Result<String, String> {
    let merged = migtrace_command::merge(logs).unwrap();
    if merged.code == Some(0) { Ok(merged.stdout) } else { Err(merged.stderr) }
}

/// Migrates the guest to the other host while both record, and merges their logs.
fn migrate(lab: &mut Lab, migration: &Migration) -> Merged {
    let source = Recording::start(lab.guest_host(), &[]).unwrap();
    let destination = Recording::start(lab.other_host(), &[]).unwrap();
    let migrated = lab.migrate(migration).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed);
    let [source, destination] =
        [source, destination].map(|recording| recording.finish(GUEST_PATIENCE).unwrap());
    let logs = [source.events_path(), destination.events_path()];
    let text = merge(&[&logs[0], &logs[1]]).unwrap();
    assert_eq!(merge(&[&logs[1], &logs[0]]).unwrap(), text, "the order does not matter");
    let record = serde_json::from_str(&text).unwrap();
    Merged { migrated, source, destination, record }
}

/// Checks the lower bound of the stop, and its value, against the driver's stamps of STOP and RESUME.
fn assert_stop(merged: &Merged) {
    let [stop, resume] = [(Side::Source, "STOP"), (Side::Destination, "RESUME")]
        .map(|(side, name)| merged.migrated.event(side, name).unwrap());
    let length = &merged.record["downtime"]["stop"];
    assert_eq!(length["method"], "qmp-events", "{length}");
    // QEMU stamps just before it writes, and the driver just after.
    let offset_ns = clock_offset_ns(&merged.record);
    let built_ns = |event: &QmpEvent| event.built_ns(offset_ns).cast_unsigned();
    let shortest_ns = built_ns(resume).saturating_sub(stop.received_ns);
    let longest_ns = resume.received_ns - built_ns(stop);
    let (low_ns, value_ns) = (number(&length["low_ns"]), number(&length["value_ns"]));
    assert!(low_ns <= longest_ns, "{length}: at most {longest_ns}");
    assert!((shortest_ns..=longest_ns).contains(&value_ns), "{length}: {shortest_ns} to {longest_ns}");
    assert!(value_ns - low_ns < 1_000_000, "{length}");
}

/// Half of the distance between the two bounds.
fn half_width(record: &Value) -> i64 {
    let (low, high) = clock_bounds(record);
    (high - low) / 2
}

#[test]
fn both_hosts_logs_make_one_record_with_the_whole_stop() {
    let mut lab = shared_lab().unwrap();
    // There and back.
    for _ in 0..2 {
        let merged = migrate(&mut lab, &Migration::default());
        assert!(half_width(&merged.record) < 100_000, "{}", half_width(&merged.record));
        assert_stop(&merged);
        let (of_source, of_destination) =
            (merged.source.record().unwrap(), merged.destination.record().unwrap());
        for same in ["migration", "phases", "traffic", "total_time"] {
            assert_eq!(merged.record[same], of_source[same], "{same}");
        }
        assert_eq!(of_source["migration"]["id"], of_destination["migration"]["id"]);
        assert!(
            !not_measured(&merged.record).contains("record is needed"),
            "{}",
            not_measured(&merged.record)
        );
    }
}

#[test]
fn every_shape_of_migration_is_merged() {
    let mut lab = shared_lab().unwrap();
    let shapes = [
        Migration::like_libvirt(),
        Migration { multifd: Some(2), ipv6: true, ..Migration::default() },
        Migration {
            return_path: true,
            postcopy_at_pass: Some(2),
            max_bandwidth_bytes_per_s: 40 << 20,
            ..Migration::default()
        },
        Migration { events: false, ..Migration::default() },
    ];
    for migration in shapes {
        let merged = migrate(&mut lab, &migration);
        assert!(half_width(&merged.record) < 1_000_000, "{migration:?}: {}", half_width(&merged.record));
        assert_stop(&merged);
    }
}

#[test]
fn on_a_link_that_is_full_the_clocks_are_still_known() {
    let mut lab = Lab::builder().memory_mib(192).rate("400mbit").dirty(16, 20).start().unwrap();
    lab.wait_guest_ready().unwrap();
    let merged = migrate(&mut lab, &Migration::default());
    assert!(half_width(&merged.record) < 500_000, "{}", half_width(&merged.record));
    assert_stop(&merged);
}

#[test]
fn logs_of_other_migrations_are_refused() {
    let mut lab = shared_lab().unwrap();
    let [first, second] = [0; 2].map(|_| migrate(&mut lab, &Migration::default()));
    let (ours, others) = (first.source.events_path(), second.source.events_path());
    let error = merge(&[&ours, &others]).unwrap_err();
    assert!(error.contains("does not belong to the other logs: "), "{error}");
    let error = merge(&[&ours, &ours]).unwrap_err();
    assert!(error.contains("recorded on the same host"), "{error}");
    // One log alone is what it always was.
    let alone: Value = serde_json::from_str(&merge(&[&ours]).unwrap()).unwrap();
    assert_eq!(alone, first.source.record().unwrap());
}
