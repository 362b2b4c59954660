//! What becomes of the migrations of a host, and of what looks like one.

use serde_json::{Value, json};

use super::Watch;
use super::host::{Host, MS, OFFSET_NS, S, counters, flow};
use crate::event::{Event, Fact};
use crate::record::{Outcome, PhaseName, Record, Role};
use crate::selection::Selection;

fn names(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.vm.name.as_deref().unwrap_or("-")).collect()
}

fn outcomes(records: &[Record]) -> Vec<Outcome> {
    records.iter().map(|record| record.migration.outcome).collect()
}

fn of_flows(log: &[Event]) -> Vec<u16> {
    let seen = log.iter().filter_map(|event| match &event.fact {
        Fact::FlowSeen { flow, .. } => Some(flow.local.port()),
        _ => None,
    });
    seen.collect()
}

#[test]
fn of_two_migrations_at_once_each_log_has_its_own_events_only() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.qemu(S, 8, "db", false);
    host.leaves(10 * S, 7, 40_001, "completed", 0);
    host.leaves(10 * S + 300 * MS, 8, 40_002, "failed", 0);
    host.flow_seen(10 * S + 400 * MS, 40_003, "unknown");
    host.counted(10 * S + 500 * MS, 40_003, 10 * S + 400 * MS, 5_000, false);
    host.events.sort_by_key(|event| event.at_ns);
    let dealt = host.dealt();
    assert_eq!((names(&dealt.records), dealt.discarded), (vec!["web", "db"], 0));
    assert_eq!(outcomes(&dealt.records), [Outcome::Completed, Outcome::Failed]);
    for (log, (pid, port)) in dealt.logs.values().zip([(7, 40_001), (8, 40_002)]) {
        assert_eq!(of_flows(log), [port]);
        for event in log {
            match &event.fact {
                Fact::QemuSeen(qemu) => assert_eq!(qemu.pid, pid),
                Fact::Qmp(qmp) => assert_eq!(qmp.pid, pid),
                Fact::FlowOwner { pid: owner, .. } => assert_eq!(*owner, pid),
                _ => {}
            }
        }
    }
}

#[test]
fn a_migration_that_is_tried_again_at_once_has_its_own_record_with_its_own_bytes() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.leaves(10 * S, 7, 40_001, "cancelled", 0);
    // The first has not settled yet, and its connection is still in the table: its sums are in QEMU's events.
    host.leaves(11 * S + 100 * MS, 7, 40_002, "completed", 2_000);
    host.events.sort_by_key(|event| event.at_ns);
    let dealt = host.dealt();
    assert_eq!(outcomes(&dealt.records), [Outcome::Cancelled, Outcome::Completed]);
    for record in &dealt.records {
        assert_eq!(record.traffic.flows.len(), 1);
        assert_eq!(record.traffic.total.unwrap().tx.payload_bytes, 2_000);
        let active = record.phases.iter().find(|phase| phase.name.as_str() == "active").unwrap();
        assert_eq!(active.traffic.unwrap().tx.payload_bytes, 2_000, "{:#?}", record.phases);
    }
}

#[test]
fn a_guest_that_arrives_and_leaves_again_has_two_records() {
    arrives_and_leaves_after(59 * S);
}

#[test]
fn a_guest_that_leaves_again_before_its_arrival_has_settled_has_two_records() {
    arrives_and_leaves_after(MS);
}

