//! IP fragments: only the first of a packet has the ports of its connection.

use super::{assert_exact, comparable, connect, counted, ends, network_of_frames};
use crate::support::event_log::FlowRecording;
use crate::support::{MIGRATION_PORT, one_at_a_time};
use migtrace::units::Counters;
use migtrace_lab::{Host, Lab, Wiretap};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

/// Sends a TCP segment in three IP fragments, as a router would make them: the first has the TCP header.
fn send_fragments(from: &Host, (local, remote): (SocketAddr, SocketAddr)) {
    let mut segment = vec![0; 20 + 1980];
    segment[..2].copy_from_slice(&local.port().to_be_bytes());
    segment[2..4].copy_from_slice(&remote.port().to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 0x10;
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // With this protocol the sender writes the IP header, raw(7).
    let open = || socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).unwrap();
    let socket = from.enter(open).unwrap();
    let to = SockaddrStorage::from(SocketAddr::new(remote.ip(), 0));
    for (index, data) in segment.chunks(800).enumerate() {
        let offset = u16::try_from(index * 800).unwrap();
        let more = offset + 800 < 2000;
        let packet = match (local.ip(), remote.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut packet = vec![0x45, 0, 0, 0, 0x77, 0x77, 0, 0, 64, 6, 0, 0];
                packet[2..4].copy_from_slice(&u16::try_from(20 + data.len()).unwrap().to_be_bytes());
                let fragment = (offset / 8) | if more { 0x2000 } else { 0 };
                packet[6..8].copy_from_slice(&fragment.to_be_bytes());
                packet.extend(from.octets());
                packet.extend(to.octets());
                packet
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut packet = vec![0x60, 0, 0, 0, 0, 0, 44, 64];
                packet[4..6].copy_from_slice(&u16::try_from(8 + data.len()).unwrap().to_be_bytes());
                packet.extend(from.octets());
                packet.extend(to.octets());
                packet.extend([6, 0]);
                packet.extend((offset | u16::from(more)).to_be_bytes());
                packet.extend([0x77; 4]);
                packet
            }
            _ => unreachable!("both ends speak the same protocol"),
        };
        let packet = [&packet, data].concat();
        let sent = sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
        assert_eq!(sent, packet.len());
    }
}

fn assert_later_fragments_are_counted_apart(ipv6: bool) {
    let _lock = one_at_a_time();
    let lab = network_of_frames(Lab::builder());
    let recording = FlowRecording::start(lab.source(), &[]);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    let connection = connect(&lab, ipv6, MIGRATION_PORT);
    let ends = ends(&connection);
    connection.send(1000, 1000).unwrap();
    connection.wait_until_acknowledged().unwrap();
    for _ in 0..5 {
        send_fragments(lab.source(), ends);
    }
    connection.send(1000, 1000).unwrap();
    connection.close().unwrap();
    let capture = tap.stop().unwrap();
    let log = recording.stop();
    // The first fragment of each packet has the ports, so it counts for the connection.
    assert_exact(&log, &capture, ends);
    assert_eq!(counted(&log, ends).tx.payload_bytes, 2000 + 5 * (800 - 20));
    let later = log.fragments(ends.0.ip(), ends.1.ip()).expect("fragments were not counted");
    let captured = capture.fragments(ends.0.ip(), ends.1.ip());
    assert_eq!(comparable(later).tx, captured.into(), "left: counted by migtrace, right: on the wire");
    assert_eq!((captured.frames, captured.payload_bytes), (10, 5 * 1200));
    assert_eq!(later.rx, Counters::default());
}

#[test]
fn later_fragments_of_ipv4_are_counted_apart() {
    assert_later_fragments_are_counted_apart(false);
}

#[test]
fn later_fragments_of_ipv6_are_counted_apart() {
    assert_later_fragments_are_counted_apart(true);
}
