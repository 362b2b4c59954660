//! Odd but possible courses of events, and what their records must say; the numbers follow from the logs' own stamps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::{made, one, replay, why};
use migtrace::event::{EndReason, Event, Fact, LogErrorKind};
use migtrace::invariants::inputs;
use migtrace::record::{MarkName, Method, Outcome, PhaseName, Record, Role};
use migtrace::report;
use migtrace::selection::Selection;
use migtrace::timeline::Timeline;
use migtrace::units::MonotonicNs;
use migtrace::vocabulary::Lost;
use serde_json::json;

const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;

fn of_role(records: &[Record], role: Role) -> &Record {
    records.iter().find(|record| record.observers[0].role == role).unwrap()
}

fn headline(record: &Record) -> String {
    report::text::render(record).lines().next().unwrap().to_owned()
}

#[test]
fn a_disk_copy_that_failed_an_hour_before_is_no_part_of_the_migration() {
    let record = one("failed-disk-copy-before");
    assert_eq!(record.total_time.as_ref().unwrap().value_ns, 1_600 * MS);
    assert_eq!(record.traffic.flows.len(), 1);
    let sum: u64 = record.phases.iter().map(|phase| phase.traffic.unwrap().tx.payload_bytes).sum();
    assert_eq!(sum, 160 * MIB + 100, "what it had carried is in no phase");
}

#[test]
fn a_guest_that_stops_again_has_arrived_all_the_same() {
    let (arrived, stopped) = (one("postcopy-destination"), one("postcopy-destination-stopped-again"));
    assert_eq!(stopped.observers[0].role, Role::Destination);
    assert_eq!(stopped.migration, arrived.migration);
    assert_eq!((&stopped.traffic, &stopped.total_time), (&arrived.traffic, &arrived.total_time));
    assert_eq!(stopped.traffic.total.unwrap().tx.payload_bytes, 160 * MIB + 100);
    assert_eq!(arrived.downtime.remarks, [""; 0]);
    let [remark] = &stopped.downtime.remarks[..] else { panic!("{:?}", stopped.downtime.remarks) };
    assert!(remark.starts_with("1.000 ms after it had arrived the guest was stopped again"), "{remark}");
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
fn a_source_is_not_done_before_it_has_heard_the_last_of_the_return_path() {
    let (mut events, _) = common::events("destination-listened-long");
    for event in &mut events {
        if let Fact::FlowCounters(counters) = &mut event.fact
            && counters.closed
        {
            counters.last_byte_ns.tx = Some(MonotonicNs(4_602_605_500_000));
        }
    }
    let total = common::fold(&events).remove(0).total_time.unwrap();
    assert_eq!((total.value_ns, total.low_ns), (1_605 * MS, 1_604_500_000));
}

#[test]
fn the_guest_is_silent_from_the_last_frame_at_any_tap() {
    let records = replay("two-taps");
    for record in &records {
        let network = record.downtime.network.as_ref().unwrap();
        // From 1999.1 ms at vnet0 to 2037.1 ms at vnet1.
        assert_eq!((network.low_ns, network.value_ns, network.high_ns), (38 * MS, 38 * MS, Some(38 * MS)));
    }
    let taps = &of_role(&records, Role::Source).downtime.taps;
    let seen: Vec<_> = taps
        .iter()
        .map(|tap| (tap.interface.as_str(), tap.role, tap.last_frame_ns, tap.first_frame_ns))
        .collect();
    assert_eq!(
        seen,
        [
            ("vnet-idle", Role::Source, Some(199_100_000), None),
            ("vnet0", Role::Source, Some(999_100_000), None),
            ("vnet1", Role::Destination, None, Some(1_037_100_000)),
        ]
    );
}

#[test]
fn an_answer_belongs_to_the_migration_that_ran_when_it_was_given() {
    let records = replay("reply-about-the-second");
    let [cancelled, completed] = &records[..] else { panic!("{} records", records.len()) };
    let claims = |record: &Record| {
        (record.downtime.qemu_reported_ns, record.downtime.budget_ns, record.qemu.stats.is_some())
    };
    assert_eq!(claims(cancelled), (None, None, false));
    assert_eq!(claims(completed), (Some(77 * MS), Some(9_000 * MS), true));
}

#[test]
fn claims_that_cannot_be_true_are_contradictions() {
    let told = one("qemu-claims-more").downtime.contradictions;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("the migration completed") && told[0].contains("it failed"), "{told:?}");
    assert!(told[1].contains("3407172000 B") && told[1].contains("340787712 B"), "{told:?}");
    assert_eq!(one("precopy-7.2").downtime.contradictions, [""; 0], "an honest QEMU contradicts nothing");
}