fn arrives_and_leaves_after(pause: u64) {
    let mut host = Host::new();
    host.qemu(S, 7, "web", true);
    host.status(S + MS, 7, "setup", 0);
    let arrives = 86_400 * S;
    host.flow_seen(arrives, 40_001, "ram");
    host.flow_owner(arrives + MS, 40_001, 7);
    host.status(arrives + 2 * MS, 7, "active", 0);
    let counted = json!({
        "flow": flow(40_001), "counters": { "tx": counters(0), "rx": counters(9_000) }, "first_ns": arrives,
        "last_ns": arrives + 900 * MS, "retransmitted_segments": 0, "retransmitted_payload_bytes": 0, "closed": pause > S
    });
    host.add(arrives + 900 * MS, "flow_counters", counted);
    host.status(arrives + 950 * MS, 7, "completed", 0);
    host.qmp(arrives + 960 * MS, 7, "RESUME", &Value::Null, 0);
    if pause > S {
        host.add(arrives + 20 * S, "flow_gone", json!({ "flow": flow(40_001) }));
    }
    let leaves = arrives + 960 * MS + pause;
    host.status(leaves, 7, "setup", 0);
    host.flow_seen(leaves + 5 * MS, 40_002, "ram");
    host.flow_owner(leaves + 6 * MS, 40_002, 7);
    host.status(leaves + 10 * MS, 7, "active", 0);
    host.status(leaves + 990 * MS, 7, "completed", 2_000);
    host.counted(leaves + S, 40_002, leaves + 5 * MS, 2_000, true);
    let dealt = host.dealt();
    let roles = dealt.records.iter().map(|record| record.observers[0].role);
    assert_eq!(roles.collect::<Vec<_>>(), [Role::Destination.into(), Role::Source.into()]);
    assert_eq!(outcomes(&dealt.records), [Outcome::Completed, Outcome::Completed]);
    let setup_ns = dealt.records[0].phases[0].start_ns;
    assert!(setup_ns < -86_000 * S.cast_signed(), "it has listened for a day: {setup_ns}");
    assert_eq!(dealt.logs.len(), 2, "each migration has a log");
    let first = &dealt.records[1].phases[0];
    assert_eq!((&first.name, first.start_ns), (&PhaseName::Setup, 0));
}

#[test]
fn a_connection_whose_owner_is_found_late_is_there_from_its_first_packet_on() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.qemu(S, 8, "db", false);
    host.flow_seen(10 * S, 40_001, "ram");
    host.counted(10 * S + 100 * MS, 40_001, 10 * S, 100, false);
    host.status(10 * S + 150 * MS, 7, "setup", 0);
    host.status(10 * S + 160 * MS, 8, "setup", 0);
    host.counted(10 * S + 200 * MS, 40_001, 10 * S, 200, false);
    host.flow_owner(12 * S, 40_001, 8);
    host.status(13 * S, 7, "failed", 0);
    host.status(13 * S, 8, "failed", 300);
    host.counted(13 * S, 40_001, 10 * S, 300, true);
    let dealt = host.dealt();
    assert_eq!(names(&dealt.records), ["web", "db"]);
    let logs: Vec<_> = dealt.logs.values().collect();
    assert_eq!((of_flows(logs[0]), of_flows(logs[1])), (vec![], vec![40_001]));
    let counts = logs[1].iter().filter(|event| matches!(event.fact, Fact::FlowCounters(_))).count();
    assert_eq!(counts, 3);
    assert_eq!(dealt.records[1].traffic.flows[0].first_ns, -(160 * MS).cast_signed());
}

#[test]
fn a_connection_without_an_owner_is_of_the_only_migration_that_it_can_be_of() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.qemu(S, 8, "db", false);
    host.status(10 * S, 7, "setup", 0);
    host.flow_seen(10 * S + MS, 40_001, "ram");
    host.counted(10 * S + 100 * MS, 40_001, 10 * S + MS, 100, false);
    host.status(11 * S, 7, "completed", 0);
    host.counted(11 * S, 40_001, 10 * S + MS, 300, true);
    let record = &host.dealt().records[0];
    assert_eq!(record.traffic.total.unwrap().tx.payload_bytes, 300);
}

