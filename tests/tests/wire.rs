//! What migtrace counts is what crosses the wire, to the byte and to the segment.
//!
//! migtrace counts at the sender's bridge, where TCP hands down buffers of many segments. The truth is counted by
//! a packet socket where real frames pass: at a receiver that does not join them, or, where the switch loses some,
//! at the sender's own uplink.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod recording;

use lab::{Capture, Connection, Host, Lab, Tally, Wiretap, monotonic_ns};
use migtrace::units::{Counters, Directions};
use migtrace::vocabulary::Lost;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};
use recording::{Facts, Recording};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const PORT: u16 = 49152;
/// Far from what the kernel's queues hold, in frames of any size that these tests use.
const WINDOW_BYTES: usize = 256 << 10;

/// tcp(7) calls it early retransmission, of which this is what is left. Of the namespace of the thread.
const TAIL_LOSS_PROBES: &str = "/proc/sys/net/ipv4/tcp_early_retrans";

/// Retransmissions are counted for the whole machine, and two CPUs are shared: one at a time.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two hosts between which real frames cross, in both directions.
fn network(builder: lab::Builder) -> Lab {
    let lab = builder.without_guests().sender_offloads(false).receiver_gro(false).start().unwrap();
    for interface in [Host::BRIDGE, Host::UPLINK] {
        lab.destination().set_offloads(interface, &["tso", "gso"], false).unwrap();
    }
    // Without a loss nothing is sent again: the probe for a lost tail would guess wrong on a busy machine.
    for host in [lab.source(), lab.destination()] {
        host.enter(|| std::fs::write(TAIL_LOSS_PROBES, "0").unwrap()).unwrap();
    }
    lab
}

fn connect(lab: &Lab, ipv6: bool, port: u16) -> Connection {
    let connection = Connection::open(lab.source(), lab.destination(), ipv6, port, WINDOW_BYTES).unwrap();
    connection.client.set_nodelay(true).unwrap();
    connection
}

/// A connection's addresses, which outlive it.
fn ends(connection: &Connection) -> (SocketAddr, SocketAddr) {
    (connection.local().unwrap(), connection.remote().unwrap())
}

/// What both witnesses count.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Crossed {
    wire_bytes: u64,
    payload_bytes: u64,
    segments: u64,
}

impl From<Counters> for Crossed {
    fn from(counters: Counters) -> Self {
        let Counters { wire_bytes, payload_bytes, segments, .. } = counters;
        Self { wire_bytes, payload_bytes, segments }
    }
}

impl From<Tally> for Crossed {
    fn from(tally: Tally) -> Self {
        let Tally { frames, bytes, payload_bytes, .. } = tally;
        Self { wire_bytes: bytes, payload_bytes, segments: frames }
    }
}

fn crossed<T: Into<Crossed>>(pair: Directions<T>) -> Directions<Crossed> {
    pair.map(Into::into)
}

/// What migtrace counted of a connection.
fn counted(facts: &Facts, (local, remote): (SocketAddr, SocketAddr)) -> Directions<Counters> {
    let flow = facts.flow(local, remote).unwrap_or_else(|| panic!("{local} - {remote} was not counted"));
    assert_eq!(flow.elsewhere_skbs, 0);
    flow.counters
}

/// What really crossed, from the sender's point of view.
fn truth(capture: &Capture, (local, remote): (SocketAddr, SocketAddr)) -> Directions<Tally> {
    let pair = Directions { tx: capture.stream(local, remote), rx: capture.stream(remote, local) };
    for tally in [pair.tx, pair.rx] {
        assert!(tally.longest_bytes <= 9014, "no frames but buffers of many crossed the tap: {tally:?}");
    }
    pair
}

fn assert_exact(facts: &Facts, capture: &Capture, ends: (SocketAddr, SocketAddr)) {
    let counted = crossed(counted(facts, ends));
    let truth = crossed(truth(capture, ends));
    assert_eq!(counted, truth, "left is what migtrace counted, right is what crossed");
}

/// What was sent again is what the sender's own TCP says (little without a loss, but a busy machine may be late with an
/// acknowledgement), and without it payload is what was written.
fn assert_goodput(facts: &Facts, (local, remote): (SocketAddr, SocketAddr), written: u64, sent_again: u64) {
    let flow = facts.flow(local, remote).unwrap();
    assert_eq!(flow.retransmitted_segments, Some(sent_again), "{flow:?}");
    let goodput = flow.counters.tx.payload_bytes - flow.retransmitted_payload_bytes.unwrap();
    assert_eq!(goodput, written, "{flow:?}");
}

