//! What QEMU was doing, phase by phase, in the records of the canned logs. The figures follow from the logs' own lines.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::{marks, one, outline, payload_tx, why};
use migtrace::event::{Event, Fact};
use migtrace::invariants::inputs;
use migtrace::record::{Method, Mode, Outcome, Vantage};
use migtrace::units::MonotonicNs;

const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;

#[test]
fn precopy_of_qemu_7_2_has_its_first_pass_in_setup_and_stops_until_completed() {
    let record = one("precopy-7.2");
    assert_eq!(
        outline(&record),
        [
            ("setup", None, 12),
            ("active", Some(1), 2_488),
            ("active", Some(2), 500),
            ("active", Some(3), 200),
            ("stop", None, 50),
            ("completed", None, 5),
        ]
    );
    assert_eq!((record.migration.outcome, record.migration.mode), (Outcome::Completed, Mode::Precopy));
    assert_eq!(payload_tx(&record.phases[1]), 250 * MIB - 2_048);
    assert_eq!(payload_tx(&record.phases[4]), 5 * MIB);
    assert_eq!(payload_tx(&record.phases[5]), 512);
    // 325 MiB + 512 bytes are 235 351 segments, and one more for the handshake.
    let total = record.traffic.total.unwrap();
    assert_eq!(total.tx.segments, 235_352);
    assert_eq!(total.tx.wire_bytes, 325 * MIB + 512 + 66 * 235_352);
    assert_eq!(record.traffic.retransmitted_segments, Some(3));
    assert_eq!(record.traffic.retransmitted_payload_bytes, Some(3 * 1_448));
}

#[test]
fn precopy_of_qemu_10_0_has_a_device_state() {
    let record = one("precopy-10.0");
    let tail = &outline(&record)[2..];
    assert_eq!(
        tail,
        [("active", Some(2), 500), ("stop", None, 1), ("device", None, 99), ("completed", None, 10)]
    );
}

#[test]
fn with_pause_before_switchover_the_stop_precedes_the_state_that_reports_it() {
    let record = one("precopy-10.0-pause");
    let tail = &outline(&record)[3..];
    assert_eq!(
        tail,
        [("stop", None, 1), ("pre-switchover", None, 50), ("device", None, 49), ("completed", None, 0)]
    );
    assert_eq!(payload_tx(&record.phases[4]), 0);
    assert_eq!(payload_tx(&record.phases[5]), 10 * MIB);
}

#[test]
fn the_phases_of_postcopy_differ_between_versions_of_qemu() {
    let names = |log| {
        let record = one(log);
        assert_eq!(record.migration.mode, Mode::Postcopy);
        record.phases.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("postcopy-7.2"), "setup active postcopy-active completed");
    assert_eq!(names("postcopy-10.0"), "setup active stop device postcopy-active completed");
    assert_eq!(names("postcopy-10.2"), "setup active stop device postcopy-device postcopy-active completed");
    assert_eq!(
        names("postcopy-recovered"),
        "setup active stop device postcopy-active postcopy-paused postcopy-recover-setup postcopy-recover \
         postcopy-active completed"
    );
}

#[test]
fn without_events_the_phases_are_coarse_and_the_reason_says_how_to_get_them() {
    let record = one("events-off");
    assert_eq!(outline(&record), [("transfer", None, 1_499), ("stop", None, 50)]);
    assert_eq!(payload_tx(&record.phases[0]), 150 * MIB);
    assert_eq!(payload_tx(&record.phases[1]), 5 * MIB);
    assert_eq!((record.migration.outcome, record.migration.mode), (Outcome::Unknown, Mode::Unknown));
    let total = record.total_time.as_ref().unwrap();
    assert_eq!((total.value_ns, total.high_ns), (1_549_000_000, None));
    assert_eq!(total.method, Method::FirstAndLastPacket);
    assert!(why(&record, "phases").contains("migrate-set-capabilities"));
}

#[test]
fn without_events_the_log_of_dirtied_pages_shows_the_rounds_of_copying() {
    let record = one("events-off-kvm");
    assert_eq!(
        outline(&record),
        [
            ("transfer", None, 9),
            ("transfer", Some(1), 890),
            ("transfer", Some(2), 400),
            ("transfer", Some(3), 200),
            ("stop", None, 50),
        ]
    );
    assert_eq!(payload_tx(&record.phases[2]), 30_000 * 1_448);
}

#[test]
fn a_destination_of_qemu_7_2_reports_setup_even_without_events() {
    let record = one("destination-7.2-events-off");
    assert_eq!(record.observers[0].role, Vantage::Destination);
    assert_eq!(outline(&record), [("transfer", None, 1_609)]);
    assert_eq!(record.traffic.total.unwrap().tx.payload_bytes, 160 * MIB + 100);
    assert!(why(&record, "phases").contains("`events` is off"));
}

#[test]
fn a_disk_copy_before_the_migration_is_a_phase() {
    let record = one("disk-sync");
    let names: Vec<_> = outline(&record).into_iter().map(|(name, _, ms)| (name, ms)).collect();
    assert_eq!(names[..3], [("disk-sync", 8_101), ("setup", 12), ("active", 888)]);
    assert_eq!(payload_tx(&record.phases[0]), 1_024 * MIB);
    assert_eq!(record.total_time.unwrap().value_ns, 9_061_000_000);
    assert_eq!(record.setup_time.unwrap().value_ns, 12_000_000);
}