#[test]
fn what_was_lost_before_a_migration_is_not_held_against_it() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.lost(100 * S, 5);
    host.leaves(1_000 * S, 7, 40_001, "failed", 0);
    host.leaves(2_000 * S, 7, 40_002, "failed", 0);
    host.lost(2_000 * S + 600 * MS, 7);
    host.leaves(3_000 * S, 7, 40_003, "completed", 0);
    host.events.sort_by_key(|event| event.at_ns);
    let dealt = host.dealt();
    let lost: Vec<_> = dealt.records.iter().map(|record| record.lost.ring_buffer).collect();
    assert_eq!(lost, [0, 2, 0]);
}

#[test]
fn what_is_no_migration_gives_no_record_and_leaves_nothing() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", true);
    host.status(S + MS, 7, "setup", 0);
    for number in 0_u16..100 {
        // Somebody connects to the port of a destination that waits, and sends nothing.
        let at = 100 * S * u64::from(number + 1);
        host.flow_seen(at, 40_000 + number, "unknown");
        host.flow_owner(at + MS, 40_000 + number, 7);
        host.counted(at + 2 * MS, 40_000 + number, at, 0, true);
        host.add(at + 12 * S, "flow_gone", json!({ "flow": flow(40_000 + number) }));
    }
    // A disk is copied for another purpose.
    host.qemu(2, 8, "db", false);
    let at = 20_000 * S;
    host.flow_seen(at, 50_000, "nbd");
    host.flow_owner(at + MS, 50_000, 8);
    host.counted(at + 5 * S, 50_000, at, 10_000, false);
    host.counted(at + 60 * S, 50_000, at, 90_000, true);
    host.add(at + 80 * S, "flow_gone", json!({ "flow": flow(50_000) }));
    host.gone(at + 90 * S, 7);
    host.gone(at + 90 * S, 8);
    let dealt = host.dealt();
    assert_eq!((dealt.records.len(), dealt.logs.len(), dealt.discarded, dealt.known), (0, 0, 1, 0));
}

#[test]
fn a_second_report_of_an_end_is_no_second_migration() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.leaves(10 * S, 7, 40_001, "failed", 0);
    host.status(30 * S, 7, "failed", 0);
    assert_eq!(outcomes(&host.dealt().records), [Outcome::Failed]);
}

#[test]
fn only_selected_vms_have_records() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.qemu(S, 8, "db", false);
    host.leaves(10 * S, 7, 40_001, "failed", 0);
    host.leaves(20 * S, 8, 40_002, "failed", 0);
    let dealt = host.dealt_to(Selection::new(Some("db".into()), None));
    assert_eq!(names(&dealt.records), ["db"]);
}

#[test]
fn nothing_is_kept_of_thousands_of_migrations() {
    let mut host = Host::new();
    let mut at = S;
    for number in 0_u16..3_000 {
        let (pid, port) = (100 + u32::from(number), 20_000 + number);
        host.qemu(at, pid, &format!("vm-{number}"), false);
        host.leaves(at + S, pid, port, "completed", 0);
        host.gone(at + 3 * S, pid);
        host.add(at + 15 * S, "flow_gone", json!({ "flow": flow(port) }));
        at += 20 * S;
    }
    let dealt = host.dealt();
    assert_eq!((dealt.records.len(), dealt.known), (3_000, 0));
}

#[test]
fn a_step_of_the_wall_clock_is_in_the_log_of_a_migration_that_is_under_way() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.leaves(10 * S, 7, 40_001, "completed", 0);
    // A year forward.
    host.add(10 * S + 200 * MS, "clock", json!({ "offset_ns": OFFSET_NS + 31_536_000 * S, "error_ns": 100 }));
    host.events.sort_by_key(|event| event.at_ns);
    let dealt = host.dealt();
    let record = &dealt.records[0];
    assert_eq!(record.start.realtime_ns, Some((OFFSET_NS + 10 * S + 2 * MS).cast_signed()));
    assert_eq!(record.total_time.as_ref().unwrap().value_ns / MS, 988);
    let log = dealt.logs.values().next().unwrap();
    assert_eq!(log.iter().filter(|event| matches!(event.fact, Fact::Clock(_))).count(), 2);
}