#[test]
fn a_guest_that_runs_at_the_source_again_is_told_and_ends_no_stop() {
    let record = one("completed-then-resumed-here");
    let [remark] = &record.downtime.remarks[..] else { panic!("{:?}", record.downtime.remarks) };
    assert!(remark.contains("runs at the source again, 100.500 ms after"), "{remark}");
    assert_eq!(record.downtime.stop, None);
}

#[test]
fn a_migration_that_fails_in_its_setup_does_not_stop_the_guest() {
    let record = one("failed-in-setup");
    assert_eq!((record.migration.outcome, record.downtime.stopped), (Outcome::Failed, Some(false)));
    assert!(headline(&record).ends_with("the guest was not stopped"), "{}", headline(&record));
}

#[test]
fn a_qemu_that_did_not_answer_was_asked() {
    let text = report::text::render(&one("qmp-asked-in-vain"));
    assert!(text.contains("QEMU's own figures: asked for, and not given"), "{text}");
    assert!(text.contains("QEMU closed the QMP connection during query-migrate"), "{text}");
}

#[test]
fn what_a_person_does_hours_later_is_no_part_of_the_record() {
    let record = one("resumed-by-hand-later");
    assert_eq!(record.migration.outcome, Outcome::Cancelled);
    assert_eq!((record.downtime.stopped, &record.downtime.marks[..]), (Some(false), &[][..]));
    assert_eq!(record.downtime.remarks, [""; 0]);
}

#[test]
fn only_a_migration_under_way_loses_by_what_is_lost() {
    let records = replay("facts-lost-later");
    let [before, during] = &records[..] else { panic!("{} records", records.len()) };
    assert_eq!((before.lost, during.lost.ring_buffer), (Lost::default(), 5));
    assert!(headline(during).contains("at least") && !headline(before).contains("at least"));
    assert!(!before.not_measured.iter().any(|entry| entry.what == "everything"));
}

#[test]
fn a_stamp_that_no_clock_shows_is_an_error_in_its_line() {
    for (name, line) in [("stamp-out-of-range", 15), ("stamp-out-of-range-in-progress", 12)] {
        let error = common::events(name).1.unwrap();
        assert_eq!(error.line, line);
        assert!(matches!(error.what, LogErrorKind::Corrupt(_)), "{error}");
        assert!(report::text::render(&one(name)).lines().all(|line| !line.contains("-1001")));
    }
}

