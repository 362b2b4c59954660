use std::time::Duration;

use tokio::time::Instant;

use super::carried::carried;
use super::readings::Readings;
use crate::event::CarriedBefore;
use crate::host::sockets::{OneWay, SocketCounts};
use crate::kernel::Opened;
use crate::units::{Counters, Directions, MonotonicNs};

const HEADERS: u64 = 66;

fn opened(by_this_host: bool) -> Opened {
    Opened {
        flow: crate::units::Flow {
            local: "192.0.2.1:40000".parse().unwrap(),
            remote: "192.0.2.2:49152".parse().unwrap(),
        },
        at_ns: MonotonicNs(1000),
        opened_ns: MonotonicNs(2000),
        by_this_host,
        initial_sequences: Directions { tx: 1, rx: 2 },
        first_payload: None,
    }
}

fn counts(sent: OneWay, received: OneWay) -> SocketCounts {
    SocketCounts {
        ways: Directions { tx: sent, rx: received },
        retransmitted: OneWay::default(),
        receive_mss: 1448,
        has_usual_options: true,
        is_troubled: Directions::default(),
    }
}

const fn way(segments: u64, payload_bytes: u64) -> OneWay {
    OneWay { segments, payload_bytes }
}

const fn counted(segments: u64, payload_bytes: u64) -> Counters {
    Counters { wire_bytes: payload_bytes + segments * HEADERS, payload_bytes, segments, skbs: 1 }
}

/// Readings of a connection that this host has opened, so many milliseconds apart: what the socket has sent, and what was counted of
/// that before and after. Nothing comes back but 10 segments.
fn sends(every_ms: u64, readings: &[(OneWay, Counters, Counters)]) -> Readings {
    let mut all = Readings::new(true);
    let start = Instant::now();
    for (number, (socket, before, after)) in readings.iter().enumerate() {
        let at = start + Duration::from_millis(every_ms) * u32::try_from(number).unwrap();
        all.first.get_or_insert(counts(*socket, way(10, 0)));
        all.tx.look_at(*after, false);
        all.rx.look_at(counted(4, 0), false);
        all.tx.take(true, *socket, *before, *after, at);
        all.rx.take(false, way(10, 0), counted(4, 0), counted(4, 0), at);
    }
    all
}

fn of(readings: &Readings) -> CarriedBefore {
    carried(&opened(readings.by_this_host), readings).expect("there is a reading")
}

#[test]
fn what_is_still_on_its_way_makes_a_reading_wrong_but_not_the_result() {
    // At the second reading, a segment has left the socket and was not counted yet.
    let readings = sends(
        100,
        &[
            (way(150, 145_000), counted(50, 50_000), counted(50, 50_000)),
            (way(161, 156_000), counted(60, 60_000), counted(60, 60_000)),
            (way(170, 165_000), counted(70, 70_000), counted(70, 70_000)),
            (way(180, 175_000), counted(80, 80_000), counted(80, 80_000)),
        ],
    );
    assert!(readings.are_exact());
    let known = of(&readings);
    assert_eq!(known.at_most, None);
    // The SYN is eight bytes longer.
    let tx =
        Counters { wire_bytes: 95_000 + 100 * HEADERS + 8, payload_bytes: 95_000, segments: 100, skbs: 0 };
    assert_eq!(known.counters.tx, tx);
    assert_eq!(known.began_ns, MonotonicNs(1000));
}

#[test]
fn a_single_reading_is_trusted_only_if_nothing_had_moved_before() {
    let quiet = (way(150, 145_000), counted(50, 50_000), counted(50, 50_000));
    assert!(!sends(0, &[quiet]).are_exact());
    assert!(!sends(0, &[quiet, quiet, quiet, quiet]).are_exact(), "all at once");
    assert!(sends(5, &[quiet, quiet]).are_exact());
}

#[test]
fn while_packets_cross_bounds_are_known() {
    let known = of(&sends(100, &[(way(150, 145_000), counted(50, 50_000), counted(53, 53_000))]));
    let most = known.at_most.expect("it is not exact");
    assert_eq!((known.counters.tx.segments, most.tx.segments), (97, 100));
    assert_eq!((known.counters.tx.payload_bytes, most.tx.payload_bytes), (92_000, 95_000));
    assert!(known.counters.tx.wire_bytes < most.tx.wire_bytes);
}

#[test]
fn losses_make_it_known_within_bounds_that_hold() {
    let still = (way(150, 145_000), counted(50, 50_000), counted(50, 50_000));
    let mut readings = sends(100, &[still, still]);
    let exact = of(&readings);
    let first = readings.first.as_mut().expect("there is one");
    first.is_troubled = Directions { tx: true, rx: false };
    let known = of(&readings);
    let most = known.at_most.expect("acknowledgements may have had options");
    assert_eq!(known.counters, exact.counters);
    assert_eq!(most.tx, exact.counters.tx, "what was sent again is in the socket's count");
    assert_eq!(most.rx.wire_bytes - known.counters.rx.wire_bytes, 6 * 28);

    readings.first.as_mut().expect("there is one").is_troubled = Directions { tx: false, rx: true };
    let most = of(&readings).at_most.expect("segments may have come twice");
    assert_eq!(most.rx.payload_bytes, 6 * 1448);
    assert_eq!(most.tx.wire_bytes - exact.counters.tx.wire_bytes, 100 * 28);
}

#[test]
fn a_socket_that_was_connected_to_does_not_count_its_own_syn() {
    let mut readings = sends(5, &[(way(1, 0), counted(1, 0), counted(1, 0)); 2]);
    readings.by_this_host = false;
    let known = of(&readings);
    assert_eq!(known.counters.tx.segments, 1);
    assert_eq!(known.counters.tx.wire_bytes, HEADERS + 8);
    // One whose answer was counted is not missing.
    let mut more = sends(5, &[(way(1, 0), counted(2, 0), counted(2, 0)); 2]);
    more.by_this_host = false;
    more.opening_counted = Directions { tx: true, rx: false };
    assert_eq!(of(&more).counters.tx, Counters::default());
}
