//! Whose silence it is that a probe has seen, which of them is the downtime's, and what it bounds; the numbers follow from
//! the logs' own stamps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::{made, one, replay, why};
use migtrace::event::{EchoGap, Event, Fact};
use migtrace::record::{Method, Record};
use migtrace::report;
use migtrace::units::MonotonicNs;
use serde_json::{Value, json};

const MS: u64 = 1_000_000;

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

/// A silence that may have been, of a guest that was asked each millisecond and answers within 400 µs; so many requests
/// were answered in time.
fn calm_doubt(stamps: [u64; 6], prompt: u64) -> Event {
    echo_gap(
        stamps,
        json!({
            "round_trip_before_ns": 400_000,
            "round_trip_after_ns": 400_000,
            "requests": (stamps[4] - stamps[0]) / MS,
            "prompt": prompt,
            "may_be": true,
            "shortest_round_trip_ns": 200_000,
            "longest_interval_ns": 1_200_000,
        }),
    )
}

/// Of the 164 requests that were lost in all, so many were lost to gaps: all others may have been lost in one go.
#[track_caller]
fn assert_known_from_lost_requests_alone(record: &Record, lost_to_gaps: u64) {
    let reachability = record.downtime.reachability.as_ref().unwrap();
    assert_eq!(reachability.method, Method::LostRequests);
    assert_eq!(reachability.low_ns, 0);
    assert_eq!(reachability.high_ns, Some((165 - lost_to_gaps) * 1_203_411 + 611_034));
}

/// From the last reply before STOP to the first after RESUME.
const AROUND_THE_STOP: [u64; 6] = [
    1_001_999_100_000,
    1_001_999_400_000,
    1_002_000_100_000,
    1_002_035_100_000,
    1_002_036_100_000,
    1_002_036_400_000,
];

#[test]
fn a_silence_that_may_have_been_and_ended_while_the_guest_was_stopped_is_not_the_downtime() {
    // It holds STOP, and a reply to what was asked after it came while the guest was still stopped, for 36 ms in all:
    // whoever answered, the guest did not.
    let mut events = both_ends_probed();
    let [asked, replied, waiting, ..] = AROUND_THE_STOP;
    let ended = [1_002_003_100_000, 1_002_004_100_000, 1_002_004_400_000];
    insert(&mut events, calm_doubt([asked, replied, waiting, ended[0], ended[1], ended[2]], 1));
    for record in common::fold(&events) {
        assert_eq!(record.gaps.len(), 1);
        assert_known_from_lost_requests_alone(&record, 4);
    }
}

#[test]
fn a_silence_that_nothing_speaks_for_is_not_the_downtime() {
    // All that were passed over were answered in time after all.
    let mut events = both_ends_probed();
    insert(&mut events, calm_doubt(AROUND_THE_STOP, 37));
    for record in common::fold(&events) {
        assert_eq!(record.gaps, []);
        assert_known_from_lost_requests_alone(&record, 0);
    }
}

#[test]
fn a_sure_gap_is_the_downtime_though_a_longer_silence_may_have_been() {
    let mut events = both_ends_probed();
    insert(&mut events, calm_gap(AROUND_THE_STOP));
    let longer = AROUND_THE_STOP.map(|at| at - 10 * MS);
    let [.., last, resuming, resumed] = AROUND_THE_STOP.map(|at| at + 10 * MS);
    insert(&mut events, calm_doubt([longer[0], longer[1], longer[2], last, resuming, resumed], 1));
    for record in common::fold(&events) {
        assert_eq!(record.gaps.len(), 2);
        let reachability = record.downtime.reachability.as_ref().unwrap();
        // From the first request that waited, less a round trip, to the last one; and from the last answered request to the
        // reply.
        assert_eq!((reachability.low_ns, reachability.high_ns), (35_000_000 - 400_000, Some(37_300_000)));
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
