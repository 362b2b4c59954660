//! Which migration a flow, a process and a byte belong to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use migtrace::event::{Event, Fact, OwnerMethod};
use migtrace::record::{Outcome, Phase, PhaseName};
use migtrace::selection::Selection;
use migtrace::timeline::Timeline;
use migtrace::units::{Counters, Directions, Flow, MonotonicNs};
use migtrace::vocabulary::Purpose;
use serde_json::json;

const MS: u64 = 1_000_000;

/// A migration of `pid` that begins at `at_ns`, takes 100 ns and sends `payload_bytes` over one flow. The
/// counters of QEMU's events include `seen_before` bytes of earlier flows.
fn migration(pid: u32, at_ns: u64, port: u16, payload_bytes: u64, seen_before: u64) -> Vec<Event> {
    let at = |offset, fact| Event { at_ns: MonotonicNs(at_ns + offset), fact };
    let flow = Flow { local: ([192, 0, 2, 1], port).into(), remote: ([192, 0, 2, 2], 49152).into() };
    let tx = |bytes| Counters { wire_bytes: bytes, payload_bytes: bytes, segments: 1, skbs: 1 };
    let snapshot = |bytes| Directions { tx: tx(bytes), rx: Counters::default() };
    let status = |status: &str, bytes| {
        common::made(json!({
            "event": "qmp", "pid": pid, "name": "MIGRATION", "data": { "status": status },
            "qemu_realtime_us": at_ns, "counters": snapshot(bytes)
        }))
    };
    vec![
        at(0, status("setup", seen_before)),
        at(
            1,
            Fact::FlowSeen { flow, interface: "eth1".to_owned(), from_start: true, initial_sequences: None },
        ),
        at(2, Fact::FlowOwner { flow, pid, method: OwnerMethod::Socket, crossed: None }),
        at(2, Fact::FlowPurpose { flow, purpose: Purpose::Ram }),
        at(10, status("active", seen_before)),
        at(90, status("completed", seen_before + payload_bytes)),
        at(
            100,
            common::made(json!({
                "event": "flow_counters", "flow": flow, "counters": snapshot(payload_bytes),
                "first_ns": at_ns + 1, "last_ns": at_ns + 90, "retransmitted_segments": 0,
                "retransmitted_payload_bytes": 0, "closed": true
            })),
        ),
    ]
}

fn qemu(pid: u32, name: &str) -> Fact {
    common::made(json!({ "event": "qemu_seen", "pid": pid, "name": name }))
}

#[test]
fn a_process_and_a_flow_that_reuse_a_pid_and_a_port_are_new_ones() {
    let at = |at_ns, fact| Event { at_ns: MonotonicNs(at_ns), fact };
    let mut events = vec![at(0, qemu(7, "first"))];
    events.extend(migration(7, 1_000, 40_000, 500, 0));
    events.push(at(2_000, Fact::QemuGone { pid: 7 }));
    events.push(at(3_000, qemu(7, "second")));
    events.extend(migration(7, 4_000, 40_000, 700, 0));
    let records = common::fold(&events);
    let found: Vec<_> = records
        .iter()
        .map(|r| {
            (r.vm.name.as_deref().unwrap(), r.traffic.total.unwrap().tx.payload_bytes, r.migration.outcome)
        })
        .collect();
    assert_eq!(found, [("first", 500, Outcome::Completed), ("second", 700, Outcome::Completed)]);
}

#[test]
fn a_disk_connection_at_a_migration_port_is_in_no_record_and_does_not_end_a_recording() {
    let mut events = migration(7, 100, 40_009, 20 << 20, 0);
    events.retain(|event| !matches!(event.fact, Fact::Qmp(_)));
    for event in &mut events {
        match &mut event.fact {
            Fact::FlowPurpose { purpose, .. } => *purpose = Purpose::Other,
            Fact::FlowCounters(counters) => counters.closed = false,
            _ => {}
        }
    }
    let Fact::FlowCounters(disk) = &events[events.len() - 1].fact else { unreachable!() };
    let gone = Fact::FlowGone { flow: disk.flow };
    events.push(Event { at_ns: MonotonicNs(900), fact: gone });
    events.insert(0, Event { at_ns: MonotonicNs(0), fact: qemu(7, "reads") });
    let mut timeline = Timeline::new(Selection::default());
    events.iter().for_each(|event| timeline.push(event));
    assert!(timeline.ended().is_none() && timeline.live(MonotonicNs(950)).is_none());
    events.extend(migration(7, 1_000, 40_000, 500, 0));
    let [record] = &common::fold(&events)[..] else { panic!("not one record") };
    assert_eq!(record.traffic.total.unwrap().tx.payload_bytes, 500);
    assert_eq!(record.traffic.flows.len(), 1);
}

