//! Interfaces that vanish while migtrace counts there: what was seen stays recorded, and counting resumes.

use crate::support::{FAST, MIGRATION_PORT, PATIENCE, SLOW_MIB_PER_S, network, sent_payload_bytes};
use migtrace_lab::migtrace_command::{self, Recording};
use migtrace_lab::record_checks::{assert_consistent, not_measured, phase_names};
use migtrace_lab::{BareQemu, Host};
use std::time::{Duration, Instant};

#[test]
fn the_record_survives_a_bridge_that_vanishes_with_its_migration() {
    let lab = network();
    let (mut source, destination) = BareQemu::pair(&lab, "cut-off", MIGRATION_PORT).unwrap();
    let recording = Recording::start(lab.source(), &[]).unwrap();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    lab.source().tool("ip", &["link", "delete", Host::BRIDGE]).unwrap();
    recording.wait_for_event("interface_gone", PATIENCE).unwrap();
    // Left alone, TCP would try for minutes.
    source.qmp().execute("migrate_cancel", serde_json::json!({})).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(3), "{}", recorded.stderr);
    let record = recorded.record().unwrap();
    assert_consistent(&record);
    assert_eq!(record["migration"]["outcome"], "cancelled");
    assert!(
        not_measured(&record).contains("packets on br0: the interface vanished"),
        "{}",
        not_measured(&record)
    );
    let sent = sent_payload_bytes(&record);
    assert!((1 << 20..12 << 20).contains(&sent), "{sent}");
    drop(destination);
}

#[test]
fn counting_resumes_at_an_interface_that_comes_back() {
    let lab = network();
    let recording = Recording::start(lab.source(), &[]).unwrap();
    let host = lab.source();
    let tool = |arguments: &str| host.tool("ip", &arguments.split(' ').collect::<Vec<_>>()).unwrap();
    tool("link delete br0");
    recording.wait_for_event("interface_gone", PATIENCE).unwrap();
    tool("link add name br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
    tool("link set dev uplink master br0 up");
    tool("link set dev br0 up");
    tool(&format!("address add {}/24 dev br0", host.ipv4()));
    recording.wait_for_event("interface_added", PATIENCE).unwrap();
    let (mut source, _destination) = BareQemu::pair(&lab, "again", MIGRATION_PORT).unwrap();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    let record = recorded.record().unwrap();
    assert_consistent(&record);
    assert!(sent_payload_bytes(&record) > 16 << 20);
}

#[test]
fn a_tap_that_vanishes_does_not_change_the_record() {
    let lab = network();
    let host = lab.source();
    host.tool("ip", &["tuntap", "add", "dev", Host::TAP, "mode", "tap"]).unwrap();
    host.tool("ip", &["link", "set", "dev", Host::TAP, "master", Host::BRIDGE, "up"]).unwrap();
    let (mut source, _destination) = BareQemu::pair(&lab, "tapless", MIGRATION_PORT).unwrap();
    let recording = Recording::start(host, &[]).unwrap();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    host.tool("ip", &["link", "delete", Host::TAP]).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    let record = recorded.record().unwrap();
    assert_consistent(&record);
    assert_eq!(phase_names(&record).last().unwrap(), "completed");
    assert!(!not_measured(&record).contains("vanished"), "{}", not_measured(&record));
}

#[test]
fn a_namespace_without_an_interface_to_count_at_is_refused_at_once() {
    let lab = network();
    lab.source().tool("ip", &["link", "delete", Host::BRIDGE]).unwrap();
    let started = Instant::now();
    let output = migtrace_command::run(lab.source(), &["record"]).unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stderr.contains("no interface to count at") && output.stderr.contains("uplink"),
        "{output:?}"
    );
}
