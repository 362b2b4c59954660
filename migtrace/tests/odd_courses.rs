//! Odd but possible courses of events, and what their records must say; the numbers follow from the logs' own stamps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::{made, replay};
use migtrace::event::{EchoGap, EndReason, Event, Fact, LogErrorKind, Lost};
use migtrace::invariants::inputs;
use migtrace::record::{MarkName, Method, Outcome, PhaseName, Record, Role};
use migtrace::report;
use migtrace::selection::Selection;
use migtrace::timeline::Timeline;
use migtrace::units::MonotonicNs;
use serde_json::{Value, json};

const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;

fn one(name: &str) -> Record {
    let mut records = replay(name);
    assert_eq!(records.len(), 1, "{name}");
    records.remove(0)
}

fn of_role(records: &[Record], role: Role) -> &Record {
    records.iter().find(|record| record.observers[0].role == role).unwrap()
}

fn why<'a>(record: &'a Record, what: &str) -> &'a str {
    let entry = record.not_measured.iter().find(|entry| entry.what.contains(what));
    &entry.unwrap_or_else(|| panic!("nothing about {what:?} in {:#?}", record.not_measured)).why
}

fn headline(record: &Record) -> String {
    report::text::render(record).lines().next().unwrap().to_owned()
}

#[test]
fn a_probe_is_of_the_vm_that_has_the_address_and_of_no_other() {
    let records = replay("probe-of-another-vm");
    let [web, db] = &records[..] else { panic!("{} records", records.len()) };
    // From the last reply before, 200 µs after it was asked, to the first after; each end to within a request.
    let reachability = web.downtime.reachability.as_ref().unwrap();
    assert_eq!((reachability.low_ns, reachability.high_ns), (598_350_000, Some(601_000_000)));
    assert_eq!((web.gaps.len(), web.echo.as_ref().unwrap().lost), (1, 400));
    assert_eq!((&db.gaps[..], &db.echo, &db.downtime.reachability), (&[][..], &None, &None));
    assert_eq!(db.downtime.stop, None, "a gap of another VM bounds nothing");
    assert!(why(db, "reachability").contains("192.0.2.50, which another VM has"));

    // The log of today says whose the address is.
    let (mut events, _) = common::events("probe-of-another-vm");
    let owner = r#"{"at_ns": 1000001200000, "event": "echo_owner", "pid": 5151, "method": "mac"}"#;
    events.insert(5, serde_json::from_str(owner).unwrap());
    let records = common::fold(&events);
    assert!(records[0].echo.is_none() && records[1].echo.is_some());
}