#[test]
fn a_vcpu_that_was_not_seen_may_have_run_until_qemu_said_stop() {
    let records = replay("one-of-two-vcpus");
    for record in &records {
        let stop = record.downtime.stop.as_ref().unwrap();
        // From STOP at 2000 ms, or the exit of the one vCPU at 1498.6 ms, to the first run at 2036.5 ms (doubtful: 36.45).
        assert_eq!((stop.low_ns, stop.value_ns, stop.high_ns), (36_450_000, 36_500_000, Some(537_900_000)));
        assert!(why(record, "when the last vCPU stopped").contains("not seen to leave KVM"));
        let marks: Vec<_> = record.downtime.marks.iter().map(|mark| &mark.name).collect();
        assert!(!marks.contains(&&MarkName::AllVcpusStopped), "{marks:?}");
    }
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
fn a_pause_by_hand_is_told_as_such_and_is_no_stop() {
    let record = one("paused-by-hand-then-cancelled");
    assert_eq!((record.downtime.stopped, &record.downtime.stop), (Some(false), &None));
    assert!(
        record.phases.iter().any(|p| p.name == PhaseName::Paused && p.end_ns - p.start_ns == 60_000_000_000)
    );
    let [remark] = &record.downtime.remarks[..] else { panic!("{:?}", record.downtime.remarks) };
    assert!(remark.starts_with("2.000 s after the start the guest was paused for 60.000 s"), "{remark}");
}

#[test]
fn a_setup_that_nothing_followed_is_another_attempt() {
    let record = one("setup-twice");
    assert_eq!(record.total_time.as_ref().unwrap().value_ns, 2_100 * MS);
    let [remark] = &record.downtime.remarks[..] else { panic!("{:?}", record.downtime.remarks) };
    assert!(remark.contains("`setup` 599.500 s before"), "{remark}");
}

#[test]
fn an_answer_before_the_last_byte_comes_from_somebody_else() {
    let record = one("answers-before-last-byte");
    let told = &record.downtime.contradictions;
    assert!(told.iter().any(|told| told.contains("28.700 ms before the source had sent")), "{told:?}");
    let stop = record.downtime.stop.as_ref().unwrap();
    assert_eq!((stop.low_ns, stop.high_ns), (49 * MS, None), "such an answer bounds nothing");
}

#[test]
fn a_guest_that_ran_before_qemu_was_first_heard_has_run() {
    // As of a recording that began while the memory was copied.
    let (mut events, _) = common::events("destination-10.0");
    events.retain(|event| match &event.fact {
        Fact::Qmp(qmp) => qmp.data["status"] != "setup" && qmp.data["status"] != "active",
        _ => true,
    });
    let mut timeline = Timeline::new(Selection::default());
    events.iter().for_each(|event| timeline.push(event));
    let ended = timeline.ended().unwrap();
    assert!(!ended.awaits_guest);
    let record = timeline.finish().remove(0);
    assert!(record.downtime.marks.iter().any(|mark| mark.name == MarkName::Resume));
}

#[test]
fn an_id_is_told_once_and_stays_whatever_comes() {
    for name in common::log_names() {
        let (events, _) = common::events(&name);
        let mut timeline = Timeline::new(Selection::default());
        let mut told = Vec::new();
        for event in &events {
            timeline.push(event);
            if matches!(event.fact, Fact::FlowCounters(_)) {
                continue;
            }
            for record in timeline.finish() {
                let id = record.migration.id.clone();
                let key = (record.vm.name, record.observers[0].role, record.start.realtime_ns);
                match told.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, Some(known))) => assert_eq!(Some(&*known), id.as_ref(), "{name}: {event:?}"),
                    Some((_, unknown)) => *unknown = id,
                    None => told.push((key, id)),
                }
            }
        }
    }
}

#[test]
fn both_hosts_derive_the_same_id_whichever_part_they_seem_to_have() {
    let id = |name: &str| one(name).migration.id.unwrap();
    assert_eq!(id("postcopy-destination"), id("destination-10.0"));
    assert_eq!(id("postcopy-destination"), id("precopy-10.0"));
    let records = replay("two-taps");
    assert_eq!(records[0].migration.id, records[1].migration.id);
}

