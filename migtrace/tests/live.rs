//! What the timeline shows while a migration runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use migtrace::event::{Event, Fact, OwnerMethod, QmpEvent};
use migtrace::record::{Outcome, Phase, PhaseName, Role};
use migtrace::selection::Selection;
use migtrace::timeline::Timeline;
use migtrace::units::{Counters, Directions, Flow, MonotonicNs};
use migtrace::vocabulary::{Announcement, Purpose};
use serde_json::json;

const LOG_START_NS: u64 = 1_000_000_000_000;
const MS: u64 = 1_000_000;

#[test]
fn the_display_follows_the_phases_and_passes() {
    let mut timeline = Timeline::new(Selection::default());
    let mut shown = Vec::new();
    for event in common::events("precopy-7.2").0 {
        timeline.push(&event);
        if let Some(live) = timeline.live(event.at_ns) {
            let step = (live.phase, live.pass);
            if shown.last() != Some(&step) {
                shown.push(step);
            }
        }
    }
    let expected = [
        ("setup", None),
        ("active", Some(1)),
        ("active", Some(2)),
        ("active", Some(3)),
        ("stop", None),
        ("completed", None),
    ];
    assert_eq!(shown, expected.map(|(phase, pass)| (PhaseName::from(phase), pass)));
}

#[test]
fn elapsed_time_runs_until_the_end_and_then_stops() {
    let mut timeline = Timeline::new(Selection::default());
    let elapsed = |timeline: &Timeline, ms: u64| {
        timeline.live(MonotonicNs(LOG_START_NS + ms * MS)).map(|live| live.elapsed_ns / MS)
    };
    for event in common::events("precopy-7.2").0 {
        if matches!(&event.fact, Fact::Qmp(qmp) if qmp.data["status"] == "completed") {
            assert_eq!(elapsed(&timeline, 4_249), Some(3_249));
            assert_eq!(timeline.ended(), None);
        }
        timeline.push(&event);
    }
    assert_eq!(elapsed(&timeline, 60_000), Some(3_250));
}

#[test]
fn the_end_is_known_before_the_last_packet() {
    let mut timeline = Timeline::new(Selection::default());
    let mut seen = Vec::new();
    for event in common::events("precopy-7.2").0 {
        timeline.push(&event);
        if let Some(ended) = timeline.ended() {
            assert_eq!(ended.outcome, Outcome::Completed);
            assert_eq!(ended.at.0, LOG_START_NS + 4_250 * MS);
            seen.push(ended.flows_closed);
        }
    }
    assert_eq!(seen[..2], [false, true]);
}

#[test]
fn a_destination_is_over_when_its_guest_has_shown_itself_and_not_when_its_flows_are_closed() {
    let mut timeline = Timeline::new(Selection::default());
    let mut seen = Vec::new();
    let (mut events, _) = common::events("destination-disk-sync");
    let resume =
        events.iter().position(|event| matches!(&event.fact, Fact::Qmp(qmp) if qmp.name == "RESUME"));
    let at_ns = events[resume.unwrap()].at_ns;
    let (pid, interface) = (777, "vnet0".to_owned());
    let frame = Fact::GuestFrame { pid, interface: interface.clone() };
    let announcement = Fact::Announcement { pid, interface, kind: Announcement::Rarp };
    events.splice(resume.unwrap() + 1.., [frame, announcement].map(|fact| Event { at_ns, fact }));
    for event in &events {
        timeline.push(event);
        seen.extend(timeline.ended().map(|ended| ended.all_told));
    }
    // After QEMU's last event, the guest's resume, its first frame, and its announcement.
    assert_eq!(seen[seen.len() - 4..], [false, false, false, true], "{seen:?}");
}

#[test]
fn a_guest_that_has_arrived_and_does_not_run_is_awaited_as_long_as_its_qemu_lives() {
    let (mut events, _) = common::events("destination-10.0");
    let resume = events
        .iter()
        .position(|event| matches!(&event.fact, Fact::Qmp(qmp) if qmp.name == "RESUME"))
        .unwrap();
    let resume = events.remove(resume);
    let log_end = events.pop().unwrap();
    let Fact::Qmp(QmpEvent { pid, .. }) = resume.fact else { unreachable!() };
    let after = |more: &[Event]| {
        let mut timeline = Timeline::new(Selection::default());
        events.iter().chain(more).for_each(|event| timeline.push(event));
        let awaits = timeline.ended().unwrap().awaits_guest;
        let (mut records, said) = (timeline.finish(), "the guest did not run within");
        let record = records.remove(0);
        assert_eq!(record.migration.outcome, Outcome::Completed);
        (awaits, record.not_measured.iter().any(|entry| entry.why.starts_with(said)))
    };
    let late = |event: &Event, fact: Fact| Event { at_ns: MonotonicNs(event.at_ns.0 + 3_000 * MS), fact };
    let gone = late(&log_end, Fact::QemuGone { pid });
    assert_eq!(after(&[]), (true, false), "nobody knows yet");
    assert_eq!(after(std::slice::from_ref(&log_end)), (true, true));
    assert_eq!(after(&[late(&log_end, resume.fact.clone()), log_end.clone()]), (false, false));
    assert_eq!(after(&[gone, log_end]), (false, false));
}

#[test]
fn bytes_are_from_the_source_to_the_destination_on_either_host() {
    for log in ["destination-10.0", "precopy-10.0"] {
        let mut timeline = Timeline::new(Selection::default());
        common::events(log).0.iter().for_each(|event| timeline.push(event));
        let live = timeline.live(MonotonicNs(0)).unwrap();
        let wire_bytes = live.wire_bytes.unwrap();
        assert!(wire_bytes.tx > 10 * wire_bytes.rx, "{log}: {live:?}");
    }
}