#[test]
fn bytes_of_earlier_migrations_do_not_count_whether_or_not_snapshots_contain_them() {
    for kept in [0, 500] {
        let mut events = vec![Event { at_ns: MonotonicNs(0), fact: qemu(7, "again") }];
        events.extend(migration(7, 1_000, 40_000, 500, 0));
        events.extend(migration(7, 4_000, 40_002, 700, kept));
        let records = common::fold(&events);
        let active = records[1].phases.iter().find(|p| p.name == PhaseName::Active).unwrap();
        assert_eq!(active.traffic.unwrap().tx.payload_bytes, 700, "the kernel kept {kept} bytes");
    }
}

#[test]
fn the_bytes_of_a_phase_are_right_when_a_retired_flow_leaves_the_snapshots() {
    let ends = |port| Flow { local: ([192, 0, 2, 1], port).into(), remote: ([192, 0, 2, 2], 49152).into() };
    let gone = |at_ns, port| Event { at_ns: MonotonicNs(at_ns), fact: Fact::FlowGone { flow: ends(port) } };
    let payload_of = |events: &[Event]| {
        let record = common::fold(events).remove(1);
        let of = |phase: &Phase| (phase.name.as_str().to_owned(), phase.traffic.unwrap().tx.payload_bytes);
        record.phases.iter().map(of).collect::<Vec<_>>()
    };
    let expected = [("setup", 60), ("active", 640), ("completed", 0)].map(|(name, n)| (name.to_owned(), n));
    let first =
        [vec![Event { at_ns: MonotonicNs(0), fact: qemu(7, "again") }], migration(7, 1_000, 40_000, 500, 0)];
    // The connection is older than QEMU's `setup` event, and may have the ports of an earlier one.
    let second = |port, kept| {
        let mut events = migration(7, 4_000, port, 700, kept);
        events.swap(0, 3);
        for (event, at_ns) in events.iter_mut().zip([3_990, 3_990, 3_991, 4_000]) {
            event.at_ns = MonotonicNs(at_ns);
        }
        for event in &mut events {
            match &mut event.fact {
                Fact::Qmp(qmp) if qmp.data["status"] != "completed" => {
                    let counters = &mut qmp.counters.as_mut().unwrap().tx;
                    counters.wire_bytes += 60;
                    counters.payload_bytes += 60;
                    counters.segments = 1;
                }
                Fact::FlowCounters(counters) => counters.first_ns = MonotonicNs(3_990),
                _ => {}
            }
        }
        events
    };
    let before = [first.concat(), vec![gone(3_000, 40_000)], second(40_000, 0)].concat();
    assert_eq!(payload_of(&before), expected, "retired before the second migration");

    let mut during = [first.concat(), second(40_002, 500)].concat();
    let completed = during
        .iter()
        .rposition(|event| matches!(&event.fact, Fact::Qmp(qmp) if qmp.data["status"] == "completed"))
        .unwrap();
    let Fact::Qmp(qmp) = &mut during[completed].fact else { unreachable!() };
    qmp.counters.as_mut().unwrap().tx.wire_bytes -= 500;
    qmp.counters.as_mut().unwrap().tx.payload_bytes -= 500;
    during.insert(completed, gone(4_050, 40_000));
    assert_eq!(payload_of(&during), expected, "retired during the second migration");
}

#[test]
fn a_guest_that_arrived_can_leave_again() {
    let at = |at_ns, fact| Event { at_ns: MonotonicNs(at_ns), fact };
    let Fact::QemuSeen(mut arrived) = qemu(7, "wanderer") else { unreachable!() };
    arrived.incoming = true;
    let mut events = vec![at(0, Fact::QemuSeen(arrived))];
    let mut arrival = migration(7, 1_000, 40_000, 500, 0);
    for event in &mut arrival {
        if let Fact::FlowCounters(counters) = &mut event.fact {
            counters.counters = counters.counters.swapped();
        }
    }
    events.extend(arrival);
    events.extend(migration(7, 4_000, 40_002, 700, 0));
    let totals: Vec<_> =
        common::fold(&events).iter().map(|r| r.traffic.total.unwrap().tx.payload_bytes).collect();
    assert_eq!(totals, [500, 700]);
}

#[test]
fn a_migration_of_which_only_the_end_was_seen_has_the_flows_before_that() {
    let Fact::QemuSeen(mut arrived) = qemu(7, "picked up") else { unreachable!() };
    arrived.incoming = true;
    let mut events = vec![Event { at_ns: MonotonicNs(0), fact: Fact::QemuSeen(arrived) }];
    for mut event in migration(7, 1_000, 40_000, 500, 0) {
        match &mut event.fact {
            Fact::Qmp(qmp) if qmp.data["status"] != "completed" => continue,
            // QEMU emits it once the device state is loaded.
            Fact::Qmp(_) => event.at_ns = MonotonicNs(30 * MS),
            Fact::FlowSeen { from_start, .. } => *from_start = false,
            Fact::FlowCounters(counters) => counters.counters = counters.counters.swapped(),
            _ => {}
        }
        events.push(event);
    }
    events.sort_by_key(|event| event.at_ns);
    let records = common::fold(&events);
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0].migration.outcome, Outcome::Completed);
    assert_eq!(records[0].traffic.total.unwrap().tx.payload_bytes, 500);
    assert!(!records[0].start.seen);
}
