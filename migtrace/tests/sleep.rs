//! Connections that opened while migtrace slept: what they had carried before they were counted is in every figure.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::{one, payload_tx, why};
use migtrace::record::Record;

/// A migration that was counted from its first packet, and the same that was counted only from 40 ms later on.
fn both() -> (Record, Record) {
    (one("precopy-10.0"), one("opened-during-a-sleep"))
}

#[test]
fn the_bytes_and_times_are_those_of_a_migration_that_was_counted_from_its_first_packet() {
    let (awake, slept) = both();
    let [a, b] = [&awake, &slept].map(|record| record.traffic.total.unwrap());
    for (a, b) in [(a.tx, b.tx), (a.rx, b.rx)] {
        assert_eq!((a.wire_bytes, a.payload_bytes, a.segments), (b.wire_bytes, b.payload_bytes, b.segments));
    }
    let [a, b] = [&awake, &slept].map(|record| &record.traffic.flows[0]);
    assert_eq!((a.first_ns, a.last_ns, a.from_start), (b.first_ns, b.last_ns, b.from_start));
    assert_eq!(a.retransmitted_segments, b.retransmitted_segments);
    assert_eq!(awake.migration, slept.migration);
    assert_eq!(awake.start, slept.start);
    assert_eq!(awake.downtime.stop, slept.downtime.stop);
    let last = |record: &Record| record.traffic.samples.last().copied().unwrap().wire_bytes;
    assert_eq!(last(&awake), last(&slept));
    assert!(!slept.not_measured.iter().any(|entry| entry.what.contains("first bytes")));
}

#[test]
fn the_bytes_of_a_phase_are_the_same_or_unknown() {
    let (awake, slept) = both();
    let known: Vec<_> = slept.phases.iter().map(|phase| phase.traffic.is_some()).collect();
    // The second border lies where nothing was counted yet.
    assert_eq!(known, [false, false, true, true, true, true]);
    for (a, b) in awake.phases.iter().zip(&slept.phases).filter(|(_, b)| b.traffic.is_some()) {
        assert_eq!((a.name.as_str(), payload_tx(a)), (b.name.as_str(), payload_tx(b)));
    }
    assert!(!why(&slept, "the bytes of some phases").is_empty());
}

#[test]
fn where_only_bounds_are_known_the_record_says_so() {
    let (_, exact) = both();
    let bounded = one("opened-during-a-sleep-within-bounds");
    assert_eq!(bounded.traffic.total, exact.traffic.total);
    assert!(!bounded.traffic.flows[0].from_start);
    let why = why(&bounded, "the first bytes of 192.0.2.1:40000");
    assert!(why.contains("4385494 to 4466610 bytes had been sent and 95666 to 136238 received"), "{why}");
}