#[test]
fn only_the_selected_vm_ends_the_wait_and_gets_a_record() {
    let select = |vm: &str| Selection::new(Some(vm.to_owned()), None);
    let of = |selection: Selection| {
        let mut timeline = Timeline::new(selection);
        common::events("two-vms").0.iter().for_each(|event| timeline.push(event));
        let names: Vec<_> = timeline.finish().into_iter().filter_map(|r| r.vm.name).collect();
        (timeline.ended().map(|e| (e.at.0 - LOG_START_NS) / MS), names)
    };
    assert_eq!(of(Selection::default()), (Some(2_030), vec!["web-1".to_owned(), "db-1".to_owned()]));
    assert_eq!(of(select("db-1")), (Some(2_230), vec!["db-1".to_owned()]));
    assert_eq!(of(select("11111111-2222-4333-8444-555555555555")), (Some(2_230), vec!["db-1".to_owned()]));
    assert_eq!(of(Selection::new(None, Some(4242))), (Some(2_030), vec!["web-1".to_owned()]));
    assert_eq!(of(select("nobody")), (None, vec![]));
}

#[test]
fn without_events_a_migration_ends_when_its_last_flow_closes() {
    let mut timeline = Timeline::new(Selection::default());
    for event in common::events("events-off").0 {
        timeline.push(&event);
        let closed = matches!(&event.fact, Fact::FlowCounters(c) if c.closed);
        let over = timeline.ended().is_some();
        assert!(over || !closed);
        assert!(!over || closed || matches!(event.fact, Fact::LogEnd { .. }));
    }
}

/// A migration of `pid` over one flow that carries `payload_bytes`, from `at_ns` on for 100 ns.
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
        at(1, Fact::FlowSeen { flow, interface: "eth1".to_owned(), from_start: true }),
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
fn a_reused_pid_is_another_process_and_a_reused_port_another_flow() {
    let at = |at_ns, fact| Event { at_ns: MonotonicNs(at_ns), fact };
    let mut events = vec![at(0, qemu(7, "first"))];
    events.extend(migration(7, 1_000, 40_000, 500, 0));
    events.push(at(2_000, Fact::QemuGone { pid: 7 }));
    events.push(at(3_000, qemu(7, "second")));
    events.extend(migration(7, 4_000, 40_000, 700, 0));
    let records = common::fold(&events);
    let seen: Vec<_> = records
        .iter()
        .map(|r| {
            (r.vm.name.as_deref().unwrap(), r.traffic.total.unwrap().tx.payload_bytes, r.migration.outcome)
        })
        .collect();
    assert_eq!(seen, [("first", 500, Outcome::Completed), ("second", 700, Outcome::Completed)]);
}

#[test]
fn a_disk_server_on_a_migration_port_is_in_no_record_and_ends_no_recording() {
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
fn snapshots_may_or_may_not_contain_the_flows_of_earlier_migrations() {
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
fn snapshots_lack_a_flow_once_its_counting_has_ended() {
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
    // The connection is made before QEMU says `setup`, and the ports may be those of before.
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
    assert_eq!(payload_of(&before), expected, "its counting ended before the second migration");

    let mut during = [first.concat(), second(40_002, 500)].concat();
    let completed = during
        .iter()
        .rposition(|event| matches!(&event.fact, Fact::Qmp(qmp) if qmp.data["status"] == "completed"))
        .unwrap();
    let Fact::Qmp(qmp) = &mut during[completed].fact else { unreachable!() };
    qmp.counters.as_mut().unwrap().tx.wire_bytes -= 500;
    qmp.counters.as_mut().unwrap().tx.payload_bytes -= 500;
    during.insert(completed, gone(4_050, 40_000));
    assert_eq!(payload_of(&during), expected, "its counting ended during the second migration");
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
fn a_listening_destination_is_not_a_migration_yet() {
    let events = common::events("destination-10.0").0;
    let until_setup: Vec<_> = events.into_iter().take(4).collect();
    assert!(until_setup.iter().any(|e| matches!(&e.fact, Fact::Qmp(q) if q.data["status"] == "setup")));
    let mut timeline = Timeline::new(Selection::default());
    until_setup.iter().for_each(|event| timeline.push(event));
    assert_eq!(timeline.live(MonotonicNs(LOG_START_NS)), None);
    assert!(timeline.finish().is_empty());
}

#[test]
fn the_display_shows_this_hosts_part() {
    let role = |log| {
        let mut timeline = Timeline::new(Selection::default());
        common::events(log).0.iter().for_each(|event| timeline.push(event));
        timeline.live(MonotonicNs(0)).unwrap().role
    };
    assert_eq!(role("destination-10.0"), Role::Destination);
    assert_eq!(role("precopy-10.0"), Role::Source);
}

#[test]
fn a_migration_of_which_only_the_end_was_reported_has_the_flows_before_it() {
    let Fact::QemuSeen(mut arrived) = qemu(7, "picked up") else { unreachable!() };
    arrived.incoming = true;
    let mut events = vec![Event { at_ns: MonotonicNs(0), fact: Fact::QemuSeen(arrived) }];
    for mut event in migration(7, 1_000, 40_000, 500, 0) {
        match &mut event.fact {
            Fact::Qmp(qmp) if qmp.data["status"] != "completed" => continue,
            // Reported when the device state is loaded.
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
