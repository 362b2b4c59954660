//! Which connections are counted, and which part of them.

use super::{assert_exact, assert_goodput, captured, comparable, connect, counted, ends, network_of_frames};
use crate::support::event_log::FlowRecording;
use crate::support::{MIB, MIGRATION_PORT, one_at_a_time};
use migtrace::vocabulary::Lost;
use migtrace_lab::{Host, Lab, Wiretap, monotonic_ns};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

#[test]
fn the_stamp_of_the_last_byte_lies_between_those_of_the_applications() {
    let _lock = one_at_a_time();
    let lab = network_of_frames(Lab::builder());
    let recordings = [lab.source(), lab.destination()].map(|host| FlowRecording::start(host, &[]));
    let connection = connect(&lab, false, MIGRATION_PORT);
    let (local, remote) = ends(&connection);
    connection.send(MIB, 64 << 10).unwrap();
    let others_had_arrived_ns = monotonic_ns();
    connection.send(1, 1).unwrap();
    let had_arrived_ns = monotonic_ns();
    // The other direction, its acknowledgements and the end of the connection come later and must not change the stamp.
    connection.send_back(MIB, 64 << 10).unwrap();
    connection.close().unwrap();
    let [source, destination] = recordings.map(FlowRecording::stop);
    let seen = [
        source.flow(local, remote).unwrap().last_byte_ns.tx.unwrap(),
        destination.flow(remote, local).unwrap().last_byte_ns.rx.unwrap(),
    ];
    let order = [others_had_arrived_ns, seen[0].0, seen[1].0, had_arrived_ns];
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn a_port_outside_the_range_is_not_counted() {
    let _lock = one_at_a_time();
    let lab = network_of_frames(Lab::builder());
    let recording = FlowRecording::start(lab.source(), &["--ports", "49152-49153,50000"]);
    let mut all_ends = Vec::new();
    for port in
        [MIGRATION_PORT - 1, MIGRATION_PORT, MIGRATION_PORT + 1, MIGRATION_PORT + 2, 49999, 50000, 50001]
    {
        let connection = connect(&lab, false, port);
        all_ends.push(ends(&connection));
        connection.send(1000, 1000).unwrap();
        connection.close().unwrap();
    }
    let log = recording.stop();
    let is_counted = |ends: &&(SocketAddr, SocketAddr)| log.flow(ends.0, ends.1).is_some();
    let ports: Vec<u16> = all_ends.iter().filter(is_counted).map(|ends| ends.1.port()).collect();
    // A client's own port may be in the range by chance: the kernel chooses from 32768 to 60999.
    let watched = |port: u16| matches!(port, 49152 | 49153 | 50000);
    let expected = all_ends.iter().filter(|ends| watched(ends.0.port()) || watched(ends.1.port()));
    assert_eq!(ports, expected.map(|ends| ends.1.port()).collect::<Vec<_>>());
    assert_eq!(log.flows(), ports.len());
}

#[test]
fn a_connection_that_is_older_than_the_recording_is_counted_from_its_start_on() {
    let _lock = one_at_a_time();
    let lab = network_of_frames(Lab::builder());
    let connection = connect(&lab, false, MIGRATION_PORT);
    let ends = ends(&connection);
    lab.drop_packets(50).unwrap();
    connection.send(MIB, 64 << 10).unwrap();
    connection.wait_until_acknowledged().unwrap();
    lab.drop_packets(0).unwrap();
    let before = lab.source().retransmitted_segments().unwrap();
    assert!(before > 0, "nothing was sent again before the recording");

    let recording = FlowRecording::start(lab.source(), &[]);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    connection.send(5 * MIB, 64 << 10).unwrap();
    connection.close().unwrap();
    let capture = tap.stop().unwrap();
    let log = recording.stop();
    assert!(!log.is_from_start(ends.0));
    assert_exact(&log, &capture, ends);
    let retransmitted = lab.source().retransmitted_segments().unwrap() - before;
    assert_goodput(&log, ends, 5 * MIB, retransmitted);
}

/// Gives a host one more address, and translates addresses at this nftables hook by this rule.
fn translate(host: &Host, outer: Ipv4Addr, hook: &str, rule: &str) {
    // Otherwise a kernel with br_netfilter translates packets at the bridge's port, before they reach the bridge.
    let _ = host.enter(|| std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0")).unwrap();
    host.tool("ip", &["address", "add", &format!("{outer}/24"), "dev", Host::BRIDGE]).unwrap();
    let chain = format!("add chain ip nat moved {{ type nat hook {hook}; }}");
    host.tool("nft", &[&format!("add table ip nat; {chain}; add rule ip nat moved {rule}")]).unwrap();
}

#[test]
fn with_nat_the_connection_on_the_wire_is_counted() {
    const INNER_PORT: u16 = 6000;
    let _lock = one_at_a_time();
    let lab = network_of_frames(Lab::builder());
    let (from, to) = (lab.source(), lab.destination());
    let (outer_from, outer_to) = (Ipv4Addr::new(10, 77, 0, 101), Ipv4Addr::new(10, 77, 0, 102));
    let inner_to = SocketAddr::from((to.ipv4(), INNER_PORT));
    translate(
        from,
        outer_from,
        "postrouting priority srcnat",
        &format!("ip daddr {outer_to} snat to {outer_from}"),
    );
    let at_port = format!("ip daddr {outer_to} tcp dport {MIGRATION_PORT} dnat to {inner_to}");
    translate(to, outer_to, "prerouting priority dstnat", &at_port);
    let recordings = [from, to].map(|host| FlowRecording::start(host, &[]));
    let tap = Wiretap::start(to, Host::UPLINK).unwrap();
    let listener = to.enter(|| TcpListener::bind(inner_to).unwrap()).unwrap();
    let mut client = from.enter(|| TcpStream::connect((outer_to, MIGRATION_PORT)).unwrap()).unwrap();
    let (mut server, outer_client) = listener.accept().unwrap();
    assert_eq!(outer_client.ip(), outer_from, "the address was not translated");
    std::thread::scope(|scope| {
        scope.spawn(|| client.write_all(&vec![0x5a; 1 << 20]).unwrap());
        server.read_exact(&mut vec![0; 1 << 20]).unwrap();
    });
    drop((client, server));
    std::thread::sleep(Duration::from_millis(300));
    let capture = tap.stop().unwrap();
    let [source, destination] = recordings.map(FlowRecording::stop);
    let ends = (outer_client, SocketAddr::from((outer_to, MIGRATION_PORT)));
    assert_exact(&source, &capture, ends);
    let seen_there = comparable(counted(&destination, (ends.1, ends.0)));
    let captured = comparable(captured(&capture, ends));
    assert_eq!((seen_there.rx, seen_there.tx), (captured.tx, captured.rx));
    for log in [&source, &destination] {
        assert_eq!((log.flows(), log.lost()), (1, Lost::default()));
    }
}
