//! Which migration `migtrace record` records, and from which point on.

use crate::support::{
    FAST, MIGRATION_PORT, PATIENCE, SLOW_MIB_PER_S, assert_recorded, network, sent_payload_bytes,
};
use migtrace_lab::BareQemu;
use migtrace_lab::migtrace_command::{self, Recording};
use migtrace_lab::record_checks::{assert_consistent, not_measured, phase_names};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[test]
fn a_migration_that_began_before_the_recording_is_recorded_and_the_missed_part_is_named() {
    let lab = network();
    let (mut source, _destination) = BareQemu::pair(&lab, "underway", MIGRATION_PORT).unwrap();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &[]).unwrap());
    source.wait_for_status("completed", PATIENCE).unwrap();
    let [source, destination] =
        recordings.map(|recording| assert_recorded(&recording.finish(PATIENCE).unwrap(), 0));
    for record in [&source, &destination] {
        assert_eq!(record["start"]["seen"], false);
        assert_eq!(record["traffic"]["flows"][0]["from_start"], false);
        assert_eq!(record["vm"]["name"], "underway");
        let why = not_measured(record);
        assert!(why.contains("began before the recording"), "{why}");
        assert!(why.contains("first bytes of"), "{why}");
    }
    assert_eq!(source["migration"]["outcome"], "completed");
    assert_eq!(phase_names(&source).last().unwrap(), "completed");
    // Both recordings saw the same, except for what crossed between their starts.
    let sent = |record: &Value| sent_payload_bytes(record);
    assert!(
        sent(&source) < 20 << 20 && sent(&destination) <= sent(&source),
        "{} {}",
        sent(&source),
        sent(&destination)
    );
}

#[test]
fn a_qemu_that_starts_after_the_recording_is_traced_on_both_hosts() {
    let lab = network();
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &[]).unwrap());
    let (mut source, _destination) = BareQemu::pair(&lab, "late", MIGRATION_PORT).unwrap();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
    let [source, destination] =
        recordings.map(|recording| assert_recorded(&recording.finish(PATIENCE).unwrap(), 0));
    for (record, role) in [(&source, "source"), (&destination, "destination")] {
        assert_eq!(record["vm"]["name"], "late");
        // The version comes from the binary, which is asked while events are being read.
        assert!(record["qemu"]["version"].is_string(), "{record:#}");
        assert_eq!(record["observers"][0]["role"], role);
        assert_eq!(record["start"]["seen"], true);
        assert_eq!(record["migration"]["outcome"], "completed", "{record:#}");
    }
}

#[test]
fn of_two_migrations_at_once_the_selected_one_is_reported() {
    let lab = network();
    let mut web = BareQemu::start(lab.source(), "web").unwrap();
    let mut db = BareQemu::start(lab.source(), "db").unwrap();
    let _web = BareQemu::incoming(lab.destination(), "web", MIGRATION_PORT).unwrap();
    let _db = BareQemu::incoming(lab.destination(), "db", MIGRATION_PORT + 1).unwrap();
    let by_name = Recording::start(lab.source(), &["--vm", "db"]).unwrap();
    let by_pid = Recording::start(lab.source(), &["--pid", &web.pid().to_string()]).unwrap();
    db.migrate(lab.destination().ipv4(), MIGRATION_PORT + 1, SLOW_MIB_PER_S).unwrap();
    web.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();

    let [by_pid, by_name] = [by_pid, by_name].map(|recording| recording.finish(PATIENCE).unwrap());
    let [of_web, of_db] = [&by_pid, &by_name].map(|recorded| {
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        let record = recorded.record().unwrap();
        assert_consistent(&record);
        record
    });
    for (record, name, port) in [(&of_web, "web", MIGRATION_PORT), (&of_db, "db", MIGRATION_PORT + 1)] {
        assert_eq!(record["vm"]["name"], name);
        let flows = record["traffic"]["flows"].as_array().unwrap();
        assert_eq!(flows.len(), 1, "{flows:?}");
        assert!(flows[0]["remote"].as_str().unwrap().ends_with(&format!(":{port}")), "{flows:?}");
        let sent = sent_payload_bytes(record);
        assert!((16 << 20..20 << 20).contains(&sent), "{sent}");
    }
    // The log also has the other one.
    let log = by_name.events_path();
    let report = |vm: &str| {
        let mut report = migtrace_command::command(&["report", "--format", "json", "--vm", vm]).unwrap();
        String::from_utf8(report.arg(&log).output().unwrap().stdout).unwrap()
    };
    assert_eq!(report("db"), by_name.json);
    assert!(report("web").contains("\"web\""));
}

#[test]
fn a_recording_ends_with_the_first_migration_that_ends() {
    let lab = network();
    let (mut source, destination) = BareQemu::pair(&lab, "again", MIGRATION_PORT).unwrap();
    let recording = Recording::start(lab.source(), &["--timeout", "30s"]).unwrap();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    source.qmp().execute("migrate_cancel", json!({})).unwrap();
    source.wait_for_status("cancelled", PATIENCE).unwrap();
    let record = assert_recorded(&recording.finish(PATIENCE).unwrap(), 3);
    assert_eq!(record["migration"]["outcome"], "cancelled");
    drop(destination);

    // A recording that begins now is about the second migration.
    let _destination = BareQemu::incoming(lab.destination(), "again", MIGRATION_PORT).unwrap();
    let recording = Recording::start(lab.source(), &[]).unwrap();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
    let record = assert_recorded(&recording.finish(PATIENCE).unwrap(), 0);
    assert_eq!(record["migration"]["outcome"], "completed");
    assert_eq!(record["start"]["seen"], true);
}

#[test]
fn qemus_own_statistics_are_recorded_beside_the_measurements() {
    let lab = network();
    let (mut source, _destination) = BareQemu::pair(&lab, "asked", MIGRATION_PORT).unwrap();
    let spare = source.spare_qmp_socket();
    let recording = Recording::start(lab.source(), &["--qmp", spare.to_str().unwrap()]).unwrap();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    let record = assert_recorded(&recorded, 0);
    let claimed = &record["qemu"]["stats"];
    assert_eq!(claimed["status"], "completed");
    let transferred = claimed["ram"]["transferred"].as_u64().unwrap();
    let sent = sent_payload_bytes(&record);
    assert!(transferred > 16 << 20 && sent >= transferred, "{sent} {transferred}");
    let downtime_ms = claimed["downtime"].as_u64().unwrap();
    assert_eq!(record["downtime"]["qemu_reported_ns"], downtime_ms * 1_000_000);
    // Both monitors report the stop; it is recorded once.
    let stops = record["downtime"]["marks"].as_array().unwrap().iter().filter(|mark| mark["name"] == "stop");
    assert_eq!(stops.count(), 1, "{record:#}");
    assert_eq!(record["downtime"]["budget_ns"], 300_000_000, "{record:#}");
}

#[test]
fn a_monitor_with_another_client_is_refused_at_once() {
    let lab = network();
    let source = BareQemu::start(lab.source(), "busy").unwrap();
    let socket = source.qmp_socket();
    let started = Instant::now();
    let output = migtrace_command::run(lab.source(), &["record", "--qmp", socket.to_str().unwrap()]).unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("another client (libvirt?) uses it"), "{output:?}");
    assert!(output.stderr.contains(socket.to_str().unwrap()), "{output:?}");
    assert!(!output.stderr.contains("ready"), "{output:?}");
}
