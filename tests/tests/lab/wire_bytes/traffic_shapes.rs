//! Frames and writes of every size, both directions, several flows, and segments that the receiver joined.

use super::{WINDOW_BYTES, assert_exact, connect, counted, ends, network_of_frames};
use crate::support::event_log::FlowRecording;
use crate::support::{MIB, MIGRATION_PORT, one_at_a_time};
use migtrace_lab::{Builder, Connection, Host, Lab, Wiretap};

/// Runs `work` on each connection while migtrace counts at the source and a packet socket at the destination, and compares
/// the two for each connection.
fn assert_exact_for_each(builder: Builder, ports: &[(bool, u16)], work: impl Fn(&Connection) + Sync) {
    let _lock = one_at_a_time();
    let lab = network_of_frames(builder);
    let recording = FlowRecording::start(lab.source(), &[]);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    let connections: Vec<_> = ports.iter().map(|(ipv6, port)| connect(&lab, *ipv6, *port)).collect();
    let all_ends: Vec<_> = connections.iter().map(ends).collect();
    std::thread::scope(|scope| {
        for connection in &connections {
            scope.spawn(|| work(connection));
        }
    });
    for connection in connections {
        connection.close().unwrap();
    }
    let capture = tap.stop().unwrap();
    let log = recording.stop();
    assert_eq!(log.flows(), all_ends.len());
    for ends in all_ends {
        assert_exact(&log, &capture, ends);
    }
}

#[test]
fn jumbo_frames_are_counted() {
    assert_exact_for_each(
        Lab::builder().mtu(9000),
        &[(false, MIGRATION_PORT), (true, MIGRATION_PORT + 1)],
        |connection| {
            connection.send(16 * MIB, 100_000).unwrap();
        },
    );
}

#[test]
fn the_smallest_frames_that_ipv6_allows_are_counted() {
    assert_exact_for_each(
        Lab::builder().mtu(1280),
        &[(false, MIGRATION_PORT), (true, MIGRATION_PORT + 1)],
        |connection| {
            connection.send(16 * MIB, 100_000).unwrap();
        },
    );
}

#[test]
fn small_writes_are_counted() {
    assert_exact_for_each(
        Lab::builder(),
        &[(false, MIGRATION_PORT), (true, MIGRATION_PORT + 1)],
        |connection| {
            for size in 1..100 {
                connection.send(100 * size, size.try_into().unwrap()).unwrap();
            }
        },
    );
}

#[test]
fn both_directions_at_once_are_counted() {
    assert_exact_for_each(
        Lab::builder(),
        &[(false, MIGRATION_PORT), (true, MIGRATION_PORT + 1)],
        |connection| {
            std::thread::scope(|scope| {
                scope.spawn(|| connection.send(12 * MIB, 64 << 10).unwrap());
                scope.spawn(|| connection.send_back(12 * MIB, 48 << 10).unwrap());
            });
        },
    );
}

#[test]
fn several_flows_at_once_are_counted_apart() {
    let ports = [
        (false, MIGRATION_PORT),
        (false, MIGRATION_PORT),
        (false, MIGRATION_PORT + 1),
        (true, MIGRATION_PORT + 1),
        (true, MIGRATION_PORT + 63),
    ];
    assert_exact_for_each(Lab::builder(), &ports, |connection| {
        // Each connection sends another amount.
        let bytes = 4 * MIB + u64::from(connection.local().unwrap().port());
        connection.send(bytes, 64 << 10).unwrap();
    });
}

#[test]
fn segments_that_gro_joined_are_counted_one_by_one() {
    let _lock = one_at_a_time();
    let lab = network_of_frames(Lab::builder());
    // A veth joins segments only if the other end could not have sent them joined (`veth_skb_is_eligible_for_gro`). Its
    // own queue of 256 frames replaces the kernel's.
    lab.switch().set_offloads(lab.source().role(), &["tso"], false).unwrap();
    lab.source().set_offloads(Host::UPLINK, &["gro"], true).unwrap();
    let recording = FlowRecording::start(lab.source(), &[]);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    let connection =
        Connection::open(lab.destination(), lab.source(), false, MIGRATION_PORT, WINDOW_BYTES / 2).unwrap();
    let (remote, local) = ends(&connection);
    let ends = (local, remote);
    connection.send(64 * MIB, 64 << 10).unwrap();
    connection.close().unwrap();
    let capture = tap.stop().unwrap();
    let log = recording.stop();
    assert_exact(&log, &capture, ends);
    let rx = counted(&log, ends).rx;
    assert!(rx.skbs < rx.segments, "nothing was joined: {rx:?}");
}