/// What the device says that it has received: packets, bytes.
fn received(host: &Host, interface: &str) -> (u64, u64) {
    let text = host.tool("ip", &["-j", "-s", "link", "show", "dev", interface]).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    let statistics = &links[0]["stats64"]["rx"];
    (statistics["packets"].as_u64().unwrap(), statistics["bytes"].as_u64().unwrap())
}

/// 200 MiB without a loss, every figure against the receiver's.
fn transfer_without_loss(ipv6: bool, attach: &str) {
    let _lock = one_at_a_time();
    let lab = network(Lab::builder());
    let recording = Recording::start(lab.source(), &["--attach", attach]);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    let before = received(lab.destination(), Host::UPLINK);

    let connection = connect(&lab, ipv6, PORT);
    let ends = ends(&connection);
    connection.send(200 * MIB, 64 << 10).unwrap();
    connection.close().unwrap();

    let after = received(lab.destination(), Host::UPLINK);
    let capture = tap.stop().unwrap();
    let facts = recording.stop();
    assert_exact(&facts, &capture, ends);
    assert_goodput(&facts, ends, 200 * MIB, lab.source().retransmitted_segments().unwrap());
    assert_eq!(counted(&facts, ends).rx.payload_bytes, 0);
    let flow = facts.flow(ends.0, ends.1).unwrap();
    assert!(flow.closed && facts.is_from_start(ends.0));
    assert_eq!(facts.lost(), Lost::default());

    // It would prove little if it had counted frames one by one.
    let tx = counted(&facts, ends).tx;
    assert!(tx.skbs * 4 < tx.segments, "{tx:?}");
    // The tap is checked by the device: a stray neighbour solicitation aside, nothing else crossed.
    let stream = capture.stream(ends.0, ends.1);
    let (packets, bytes) = (after.0 - before.0, after.1 - before.1);
    let (most_packets, most_bytes) = (stream.frames + 20, stream.bytes + 20 * 100);
    assert!((stream.frames..most_packets).contains(&packets), "tap {stream:?}, device {packets} packets");
    assert!((stream.bytes..most_bytes).contains(&bytes), "tap {stream:?}, device {bytes} bytes");
}

#[test]
fn every_byte_and_segment_of_200_mib_over_ipv4_is_counted() {
    transfer_without_loss(false, "tcx");
}

#[test]
fn every_byte_and_segment_of_200_mib_over_ipv6_is_counted() {
    transfer_without_loss(true, "tcx");
}

#[test]
fn a_clsact_filter_counts_the_same() {
    transfer_without_loss(false, "clsact");
}

/// 200 MiB of which some frames are lost behind the sender's uplink, so are sent again.
fn transfer_with_loss(ipv6: bool) {
    let _lock = one_at_a_time();
    let lab = network(Lab::builder());
    // Probes for a lost tail are sent again from another place of the kernel than the rest.
    lab.source().enter(|| std::fs::write(TAIL_LOSS_PROBES, "3").unwrap()).unwrap();
    let recording = Recording::start(lab.source(), &[]);
    let tap = Wiretap::start(lab.source(), Host::UPLINK).unwrap();

    let connection = connect(&lab, ipv6, PORT);
    let ends = ends(&connection);
    lab.drop_packets(5).unwrap();
    connection.send(200 * MIB, 64 << 10).unwrap();
    let dropped = lab.dropped_packets().unwrap();
    lab.drop_packets(0).unwrap();
    connection.close().unwrap();

    let capture = tap.stop().unwrap();
    let facts = recording.stop();
    assert!(dropped > 200, "only {dropped} packets were lost");
    assert_exact(&facts, &capture, ends);
    let again = lab.source().retransmitted_segments().unwrap();
    assert_goodput(&facts, ends, 200 * MIB, again);
    assert!(again >= dropped / 2, "{dropped} were lost, {again} were sent again");
    let tx = counted(&facts, ends).tx;
    assert!(tx.skbs < tx.segments, "{tx:?}");
    assert_eq!(facts.lost(), Lost::default());
}

#[test]
fn what_is_lost_and_sent_again_over_ipv4_is_counted_and_told_apart() {
    transfer_with_loss(false);
}

#[test]
fn what_is_lost_and_sent_again_over_ipv6_is_counted_and_told_apart() {
    transfer_with_loss(true);
}

