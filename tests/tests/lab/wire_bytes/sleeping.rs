//! Connections that open while migtrace sleeps: what they carry before it is awake is counted, too.

use super::{WireCounts, captured, comparable, connect, counted, ends, network_of_frames};
use crate::support::event_log::{EventLog, FlowRecording};
use crate::support::sleeping::counts_packets;
use crate::support::{MIB, MIGRATION_PORT, PATIENCE, one_at_a_time};
use migtrace::units::Directions;
use migtrace_lab::{Capture, Host, Lab, Wiretap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A port that is not watched.
const OTHER_PORT: u16 = 7000;

/// A recording that has fallen asleep.
fn asleep(host: &Host) -> FlowRecording {
    let recording = FlowRecording::start(host, &["--sleep-after", "100ms"]);
    let started = Instant::now();
    while counts_packets(host, recording.pid()) {
        assert!(started.elapsed() < PATIENCE, "it does not fall asleep");
        std::thread::sleep(Duration::from_millis(20));
    }
    recording
}

fn sum(a: WireCounts, b: WireCounts) -> WireCounts {
    WireCounts {
        wire_bytes: a.wire_bytes + b.wire_bytes,
        payload_bytes: a.payload_bytes + b.payload_bytes,
        segments: a.segments + b.segments,
    }
}

/// Checks that what was counted and what had crossed before are together what a packet socket has seen. Returns whether anything
/// had crossed before.
fn assert_all_counted(log: &EventLog, capture: &Capture, ends: (SocketAddr, SocketAddr)) -> bool {
    let counted = comparable(counted(log, ends));
    let Some(before) = log.carried_before(ends.0) else {
        assert_eq!(counted, comparable(captured(capture, ends)));
        assert!(log.is_from_start(ends.0));
        return false;
    };
    assert_eq!(before.at_most, None, "{before:?}");
    assert!(!log.is_from_start(ends.0));
    let before = comparable(before.counters);
    let all = Directions { tx: sum(before.tx, counted.tx), rx: sum(before.rx, counted.rx) };
    assert_eq!(all, comparable(captured(capture, ends)), "left: counted by migtrace, right: on the wire");
    true
}

/// Sends at once when a connection opens, and compares the counts of both ends with those of a packet socket.
pub(crate) fn assert_exact_after_waking(ipv6: bool) {
    let _lock = one_at_a_time();
    let lab = network_of_frames(Lab::builder());
    // So that the first packet need not wait until the hosts know each other's MACs.
    connect(&lab, ipv6, OTHER_PORT).close().unwrap();
    let recordings = [lab.source(), lab.destination()].map(asleep);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    let connection = connect(&lab, ipv6, MIGRATION_PORT);
    let (local, remote) = ends(&connection);
    // Slowly, so that nothing is lost: the bytes of that are known within bounds.
    for _ in 0..30 {
        connection.send(20_000, 5_000).unwrap();
        connection.send_back(100, 100).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(500));
    connection.send(20 * MIB, 64 << 10).unwrap();
    connection.close().unwrap();
    let capture = tap.stop().unwrap();
    let [source, destination] = recordings.map(FlowRecording::stop);
    assert!(assert_all_counted(&source, &capture, (local, remote)), "it was awake before the first packet");
    // It was woken up by the listener.
    assert_all_counted(&destination, &capture, (remote, local));
}

#[test]
fn every_byte_of_an_ipv4_connection_that_ends_a_sleep_is_counted() {
    assert_exact_after_waking(false);
}

#[test]
fn every_byte_of_an_ipv6_connection_that_ends_a_sleep_is_counted() {
    assert_exact_after_waking(true);
}
