//! What a recording lacks is named in the record, and the rest is used.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::{headline, made, one, outline, payload_tx, replay, why};
use migtrace::event::{EndReason, Event, Fact, LogErrorKind};
use migtrace::record::Outcome;
use migtrace::report;
use migtrace::units::MonotonicNs;
use migtrace::vocabulary::Lost;
use serde_json::json;

const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;

#[test]
fn flows_without_an_owner_belong_to_the_only_migrating_vm_and_everything_missing_is_named() {
    let record = one("no-owner");
    assert_eq!(record.traffic.total.unwrap().tx.payload_bytes, 101 * MIB);
    assert!(record.phases.iter().all(|p| p.traffic.is_none()), "the snapshots are not of these flows");
    assert_eq!(record.traffic.retransmitted_segments, None);
    assert_eq!(record.traffic.fragments.unwrap().tx.payload_bytes, 3_000);
    assert!(why(&record, "the owner of a flow").contains("CONFIG_KPROBES"));
    assert!(why(&record, "owner of the flows").contains("no other VM migrates"));
    assert!(why(&record, "a part of").contains("17 packets"));
    assert!(why(&record, "everything").contains("lower bound"));
    assert_eq!((record.lost.flows, record.lost.hook_calls), (2, 1));
}

#[test]
fn flows_that_are_counted_before_they_go_into_a_tunnel_lack_its_headers_and_the_record_says_so() {
    let at = |interface: serde_json::Value| {
        let mut events = common::events("precopy-7.2").0;
        let Fact::LogStart(observation) = &mut events[0].fact else { panic!() };
        observation.interfaces = vec![made(interface)];
        let record = common::fold(&events).remove(0);
        let mut entries = record.not_measured.into_iter();
        entries.find(|entry| entry.what == "the outer headers of packets at eth1").map(|entry| entry.why)
    };
    let eth1 = |kind: &str| json!({ "name": "eth1", "index": 3, "attach": "tcx", "kind": kind });
    let of_tunnel = at(eth1("gretap")).unwrap();
    assert!(of_tunnel.contains("at least 38 bytes") && !of_tunnel.contains("--decapsulate"), "{of_tunnel}");
    assert!(at(eth1("geneve")).unwrap().contains("--decapsulate geneve"));
    assert!(at(eth1("tun")).unwrap().contains("eth1 leads to a program"));
    let bridge = |below: &str| {
        at(json!({
            "name": "eth1", "index": 3, "attach": "tcx", "kind": "bridge",
            "below": [{ "name": "port", "kind": below }, { "name": "nic" }]
        }))
    };
    assert!(bridge("vxlan").unwrap().starts_with("port is a tunnel (vxlan), and its packets go through it"));
    assert_eq!([bridge("vlan"), at(eth1("veth"))], [None, None]);
    let elsewhere = json!({ "name": "vx0", "index": 4, "attach": "tcx", "kind": "vxlan" });
    assert_eq!(at(elsewhere), None, "no flow was counted there");
}

#[test]
fn a_truncated_log_is_used_up_to_its_last_whole_line() {
    let (events, error) = common::events("truncated");
    let error = error.unwrap();
    assert_eq!((events.len(), error.line), (11, 12));
    assert!(matches!(error.what, LogErrorKind::Truncated));
    let record = one("truncated");
    assert_eq!(record.migration.outcome, Outcome::Interrupted);
    assert_eq!(outline(&record), [("setup", None, 12), ("active", Some(1), 1_488), ("active", Some(2), 0)]);
    assert_eq!(payload_tx(&record.phases[1]), 150 * MIB - 2_048);
    assert_eq!(record.phases[2].traffic, None);
    assert!(why(&record, "the end of the recording").contains("cut off"));
}

#[test]
fn an_event_of_a_later_version_is_named_and_the_rest_is_used() {
    let (events, error) = common::events("event-of-a-later-version");
    assert!(error.is_none());
    let record = common::fold(&events).remove(0);
    assert_eq!(record.total_time.as_ref().unwrap().value_ns, 1_600 * MS);
    assert!(why(&record, "1 event of the kind `cpu_throttle`").contains("does not know that kind"));
}

#[test]
fn a_stamp_beyond_the_range_of_the_clock_is_an_error_in_its_line() {
    for (name, line) in [("stamp-out-of-range", 15), ("stamp-out-of-range-in-progress", 12)] {
        let error = common::events(name).1.unwrap();
        assert_eq!(error.line, line);
        assert!(matches!(error.what, LogErrorKind::Corrupt(_)), "{error}");
        assert!(report::text::render(&one(name)).lines().all(|line| !line.contains("-1001")));
    }
}

#[test]
fn an_interface_that_vanished_at_another_time_does_not_concern_the_migration() {
    let (mut events, _) = common::events("precopy-10.0");
    let gone = |at_ns: u64, interface: &str| Event {
        at_ns: MonotonicNs(at_ns),
        fact: Fact::InterfaceGone { interface: interface.to_owned() },
    };
    let last = events.len() - 1;
    assert!(matches!(events[last].fact, Fact::LogEnd { reason: EndReason::MigrationEnded }));
    events.insert(last, gone(1_000_500_000_000, "veth-before"));
    events.insert(last, gone(1_001_500_000_000, "veth0"));
    events.insert(last, gone(1_001_600_000_000, "veth1"));
    let record = common::fold(&events).remove(0);
    assert!(why(&record, "packets on veth0, veth1").contains("vanished during"));
    assert!(!record.not_measured.iter().any(|entry| entry.what.contains("veth-before")));
}

#[test]
fn removed_programs_concern_a_migration_only_if_they_were_missing_during_it() {
    let (mut events, _) = common::events("precopy-10.0");
    let start_ns = 1_001_000 * MS;
    let removed = |interface: &str, last_seen_ns: u64, again_ns: u64, program: &str| {
        made(json!({
            "at_ns": again_ns, "event": "tc_removed", "interface": interface, "program": program,
            "last_seen_ns": last_seen_ns, "attached_again_ns": again_ns,
        }))
    };
    let last = events.len() - 1;
    events.insert(last, removed("before0", start_ns - 200 * MS, start_ns - 100 * MS, "count"));
    events.insert(last, removed("veth0", start_ns + 250 * MS, start_ns + 500 * MS, "count"));
    events.insert(last, removed("of-another", start_ns + 250 * MS, start_ns + 500 * MS, "guest"));
    let record = common::fold(&events).remove(0);
    let why = why(&record, "packets at veth0 for a time");
    let expected =
        "last seen 250.000 ms after the start of the migration and attached again 500.000 ms after";
    assert!(why.contains(expected) && why.ends_with("the bytes are a lower bound"), "{why}");
    for absent in ["before0", "of-another"] {
        assert!(!record.not_measured.iter().any(|entry| entry.what.contains(absent)), "{absent}");
    }
}

#[test]
fn losses_concern_only_the_migration_during_which_they_happened() {
    let records = replay("facts-lost-later");
    let [before, during] = &records[..] else { panic!("{} records", records.len()) };
    assert_eq!((before.lost, during.lost.ring_buffer), (Lost::default(), 5));
    assert!(headline(during).contains("at least") && !headline(before).contains("at least"));
    assert!(!before.not_measured.iter().any(|entry| entry.what == "everything"));
}

#[test]
fn the_report_says_that_qemu_was_queried_and_did_not_reply() {
    let text = report::text::render(&one("qmp-asked-in-vain"));
    assert!(text.contains("QEMU's own figures: requested, but QEMU did not provide them"), "{text}");
    assert!(text.contains("QEMU closed the QMP connection during query-migrate"), "{text}");
}