/// Runs `work` on connections of a lab while migtrace counts at the source and a tap at the destination, and
/// compares them for each connection.
fn compare(builder: lab::Builder, ports: &[(bool, u16)], work: impl Fn(&Connection) + Sync) {
    let _lock = one_at_a_time();
    let lab = network(builder);
    let recording = Recording::start(lab.source(), &[]);
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
    let facts = recording.stop();
    assert_eq!(facts.flows(), all_ends.len());
    for ends in all_ends {
        assert_exact(&facts, &capture, ends);
    }
}

/// What an application knows of the last byte of a stream: when all but that one had arrived, and when it had.
#[test]
fn the_last_byte_crosses_when_the_applications_say_and_not_when_the_connection_ends() {
    let _lock = one_at_a_time();
    let lab = network(Lab::builder());
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &[]));
    let connection = connect(&lab, false, PORT);
    let (local, remote) = ends(&connection);
    connection.send(MIB, 64 << 10).unwrap();
    let others_had_arrived_ns = monotonic_ns();
    connection.send(1, 1).unwrap();
    let had_arrived_ns = monotonic_ns();
    // The other direction, acknowledgements and the end of the connection come later.
    connection.send_back(MIB, 64 << 10).unwrap();
    connection.close().unwrap();
    let [source, destination] = recordings.map(Recording::stop);
    let seen = [
        source.flow(local, remote).unwrap().last_byte_ns.tx.unwrap(),
        destination.flow(remote, local).unwrap().last_byte_ns.rx.unwrap(),
    ];
    let order = [others_had_arrived_ns, seen[0].0, seen[1].0, had_arrived_ns];
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn jumbo_frames_are_counted() {
    compare(Lab::builder().mtu(9000), &[(false, PORT), (true, PORT + 1)], |connection| {
        connection.send(16 * MIB, 100_000).unwrap();
    });
}

#[test]
fn the_smallest_frames_that_ipv6_allows_are_counted() {
    compare(Lab::builder().mtu(1280), &[(false, PORT), (true, PORT + 1)], |connection| {
        connection.send(16 * MIB, 100_000).unwrap();
    });
}

#[test]
fn small_writes_are_counted() {
    compare(Lab::builder(), &[(false, PORT), (true, PORT + 1)], |connection| {
        for size in 1..100 {
            connection.send(100 * size, size.try_into().unwrap()).unwrap();
        }
    });
}

#[test]
fn both_directions_at_once_are_counted() {
    compare(Lab::builder(), &[(false, PORT), (true, PORT + 1)], |connection| {
        std::thread::scope(|scope| {
            scope.spawn(|| connection.send(12 * MIB, 64 << 10).unwrap());
            scope.spawn(|| connection.send_back(12 * MIB, 48 << 10).unwrap());
        });
    });
}

#[test]
fn several_flows_at_once_are_told_apart() {
    let ports = [(false, PORT), (false, PORT), (false, PORT + 1), (true, PORT + 1), (true, PORT + 63)];
    compare(Lab::builder(), &ports, |connection| {
        // No two of the same size.
        let bytes = 4 * MIB + u64::from(connection.local().unwrap().port());
        connection.send(bytes, 64 << 10).unwrap();
    });
}

#[test]
fn received_segments_that_the_host_has_joined_are_counted_one_by_one() {
    let _lock = one_at_a_time();
    let lab = network(Lab::builder());
    // A veth joins only what the other end could not have sent joined (`veth_skb_is_eligible_for_gro`). Its own queue
    // of 256 frames takes the place of the kernel's.
    lab.switch().set_offloads(lab.source().role(), &["tso"], false).unwrap();
    lab.source().set_offloads(Host::UPLINK, &["gro"], true).unwrap();
    let recording = Recording::start(lab.source(), &[]);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    let connection =
        Connection::open(lab.destination(), lab.source(), false, PORT, WINDOW_BYTES / 2).unwrap();
    let (remote, local) = ends(&connection);
    let ends = (local, remote);
    connection.send(64 * MIB, 64 << 10).unwrap();
    connection.close().unwrap();
    let capture = tap.stop().unwrap();
    let facts = recording.stop();
    assert_exact(&facts, &capture, ends);
    let rx = counted(&facts, ends).rx;
    assert!(rx.skbs < rx.segments, "nothing was joined: {rx:?}");
}

