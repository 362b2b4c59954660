//! Which gap of a probe is the downtime's, and what it bounds. The figures follow from the logs' own stamps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::{made, one, why};
use migtrace::event::{Event, Fact};
use migtrace::record::{Method, Record};
use migtrace::report;
use migtrace::units::MonotonicNs;
use serde_json::{Value, json};

const MS: u64 = 1_000_000;

#[test]
fn without_a_gap_the_guest_was_silent_for_at_most_an_interval_and_a_round_trip() {
    let record = one("probed-without-a-gap");
    let reachability = record.downtime.reachability.as_ref().unwrap();
    assert_eq!((reachability.value_ns, reachability.low_ns), (0, 0));
    assert_eq!(reachability.high_ns, Some(1_203_411 + 611_034));
    assert_eq!(reachability.method, Method::NoGap);
    assert_eq!(record.downtime.tail, None, "it contradicts the stop, and so nothing is left over");
}

#[test]
fn requests_lost_outside_of_all_gaps_may_have_been_lost_in_a_row() {
    let record = one("requests-lost-without-a-gap");
    let reachability = record.downtime.reachability.as_ref().unwrap();
    // By both QEMUs' own stamps the guest stopped for 11.7 ms.
    assert!((reachability.low_ns..=reachability.high_ns.unwrap()).contains(&11_700_000));
    assert_eq!((reachability.low_ns, reachability.value_ns), (0, 26 * 515_966));
    assert_eq!(reachability.high_ns, Some(27 * 3_547_470 + 24_135_689));
    assert_eq!(reachability.method, Method::LostRequests);
}

/// A gap with the stamps of `EchoGap` from `answered_request_ns` to `resumed_ns`, reported when it had ended, and its other
/// fields.
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

/// Both ends of a migration, whose guest was pinged as that of `probed` was.
fn both_ends_probed() -> Vec<Event> {
    let (mut events, _) = common::events("both-ends");
    let is_of_probe = |event: &Event| matches!(event.fact, Fact::EchoStart(_) | Fact::EchoEnd(_));
    let of_probe = common::events("probed").0.into_iter().filter(is_of_probe);
    of_probe.for_each(|event| insert(&mut events, event));
    events
}

/// The lost requests of `requests-lost-without-a-gap` as the kernel reports them, with these stamps.
fn with_a_possible_gap(stamps: [u64; 6]) -> Record {
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

/// A gap of a guest that was pinged each millisecond and answers within 400 µs.
fn calm_gap(stamps: [u64; 6]) -> Event {
    let requests = (stamps[4] - stamps[0]) / MS;
    echo_gap(
        stamps,
        json!({ "round_trip_before_ns": 400_000, "round_trip_after_ns": 400_000, "requests": requests }),
    )
}

#[test]
fn a_gap_that_ended_before_the_guest_stopped_is_not_the_downtime() {
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
    let probed = one("probed");
    assert_eq!(record.gaps.len(), probed.gaps.len() + 1);
    assert_eq!(record.downtime.contradictions, Vec::<String>::new());
    assert_eq!(record.downtime.reachability, probed.downtime.reachability);
    assert_eq!(record.downtime.stop, probed.downtime.stop);
    let slow = &record.downtime.brownout.as_ref().unwrap().before;
    assert_eq!(slow.longest_gap.as_ref().unwrap().high_ns, Some(140_600_000), "it lies before the downtime");
}

#[test]
fn a_gap_that_began_when_the_guest_ran_again_is_not_the_downtime() {
    // From STOP to RESUME are 36 ms. The first reply after them was to a request that was sent in between; then the
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
fn a_possible_gap_around_the_stop_is_bounded_by_zero_and_by_its_requests() {
    // The last answered request was sent 493 µs before STOP, and the one that passed over the others 13 ms after it.
    let record = with_a_possible_gap([
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
    let listed = text.lines().skip_while(|line| !line.starts_with("Possible gaps")).nth(2);
    assert!(listed.is_some_and(|line| line.contains("13.0 ms (0 to 13.8 ms)")), "{text}");
}

#[test]
fn a_possible_gap_that_may_lie_beside_the_stop_does_not_bound_it() {
    // The request that passed over the others was sent before STOP, and may have been answered before it. Then nothing was
    // lost in the stop.
    let record = with_a_possible_gap([
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

/// A possible gap of a guest that was pinged each millisecond and answers within 400 µs; `prompt` of its requests were
/// answered in time.
fn calm_possible_gap(stamps: [u64; 6], prompt: u64) -> Event {
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
fn a_possible_gap_that_ended_during_the_stop_is_not_the_downtime() {
    // It holds STOP. But a later request was answered while the guest was still stopped, as it was for 36 ms: whoever
    // answered, it was not the guest.
    let mut events = both_ends_probed();
    let [answered, replied, waiting, ..] = AROUND_THE_STOP;
    let ended = [1_002_003_100_000, 1_002_004_100_000, 1_002_004_400_000];
    insert(&mut events, calm_possible_gap([answered, replied, waiting, ended[0], ended[1], ended[2]], 1));
    for record in common::fold(&events) {
        assert_eq!(record.gaps.len(), 1);
        assert_known_from_lost_requests_alone(&record, 4);
    }
}

#[test]
fn an_implausible_gap_is_not_the_downtime() {
    // All that were passed over were answered in time after all.
    let mut events = both_ends_probed();
    insert(&mut events, calm_possible_gap(AROUND_THE_STOP, 37));
    for record in common::fold(&events) {
        assert_eq!(record.gaps, []);
        assert_known_from_lost_requests_alone(&record, 0);
    }
}

#[test]
fn a_certain_gap_is_the_downtime_even_if_a_possible_gap_is_longer() {
    let mut events = both_ends_probed();
    insert(&mut events, calm_gap(AROUND_THE_STOP));
    let longer = AROUND_THE_STOP.map(|at| at - 10 * MS);
    let [.., last, resuming, resumed] = AROUND_THE_STOP.map(|at| at + 10 * MS);
    insert(&mut events, calm_possible_gap([longer[0], longer[1], longer[2], last, resuming, resumed], 1));
    for record in common::fold(&events) {
        assert_eq!(record.gaps.len(), 2);
        let reachability = record.downtime.reachability.as_ref().unwrap();
        // From the first request that waited, less a round trip, to the last one; and from the last answered request to the
        // reply.
        assert_eq!((reachability.low_ns, reachability.high_ns), (35_000_000 - 400_000, Some(37_300_000)));
    }
}

#[test]
fn the_brownout_after_the_downtime_lasts_until_the_probing_ends() {
    let record = one("probed");
    let after = &record.downtime.brownout.as_ref().unwrap().after;
    // Sixteen seconds later: a gap, with a slow reply before it.
    assert_eq!(record.gaps.len(), 2, "it is none of the migration's gaps");
    assert_eq!(after.worst_round_trip_ns, Some(611_034));
    assert_eq!(after.longest_gap.as_ref().unwrap().high_ns, Some(1_020_282_350_000 - 1_020_199_100_000));
}

#[test]
fn a_probe_that_began_after_the_stop_says_nothing_about_it() {
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