#[test]
fn an_unknown_state_of_qemu_is_a_phase() {
    let record = one("unknown-status");
    let names: Vec<_> = record.phases.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["setup", "active", "quantum-entangled", "completed"]);
    assert_eq!(record.migration.outcome, Outcome::Completed);
}

#[test]
fn a_pause_by_a_person_is_a_phase_and_not_the_last_stop() {
    let record = one("paused-by-hand");
    assert_eq!(
        outline(&record)[1..],
        [
            ("active", Some(1), 488),
            ("paused", None, 200),
            ("active", Some(2), 200),
            ("active", Some(3), 100),
            ("stop", None, 30),
            ("completed", None, 1),
        ]
    );
    assert_eq!(record.downtime.stop, None, "the guest runs again elsewhere");
    let [remark] = &record.downtime.remarks[..] else { panic!("{:?}", record.downtime.remarks) };
    assert!(remark.contains("500.000 ms after the start the guest was paused for 200.000 ms"), "{remark}");
}

#[test]
fn a_libvirt_destination_listens_then_receives_disks_then_memory() {
    let record = one("destination-disk-sync");
    assert_eq!(
        outline(&record),
        [("listening", None, 501), ("disk-sync", None, 8_101), ("active", None, 960), ("completed", None, 2)]
    );
    assert_eq!(payload_tx(&record.phases[1]), 1_024 * MIB);
    let marks: Vec<_> = marks(&record).into_iter().filter(|(name, _)| *name != "last-packet").collect();
    assert_eq!(marks, [("completed", 9_061), ("resume", 9_089)], "the manager continues the guest later");
}

#[test]
fn checkpoints_of_colo_are_not_phases() {
    let names: Vec<_> = one("colo").phases.iter().map(|p| p.name.to_string()).collect();
    assert_eq!(names, ["setup", "active", "colo", "completed"]);
}

#[test]
fn an_empty_status_is_ignored() {
    let (mut events, _) = common::events("precopy-10.0");
    let mut without = events.clone();
    for event in &mut without {
        if let Fact::Qmp(qmp) = &mut event.fact
            && qmp.data["status"] == "device"
        {
            qmp.data["status"] = "".into();
        }
    }
    assert_ne!(without, events);
    inputs::fold(&without).unwrap();
    events.retain(|event| !matches!(&event.fact, Fact::Qmp(qmp) if qmp.data["status"] == "device"));
    assert_eq!(common::fold(&without), common::fold(&events));
}

#[test]
fn a_destination_that_listens_for_an_hour_waits_before_the_migration() {
    let record = one("destination-listened-long");
    let phases: Vec<_> = record
        .phases
        .iter()
        .map(|p| (p.name.as_str(), p.start_ns / 1_000_000, p.end_ns / 1_000_000))
        .collect();
    assert_eq!(
        phases,
        [("listening", -3_600_501, 0), ("setup", 0, 1), ("active", 1, 1_605), ("completed", 1_605, 1_609)]
    );
    let (total, setup) = (record.total_time.as_ref().unwrap(), record.setup_time.as_ref().unwrap());
    assert_eq!((total.value_ns, setup.value_ns), (1_605 * MS, MS));
    assert_eq!((total.high_ns, setup.high_ns), (None, None), "QEMU begins before it connects");
    // The source of the same migration: from its `setup` 1 ms before the first packet to its `completed`.
    let source = one("precopy-10.0").total_time.unwrap();
    assert!(total.low_ns <= source.high_ns.unwrap(), "{total:?} {source:?}");
}

#[test]
fn a_migration_that_began_before_the_recording_is_picked_up_and_its_record_says_so() {
    let record = one("in-progress");
    assert!(!record.start.seen);
    assert_eq!(
        outline(&record),
        [("unseen", None, 1_498), ("active", Some(7), 300), ("stop", None, 50), ("completed", None, 1)]
    );
    assert_eq!(payload_tx(&record.phases[0]), 150 * MIB);
    assert_eq!(record.total_time.as_ref().unwrap().high_ns, None);
    assert!(why(&record, "the start").contains("before the recording"));
    assert!(why(&record, "first bytes of").contains("older than the recording"));
}

#[test]
fn an_event_that_qemu_wrote_to_two_monitors_happened_once() {
    let (once, _) = common::events("precopy-10.0");
    let twice: Vec<_> = once
        .iter()
        .flat_map(|event| {
            let copies = if matches!(event.fact, Fact::Qmp(_)) { 2 } else { 1 };
            (0..copies).map(|copy| Event {
                at_ns: MonotonicNs(event.at_ns.0 + copy * 300),
                fact: event.fact.clone(),
            })
        })
        .collect();
    assert!(twice.len() > once.len());
    let (once, twice) = (common::fold(&once), common::fold(&twice));
    assert_eq!(once, twice);
}

#[test]
fn a_setup_without_anything_after_it_is_a_separate_attempt() {
    let record = one("setup-twice");
    assert_eq!(record.total_time.as_ref().unwrap().value_ns, 2_100 * MS);
    let [remark] = &record.downtime.remarks[..] else { panic!("{:?}", record.downtime.remarks) };
    assert!(remark.starts_with("599.500 s before this migration QEMU reported `setup`"), "{remark}");
}