#[test]
fn a_port_outside_the_range_is_not_counted() {
    let _lock = one_at_a_time();
    let lab = network(Lab::builder());
    let recording = Recording::start(lab.source(), &["--ports", "49152-49153,50000"]);
    let mut all_ends = Vec::new();
    for port in [PORT - 1, PORT, PORT + 1, PORT + 2, 49999, 50000, 50001] {
        let connection = connect(&lab, false, port);
        all_ends.push(ends(&connection));
        connection.send(1000, 1000).unwrap();
        connection.close().unwrap();
    }
    let facts = recording.stop();
    let is_counted = |ends: &&(SocketAddr, SocketAddr)| facts.flow(ends.0, ends.1).is_some();
    let ports: Vec<u16> = all_ends.iter().filter(is_counted).map(|ends| ends.1.port()).collect();
    // A client's own port may be in the range by chance: 32768-60999 are given out.
    let watched = |port: u16| matches!(port, 49152 | 49153 | 50000);
    let expected = all_ends.iter().filter(|ends| watched(ends.0.port()) || watched(ends.1.port()));
    assert_eq!(ports, expected.map(|ends| ends.1.port()).collect::<Vec<_>>());
    assert_eq!(facts.flows(), ports.len());
}

#[test]
fn a_connection_that_is_older_than_the_recording_is_counted_from_there() {
    let _lock = one_at_a_time();
    let lab = network(Lab::builder());
    let connection = connect(&lab, false, PORT);
    let ends = ends(&connection);
    lab.drop_packets(50).unwrap();
    connection.send(MIB, 64 << 10).unwrap();
    connection.wait_until_acknowledged().unwrap();
    lab.drop_packets(0).unwrap();
    let before = lab.source().retransmitted_segments().unwrap();
    assert!(before > 0, "nothing was sent again before the recording");

    let recording = Recording::start(lab.source(), &[]);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    connection.send(5 * MIB, 64 << 10).unwrap();
    connection.close().unwrap();
    let capture = tap.stop().unwrap();
    let facts = recording.stop();
    assert!(!facts.is_from_start(ends.0));
    assert_exact(&facts, &capture, ends);
    let again = lab.source().retransmitted_segments().unwrap() - before;
    assert_goodput(&facts, ends, 5 * MIB, again);
}