#[test]
fn an_interface_that_vanished_at_another_time_is_none_of_a_migrations() {
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
fn programs_that_somebody_removed_make_a_record_a_lower_bound_only_if_they_were_missing_during_it() {
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
        "seen last 250.000 ms after the start of the migration and were attached again 500.000 ms after";
    assert!(why.contains(expected) && why.ends_with("the bytes are a lower bound"), "{why}");
    for absent in ["before0", "of-another"] {
        assert!(!record.not_measured.iter().any(|entry| entry.what.contains(absent)), "{absent}");
    }
}

/// The place of the end of QEMU in a log.
fn death(events: &[Event]) -> usize {
    events.iter().position(|event| matches!(event.fact, Fact::QemuGone { .. })).unwrap()
}

fn last_phase(record: &Record) -> (&PhaseName, i64) {
    let last = record.phases.last().unwrap();
    (&last.name, last.start_ns)
}

#[test]
fn what_qemu_replied_before_it_died_is_how_the_migration_ended() {
    let (events, _) = common::events("qemu-dies");
    let asked = |status: &str| {
        let mut events = events.clone();
        let reply = json!({ "at_ns": 1_002_350_000_000_u64, "event": "query_migrate", "pid": 4242, "reply": { "status": status } });
        events.insert(death(&events), made(reply));
        inputs::fold(&events).unwrap();
        common::fold(&events).remove(0)
    };
    for (status, outcome, phase) in [
        ("completed", Outcome::Completed, PhaseName::Completed),
        ("cancelled", Outcome::Cancelled, PhaseName::Cancelled),
        ("failed", Outcome::Failed, PhaseName::Failed),
    ] {
        let record = asked(status);
        assert_eq!(record.migration.outcome, outcome);
        // It ended when it was asked, or before, but not before its last packet.
        assert_eq!(last_phase(&record), (&phase, 1_350_000_000));
        let total = record.total_time.as_ref().unwrap();
        assert_eq!((total.value_ns, &total.method), (1_350 * MS, &Method::LastSignOfLife));
        assert_eq!(total.low_ns, 1_222 * MS, "its last packet");
    }
    // It was asked in the middle, and then died.
    let record = asked("active");
    assert_eq!(record.migration.outcome, Outcome::Failed);
    assert_eq!(last_phase(&record), (&PhaseName::Failed, 1_400_000_000));
}

#[test]
fn what_has_the_pid_after_the_end_of_a_process_is_another_one() {
    let (mut events, _) = common::events("qemu-dies");
    let status = |at_ns: u64, status: &str| {
        made(json!({
            "at_ns": at_ns, "event": "qmp", "pid": 4242, "name": "MIGRATION", "data": { "status": status },
            "qemu_realtime_us": 1_800_000_000_000_000_u64 + at_ns / 1_000
        }))
    };
    let end = events.len() - 1;
    let later =
        [(1_002_400_500_000, "setup"), (1_002_400_600_000, "active"), (1_002_400_700_000, "completed")];
    events.splice(end..end, later.map(|(at_ns, what)| status(at_ns, what)));
    inputs::fold(&events).unwrap();
    let records = common::fold(&events);
    let [died, other] = &records[..] else { panic!("{records:#?}") };
    assert_eq!(*died, replay("qemu-dies")[0]);
    assert_eq!((other.migration.outcome, &other.vm.name), (Outcome::Completed, &None));
    assert_eq!(last_phase(other), (&PhaseName::Completed, 200_000));
}

#[test]
fn what_a_process_said_before_its_end_may_be_read_after_it() {
    let (mut events, _) = common::events("qemu-dies");
    let death = death(&events);
    let active = events.iter().position(|event| format!("{event:?}").contains("active")).unwrap();
    let late = events.remove(active);
    events.insert(death, late);
    assert_eq!(common::fold(&events), replay("qemu-dies"));
    // An end that is stamped before the last that was heard is not before it.
    let (mut events, _) = common::events("qemu-dies");
    events[death].at_ns = MonotonicNs(1_001_011_000_000);
    inputs::fold(&events).unwrap();
    let record = common::fold(&events).remove(0);
    assert_eq!(last_phase(&record), (&PhaseName::Failed, 12_000_000));
    assert_eq!(record.total_time.unwrap().value_ns, 12 * MS);
}

#[test]
fn a_status_without_a_word_says_nothing() {
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
fn counters_may_be_read_in_any_order() {
    let mut swapped = 0;
    for name in common::log_names() {
        let (mut events, _) = common::events(&name);
        let expected = common::fold(&events);
        let flow = |(i, event): (usize, &Event)| match &event.fact {
            Fact::FlowCounters(counted) => Some((counted.flow, i)),
            _ => None,
        };
        let mut counted: Vec<_> = events.iter().enumerate().filter_map(flow).collect();
        counted.sort_unstable();
        for pair in counted.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let (earlier, later) = (pair[0].1, pair[1].1);
            // What was counted before the flow was tied is wanted then, and not later.
            if events[earlier..later].iter().any(|event| matches!(event.fact, Fact::FlowOwner { .. })) {
                continue;
            }
            events.swap(earlier, later);
            inputs::fold(&events).unwrap();
            assert_eq!(common::fold(&events), expected, "{name}: {earlier} and {later}");
            events.swap(earlier, later);
            swapped += 1;
        }
    }
    assert!(swapped > 20, "{swapped}");
}