fn owner(pid: u32, method: &str) -> Event {
    let json =
        format!(r#"{{"at_ns": 1000001300000, "event": "echo_owner", "pid": {pid}, "method": "{method}"}}"#);
    serde_json::from_str(&json).unwrap()
}

/// The record of `db-1`, which migrates alone, with other owners of the probed address than its log tells.
fn record_of_db(owners: &[Event], change: impl FnOnce(&mut Vec<Event>)) -> Record {
    let (mut events, _) = common::events("probe-of-a-vm-that-stays");
    events.retain(|event| !matches!(event.fact, Fact::EchoOwner { .. }));
    events.splice(5..5, owners.iter().cloned());
    change(&mut events);
    let mut records = common::fold(&events);
    assert_eq!(records.len(), 1);
    records.remove(0)
}

fn assert_not_asked(record: &Record, because: &str) {
    assert_eq!((&record.gaps[..], &record.echo, &record.downtime.reachability), (&[][..], &None, &None));
    assert_eq!(record.downtime.stop.as_ref().and_then(|stop| stop.high_ns), None, "no reply bounds it");
    assert!(why(record, "reachability").contains(because), "{}", why(record, "reachability"));
}

#[test]
fn a_probe_of_a_vm_that_stays_tells_nothing_of_the_one_that_migrates() {
    assert_not_asked(&one("probe-of-a-vm-that-stays"), "192.0.2.50, which another VM has");
    let as_it_is = |_: &mut Vec<Event>| {};
    // Nobody says whose the address is, and there are two VMs.
    let doubtful = "it is not known which of them has the address 192.0.2.50";
    assert_not_asked(&record_of_db(&[], as_it_is), doubtful);
    // The network's word is worth more than that of the person who named a VM.
    let contradicting = [owner(5151, "selected"), owner(4242, "mac")];
    assert_not_asked(&record_of_db(&contradicting, as_it_is), "which another VM has");

    // The address is that of the VM that migrates.
    for method in ["mac", "selected"] {
        let record = record_of_db(&[owner(5151, method)], as_it_is);
        // It answered the request at 399 ms and not the next, which took 400 µs at most; the one at 419 ms it answered.
        let gap = &record.gaps[0];
        assert_eq!((gap.start.low_ns, gap.start.high_ns), (399_000_000, 400_400_000));
        assert_eq!((gap.length.low_ns, gap.length.high_ns), (17_600_000, Some(20_300_000)));
        assert_eq!(record.echo.as_ref().unwrap().lost, 19);
    }
}

#[test]
fn a_vm_that_stopped_as_the_address_fell_silent_has_it() {
    let fall_silent_at_the_stop = |gap: &mut EchoGap| {
        let around_stop = |at: i64| MonotonicNs((1_002_200_000_000 + at) as u64);
        gap.answered_request_ns = around_stop(-500_000);
        gap.last_reply_ns = around_stop(-250_000);
        gap.first_waiting_ns = around_stop(500_000);
        gap.before_resumed_ns = around_stop(40_000_000);
        gap.resuming_request_ns = around_stop(41_000_000);
        gap.resumed_ns = around_stop(41_250_000);
    };
    let record = record_of_db(&[], |events| {
        for event in events {
            if let Fact::EchoGap(gap) = &mut event.fact {
                fall_silent_at_the_stop(gap);
            }
        }
    });
    let reachability = record.downtime.reachability.as_ref().unwrap();
    assert_eq!((reachability.low_ns, reachability.high_ns), (39_100_000, Some(41_750_000)));

    // As much holds when it has not answered again.
    let record = record_of_db(&[], |events| {
        let gap = events.iter().position(|event| matches!(event.fact, Fact::EchoGap(_))).unwrap();
        let Fact::EchoGap(mut gap) = events.remove(gap).fact else { unreachable!() };
        fall_silent_at_the_stop(&mut gap);
        for event in events {
            if let Fact::EchoEnd(end) = &mut event.fact {
                end.open = Some(gap);
            }
        }
    });
    let reachability = record.downtime.reachability.as_ref().unwrap();
    assert_eq!((reachability.low_ns, reachability.high_ns), (39_100_000, None));
    assert_eq!(reachability.method, Method::Open);
}

#[test]
fn without_a_gap_the_guest_was_silent_for_an_interval_and_a_round_trip_at_most() {
    let record = one("probed-without-a-gap");
    let reachability = record.downtime.reachability.as_ref().unwrap();
    assert_eq!((reachability.value_ns, reachability.low_ns), (0, 0));
    assert_eq!(reachability.high_ns, Some(1_203_411 + 611_034));
    assert_eq!(reachability.method, Method::NoGap);
    assert_eq!(record.downtime.tail, None, "it contradicts the stop, and so nothing is left over");
}

#[test]
fn requests_that_were_lost_outside_of_all_gaps_were_lost_one_after_the_other_at_worst() {
    let record = one("requests-lost-without-a-gap");
    let reachability = record.downtime.reachability.as_ref().unwrap();
    // By both QEMUs' own stamps the guest stopped for 11.7 ms.
    assert!((reachability.low_ns..=reachability.high_ns.unwrap()).contains(&11_700_000));
    assert_eq!((reachability.low_ns, reachability.value_ns), (0, 26 * 515_966));
    assert_eq!(reachability.high_ns, Some(27 * 3_547_470 + 24_135_689));
    assert_eq!(reachability.method, Method::LostRequests);
}

/// A gap with the stamps of `EchoGap` from `answered_request_ns` to `resumed_ns`, told when it had ended, and what else
/// is known of it.
fn echo_gap(stamps: [u64; 6], rest: Value) -> Event {
    let mut gap = json!({
        "at_ns": stamps[5],
        "event": "echo_gap",
        "answered_request_ns": stamps[0],
        "last_reply_ns": stamps[1],
        "first_waiting_ns": stamps[2],
        "before_resumed_ns": stamps[3],
        "resuming_request_ns": stamps[4],
        "resumed_ns": stamps[5],
        "overtaken": 0,
        "waited": 0,
        "prompt": 1,
        "duplicate": 0,
    });
    let Value::Object(rest) = rest else { panic!("{rest}") };
    gap.as_object_mut().unwrap().extend(rest);
    made(gap)
}

/// Puts an event where its stamp belongs.
fn insert(events: &mut Vec<Event>, event: Event) {
    let later = events.iter().position(|other| other.at_ns > event.at_ns).unwrap_or(events.len());
    events.insert(later, event);
}

/// Both ends of a migration, whose guest was asked as that of `probed` was.
fn both_ends_probed() -> Vec<Event> {
    let (mut events, _) = common::events("both-ends");
    let asking = |event: &Event| matches!(event.fact, Fact::EchoStart(_) | Fact::EchoEnd(_));
    let asked = common::events("probed").0.into_iter().filter(asking);
    asked.for_each(|event| insert(&mut events, event));
    events
}

/// The lost requests of `requests-lost-without-a-gap` as the kernel tells of them, with these stamps.
fn with_a_silence_that_may_have_been(stamps: [u64; 6]) -> Record {
    let (mut events, _) = common::events("requests-lost-without-a-gap");
    let silence = echo_gap(
        stamps,
        json!({
            "round_trip_before_ns": 24_135_689,
            "round_trip_after_ns": 24_135_689,
            "requests": 27,
            "worst_round_trip_ns": 24_135_689,
            "may_be": true,
            "shortest_round_trip_ns": 120_000,
            "longest_interval_ns": 3_547_470,
        }),
    );
    insert(&mut events, Event { at_ns: MonotonicNs(6_635_486_400_000), ..silence });
    common::fold(&events).remove(0)
}

/// A gap of a guest that was asked each millisecond and answers within 400 µs.
fn calm_gap(stamps: [u64; 6]) -> Event {
    let requests = (stamps[4] - stamps[0]) / MS;
    echo_gap(
        stamps,
        json!({ "round_trip_before_ns": 400_000, "round_trip_after_ns": 400_000, "requests": requests }),
    )
}

#[test]
fn a_gap_that_the_guest_ended_before_it_stopped_is_not_the_downtime() {
    // The guest had been slow for 140 ms when it stopped, longer than the 82 ms of its absence. Its last reply left QEMU
    // just after the stop.
    let (mut events, _) = common::events("probed");
    let before = [
        1_004_060_000_000,
        1_004_060_300_000,
        1_004_061_000_000,
        1_004_198_400_000,
        1_004_199_400_000,
        1_004_200_600_000,
    ];
    insert(&mut events, calm_gap(before));
    let record = common::fold(&events).remove(0);
    let asked = one("probed");
    assert_eq!(record.gaps.len(), asked.gaps.len() + 1);
    assert_eq!(record.downtime.contradictions, Vec::<String>::new());
    assert_eq!(record.downtime.reachability, asked.downtime.reachability);
    assert_eq!(record.downtime.stop, asked.downtime.stop);
    let slow = &record.downtime.brownout.as_ref().unwrap().before;
    assert_eq!(slow.longest_gap.as_ref().unwrap().high_ns, Some(140_600_000), "it lies before the downtime");
}

#[test]
fn a_gap_that_began_when_the_guest_ran_again_is_not_the_downtime() {
    // From STOP to RESUME are 36 ms. The first reply after them was to a request that was asked in between; then the
    // network lost the guest for 110 ms.
    let mut events = both_ends_probed();
    let downtime = [
        1_001_999_100_000,
        1_001_999_400_000,
        1_002_000_100_000,
        1_002_034_700_000,
        1_002_035_700_000,
        1_002_036_200_000,
    ];
    let after = [
        1_002_035_700_000,
        1_002_036_200_000,
        1_002_036_700_000,
        1_002_145_700_000,
        1_002_146_700_000,
        1_002_147_000_000,
    ];
    insert(&mut events, calm_gap(downtime));
    insert(&mut events, calm_gap(after));
    let records = common::fold(&events);
    for record in &records {
        let reachability = record.downtime.reachability.as_ref().unwrap();
        assert_eq!(reachability.high_ns, Some(37_100_000));
        let lost = &record.downtime.brownout.as_ref().unwrap().after;
        assert_eq!(lost.longest_gap.as_ref().unwrap().high_ns, Some(111_300_000), "it lies after it");
    }
}

#[test]
fn a_silence_that_may_have_been_is_told_from_nothing_to_what_its_requests_allow() {
    // The last answered request was sent 493 µs before STOP, and the one that passed over the others 13 ms after it.
    let record = with_a_silence_that_may_have_been([
        6_635_448_412_000,
        6_635_448_601_000,
        6_635_448_912_000,
        6_635_461_412_000,
        6_635_461_928_000,
        6_635_462_240_000,
    ]);
    let reachability = record.downtime.reachability.as_ref().unwrap();
    assert_eq!(reachability.method, Method::OvertakenRequests);
    // From halfway to the first that was passed over, to halfway from the last one.
    assert_eq!((reachability.low_ns, reachability.value_ns), (0, 13_008_000));
    // From the last answered request to the reply that passed over the others. By both QEMUs' own stamps the guest stopped
    // for 11.7 ms.
    assert_eq!(reachability.high_ns, Some(13_828_000));
    let may_be: Vec<_> = record.gaps.iter().filter(|gap| !gap.is_sure()).collect();
    let [gap] = &may_be[..] else { panic!("{may_be:#?}") };
    assert_eq!((gap.lost, gap.late), (26, 0));
    // It lies around the stop, so that was no longer.
    assert_eq!(record.downtime.stop.as_ref().unwrap().high_ns, Some(13_828_000));
    let text = report::text::render(&record);
    let listed = text.lines().skip_while(|line| !line.starts_with("Silences that may have been")).nth(2);
    assert!(listed.is_some_and(|line| line.contains("13.0 ms (0 ns to 13.8 ms)")), "{text}");
}

#[test]
fn a_silence_that_may_lie_beside_the_stop_bounds_no_more_than_without_it() {
    // The request that passed over the others was sent before STOP, and may have been answered before it. Then nothing was
    // lost in the stop.
    let record = with_a_silence_that_may_have_been([
        6_635_440_000_000,
        6_635_440_200_000,
        6_635_440_500_000,
        6_635_448_000_000,
        6_635_448_400_000,
        6_635_462_000_000,
    ]);
    let reachability = record.downtime.reachability.as_ref().unwrap();
    assert_eq!(reachability.method, Method::OvertakenRequests);
    assert_eq!((reachability.low_ns, reachability.high_ns), (0, Some(3_547_470 + 24_135_689)));
    assert_eq!(record.downtime.stop.as_ref().unwrap().high_ns, None);
}

#[test]
fn a_silence_that_may_have_been_and_ended_while_the_guest_was_stopped_is_not_the_downtime() {
    // It holds STOP, and a reply to what was asked after it came while the guest was still stopped, for 36 ms in all:
    // whoever answered, the guest did not.
    let mut events = both_ends_probed();
    let silence = echo_gap(
        [
            1_001_999_100_000,
            1_001_999_400_000,
            1_002_000_100_000,
            1_002_003_100_000,
            1_002_004_100_000,
            1_002_004_400_000,
        ],
        json!({
            "round_trip_before_ns": 400_000,
            "round_trip_after_ns": 400_000,
            "requests": 5,
            "may_be": true,
            "shortest_round_trip_ns": 200_000,
            "longest_interval_ns": 1_200_000,
        }),
    );
    insert(&mut events, silence);
    for record in common::fold(&events) {
        assert_eq!(record.gaps.len(), 1);
        let reachability = record.downtime.reachability.as_ref().unwrap();
        assert!((reachability.low_ns..=reachability.high_ns.unwrap()).contains(&36_000_000));
        // Of the 164 requests that were lost in all, 4 were lost to the silence that may have been.
        assert_eq!(reachability.method, Method::LostRequests);
        assert_eq!(reachability.high_ns, Some(161 * 1_203_411 + 611_034));
    }
}

#[test]
fn what_the_guest_suffers_later_belongs_to_the_time_after_the_downtime_too() {
    let record = one("probed");
    let after = &record.downtime.brownout.as_ref().unwrap().after;
    // Sixteen seconds later: a gap, with a slow reply before it.
    assert_eq!(record.gaps.len(), 2, "it is none of the migration's gaps");
    assert_eq!(after.worst_round_trip_ns, Some(611_034));
    assert_eq!(after.longest_gap.as_ref().unwrap().high_ns, Some(1_020_282_350_000 - 1_020_199_100_000));
}

#[test]
fn a_probe_that_began_after_the_stop_tells_nothing_of_it() {
    let (mut events, _) = common::events("probed-without-a-gap");
    for event in &mut events {
        if let Fact::EchoStart(_) = event.fact {
            event.at_ns = MonotonicNs(1_004_300_000_000);
        }
    }
    let record = common::fold(&events).remove(0);
    assert_eq!(record.downtime.reachability, None);
    assert!(why(&record, "reachability").contains("do not cover the time"));
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