#[test]
fn fragments_from_before_a_migration_are_not_counted_as_its() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    let mut fragments = |at_ns: u64, payload: u64| {
        let fact = json!({
            "local": "192.0.2.1", "remote": "192.0.2.2", "counters": { "tx": counters(payload), "rx": counters(0) }
        });
        host.add(at_ns, "fragments", fact);
    };
    fragments(5 * S, 7_000);
    fragments(500 * S + 300 * MS, 7_500);
    host.leaves(500 * S, 7, 40_001, "completed", 0);
    host.events.sort_by_key(|event| event.at_ns);
    let record = &host.dealt().records[0];
    assert_eq!(record.traffic.fragments.unwrap().tx.payload_bytes, 500);
}

#[test]
fn what_another_process_with_the_same_number_did_is_another_matter() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.leaves(10 * S, 7, 40_001, "completed", 0);
    host.gone(11 * S + 10 * MS, 7);
    host.qemu(11 * S + 20 * MS, 7, "db", false);
    host.leaves(11 * S + 100 * MS, 7, 40_002, "failed", 0);
    host.events.sort_by_key(|event| event.at_ns);
    let dealt = host.dealt();
    assert_eq!(names(&dealt.records), ["web", "db"]);
    assert_eq!(outcomes(&dealt.records), [Outcome::Completed, Outcome::Failed]);
}

#[test]
fn no_more_are_taken_on_once_that_is_declined() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.qemu(S, 8, "db", false);
    host.leaves(10 * S, 7, 40_001, "completed", 0);
    host.leaves(10 * S + 500 * MS, 8, 40_002, "completed", 0);
    host.events.sort_by_key(|event| event.at_ns);
    let mut watch = Watch::new(Selection::default(), true);
    let (before, after) =
        host.events.split_at(host.events.partition_point(|e| e.at_ns.0 < 10 * S + 400 * MS));
    watch.deal(before);
    watch.dealer.decline();
    assert!(!watch.dealer.is_idle());
    watch.deal(after);
    watch.until(60 * S);
    assert!(watch.dealer.is_idle());
    assert_eq!(names(&watch.finish(&[]).records), ["web"]);
}

#[test]
fn the_record_of_a_guest_whose_disk_was_copied_for_hours_before_has_all_of_the_copy() {
    // More counts than are kept.
    let seconds = 20_000;
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.flow_seen(10 * S, 50_000, "nbd");
    host.flow_owner(10 * S + MS, 50_000, 7);
    for second in 1..=seconds {
        host.counted((10 + second) * S, 50_000, 10 * S, 1_000 * second, false);
    }
    let moves = (11 + seconds) * S;
    host.leaves(moves, 7, 40_001, "completed", 1_000 * seconds);
    host.counted(moves + S + MS, 50_000, 10 * S, 1_000 * seconds, true);
    let dealt = host.dealt();
    let [record] = &dealt.records[..] else { panic!("{:?}", names(&dealt.records)) };
    let log = dealt.logs.values().next().unwrap();
    let counts = log.iter().filter(|event| matches!(event.fact, Fact::FlowCounters(_)));
    assert_eq!(counts.count() as u64, seconds + 3, "the log has every count");
    let all = record.traffic.total.unwrap().tx;
    assert_eq!(all.payload_bytes, 1_000 * seconds + 2_000);
    assert_eq!(record.traffic.samples.last().unwrap().wire_bytes.tx, all.wire_bytes);
    let before = record.traffic.samples.iter().rfind(|sample| sample.at_ns < (seconds * S) as i64).unwrap();
    let disk = before.disk_wire_bytes.unwrap().tx;
    assert_eq!(disk, before.wire_bytes.tx, "only the disk was copied until then");
    // It crosses at 2,000 bytes a second, and 2,000 samples are kept of all.
    let expected = 2 * before.at_ns.cast_unsigned() / MS;
    assert!(disk.abs_diff(expected) <= 4_000 && disk > 39_000_000, "{disk} and {expected}");
}