/// Sends a TCP segment in three IP fragments of which the first holds the TCP header, as a router would make them.
fn send_fragments(from: &Host, (local, remote): (SocketAddr, SocketAddr)) {
    let mut segment = vec![0; 20 + 1980];
    segment[..2].copy_from_slice(&local.port().to_be_bytes());
    segment[2..4].copy_from_slice(&remote.port().to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 0x10;
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // The header is the sender's with this protocol, raw(7).
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

fn fragments_are_billed_apart(ipv6: bool) {
    let _lock = one_at_a_time();
    let lab = network(Lab::builder());
    let recording = Recording::start(lab.source(), &[]);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    let connection = connect(&lab, ipv6, PORT);
    let ends = ends(&connection);
    connection.send(1000, 1000).unwrap();
    connection.wait_until_acknowledged().unwrap();
    for _ in 0..5 {
        send_fragments(lab.source(), ends);
    }
    connection.send(1000, 1000).unwrap();
    connection.close().unwrap();
    let capture = tap.stop().unwrap();
    let facts = recording.stop();
    // The first fragment of each packet carries ports, so it is the connection's.
    assert_exact(&facts, &capture, ends);
    assert_eq!(counted(&facts, ends).tx.payload_bytes, 2000 + 5 * (800 - 20));
    let later = facts.fragments(ends.0.ip(), ends.1.ip()).expect("fragments were not counted");
    let truth = capture.fragments(ends.0.ip(), ends.1.ip());
    assert_eq!(crossed(later).tx, truth.into(), "left is what migtrace counted, right is what crossed");
    assert_eq!((truth.frames, truth.payload_bytes), (10, 5 * 1200));
    assert_eq!(later.rx, Counters::default());
}

#[test]
fn later_fragments_of_ipv4_are_billed_apart() {
    fragments_are_billed_apart(false);
}

#[test]
fn later_fragments_of_ipv6_are_billed_apart() {
    fragments_are_billed_apart(true);
}

/// Gives a host one more address, and translates addresses by this rule at this hook.
fn translate(host: &Host, outer: Ipv4Addr, hook: &str, rule: &str) {
    // Else what comes in at a port of the bridge is translated before it comes to the bridge, where the kernel can do that.
    let _ = host.enter(|| std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0")).unwrap();
    host.tool("ip", &["address", "add", &format!("{outer}/24"), "dev", Host::BRIDGE]).unwrap();
    let chain = format!("add chain ip nat moved {{ type nat hook {hook}; }}");
    host.tool("nft", &[&format!("add table ip nat; {chain}; add rule ip nat moved {rule}")]).unwrap();
}

#[test]
fn where_addresses_are_translated_the_connection_on_the_wire_is_counted() {
    const INNER_PORT: u16 = 6000;
    let _lock = one_at_a_time();
    let lab = network(Lab::builder());
    let (from, to) = (lab.source(), lab.destination());
    let (outer_from, outer_to) = (Ipv4Addr::new(10, 77, 0, 101), Ipv4Addr::new(10, 77, 0, 102));
    let inner_to = SocketAddr::from((to.ipv4(), INNER_PORT));
    translate(
        from,
        outer_from,
        "postrouting priority srcnat",
        &format!("ip daddr {outer_to} snat to {outer_from}"),
    );
    let at_port = format!("ip daddr {outer_to} tcp dport {PORT} dnat to {inner_to}");
    translate(to, outer_to, "prerouting priority dstnat", &at_port);
    let recordings = [from, to].map(|host| Recording::start(host, &[]));
    let tap = Wiretap::start(to, Host::UPLINK).unwrap();
    let listener = to.enter(|| TcpListener::bind(inner_to).unwrap()).unwrap();
    let mut client = from.enter(|| TcpStream::connect((outer_to, PORT)).unwrap()).unwrap();
    let (mut server, outer_client) = listener.accept().unwrap();
    assert_eq!(outer_client.ip(), outer_from, "else nothing was translated");
    std::thread::scope(|scope| {
        scope.spawn(|| client.write_all(&vec![0x5a; 1 << 20]).unwrap());
        server.read_exact(&mut vec![0; 1 << 20]).unwrap();
    });
    drop((client, server));
    std::thread::sleep(Duration::from_millis(300));
    let capture = tap.stop().unwrap();
    let [source, destination] = recordings.map(Recording::stop);
    let ends = (outer_client, SocketAddr::from((outer_to, PORT)));
    assert_exact(&source, &capture, ends);
    let seen_there = crossed(counted(&destination, (ends.1, ends.0)));
    let truth = crossed(truth(&capture, ends));
    assert_eq!((seen_there.rx, seen_there.tx), (truth.tx, truth.rx));
    for facts in [&source, &destination] {
        assert_eq!((facts.flows(), facts.lost()), (1, Lost::default()));
    }
}

#[test]
fn when_the_flow_table_is_full_the_loss_is_told_and_the_first_flows_stay_exact() {
    let _lock = one_at_a_time();
    let lab = network(Lab::builder());
    // Two connections, and the fragments between their hosts.
    let recording = Recording::start(lab.source(), &["--flow-capacity", "3"]);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    let connections = [(); 4].map(|()| connect(&lab, false, PORT));
    let all_ends = connections.each_ref().map(ends);
    for connection in connections {
        connection.send(MIB, 64 << 10).unwrap();
        connection.close().unwrap();
    }
    let capture = tap.stop().unwrap();
    let facts = recording.stop();
    assert_eq!(facts.flows(), 2);
    for ends in &all_ends[..2] {
        assert_exact(&facts, &capture, *ends);
    }
    let lost = facts.lost();
    // Of each lost connection at least the third packet of the opening, the data in 64 KiB buffers, and the end. What comes
    // back could have opened nothing.
    assert!(lost.flows > 2 * (1 + 16 + 1), "{lost:?}");
    assert_eq!((lost.ring_buffer, lost.hook_calls), (0, 0));
}

#[test]
fn when_only_the_fragments_find_no_room_that_is_told_too() {
    let _lock = one_at_a_time();
    let lab = network(Lab::builder());
    // Two connections, and the fragments between the addresses of one.
    let recording = Recording::start(lab.source(), &["--flow-capacity", "3"]);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    let connections = [false, true].map(|ipv6| connect(&lab, ipv6, PORT));
    let all_ends = connections.each_ref().map(ends);
    for connection in connections {
        connection.send(MIB, 64 << 10).unwrap();
        connection.close().unwrap();
    }
    let capture = tap.stop().unwrap();
    let facts = recording.stop();
    for ends in all_ends {
        assert_exact(&facts, &capture, ends);
    }
    let lost = facts.lost();
    assert_eq!((lost.flows, lost.ring_buffer, lost.hook_calls), (1, 0, 0));
}
