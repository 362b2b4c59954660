//! Whatever other hosts send, and whatever ports other connections use, only migrations are counted, to the byte.

use crate::support::event_log::FlowRecording;
use crate::support::transfer::{network_of_real_frames, transfer};
use crate::support::{MIB, MIGRATION_PORT, PATIENCE, one_at_a_time};
use migtrace::units::Directions;
use migtrace::vocabulary::Lost;
use migtrace_lab::record_checks::assert_replays;
use migtrace_lab::{BareQemu, Capture, Host, Lab, NbdDisk, Tally, Wiretap, migtrace_command};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrStorage, bind, connect,
    sendto, setsockopt, socket, sockopt,
};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

/// A port of migrations on which a server listens that is no QEMU.
const OPEN_PORT: u16 = 49153;
const NBD_PORT: u16 = 10809;
/// The ports of migrations, given to clients as their own ports.
const CLIENT_PORTS: RangeInclusive<u16> = 49152..=49215;

/// How many addresses take part in the flood: more than migtrace has room for connections.
const FLOOD_ADDRESSES: u16 = 6_000;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// An address that belongs to no host (RFC 2544).
fn stranger(number: u16) -> SocketAddrV4 {
    let [high, low] = number.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(198, 18, high, low), 1024 + number)
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

/// An IPv4 header and a TCP segment without payload.
fn segment(from: SocketAddrV4, to: SocketAddrV4, flags: u8) -> Vec<u8> {
    let mut tcp = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    tcp.extend([0, 0, 0, 7, 0, 0, 0, 9, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let ends = [from.ip().octets(), to.ip().octets()].concat();
    let sum = checksum(&[&ends[..], &[0, 6, 0, 20], &tcp].concat());
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    // The kernel fills in the length and the checksum.
    let header = [&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0], &ends[..]].concat();
    [header, tcp].concat()
}

/// Sends SYNs, and packets of connections that never existed, from many addresses to both ports.
fn flood(from: &Host, target: Ipv4Addr) {
    let open = || {
        let raw = SockProtocol::Raw;
        socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, raw).unwrap()
    };
    // With IPPROTO_RAW the sender writes the IP header.
    let socket = from.enter(open).unwrap();
    let to = SockaddrStorage::from(SocketAddr::from((target, 0)));
    for number in 0..FLOOD_ADDRESSES {
        for port in [MIGRATION_PORT, OPEN_PORT] {
            for flags in [SYN, ACK, RST | ACK] {
                let packet = segment(stranger(number), SocketAddrV4::new(target, port), flags);
                sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
            }
        }
    }
}

/// A connection from this port of the source. Closing it resets it, so that the port is free at once.
fn connect_from(lab: &Lab, local_port: u16, to: SocketAddr) -> TcpStream {
    let connect = || {
        let socket =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp).unwrap();
        bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, local_port)).unwrap();
        let SocketAddr::V4(to) = to else { panic!("{to} is not IPv4") };
        connect(socket.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&socket, sockopt::Linger, &linger).unwrap();
        TcpStream::from(socket)
    };
    lab.source().enter(connect).unwrap()
}

/// A server on a host.
fn listen(host: &Host, port: u16) -> TcpListener {
    host.enter(|| TcpListener::bind(("0.0.0.0", port)).unwrap()).unwrap()
}

fn give_clients_the_migrations_ports(host: &Host) {
    let range = format!("net.ipv4.ip_local_port_range={} {}", CLIENT_PORTS.start(), CLIENT_PORTS.end());
    host.tool("sysctl", &["-q", "-w", &range]).unwrap();
}

#[test]
fn a_flood_from_many_addresses_is_not_counted_and_hides_nothing() {
    let _lock = one_at_a_time();
    let lab = network_of_real_frames();
    // With a route back, the flood is answered.
    let source = lab.source().ipv4().to_string();
    lab.destination().tool("ip", &["route", "add", "198.18.0.0/15", "via", &source]).unwrap();
    for attach in ["auto", "clsact"] {
        let _listener = listen(lab.destination(), OPEN_PORT);
        let recordings =
            [lab.source(), lab.destination()].map(|host| FlowRecording::start(host, &["--attach", attach]));
        let (from, target) = (lab.source(), lab.destination().ipv4());
        flood(from, target);
        let before = transfer(&lab);
        let during = std::thread::scope(|scope| {
            scope.spawn(|| flood(from, target));
            transfer(&lab)
        });
        let [source, destination] = recordings.map(FlowRecording::stop);
        for moved in [&before, &during] {
            moved.assert_counted_by(&source);
        }
        assert_eq!((source.flows(), destination.flows()), (2, 2), "{attach}");
        for log in [&source, &destination] {
            assert_eq!(log.lost(), Lost::default(), "{attach}");
            assert_eq!(log.not_measured(), [""; 0], "{attach}");
        }
    }
}

#[test]
fn clients_with_ports_of_migrations_are_not_counted() {
    let _lock = one_at_a_time();
    let lab = network_of_real_frames();
    give_clients_the_migrations_ports(lab.source());
    let server = listen(lab.destination(), NBD_PORT);
    let to = SocketAddr::from((lab.destination().ipv4(), NBD_PORT));
    let mut older = connect_from(&lab, 49_200, to);
    let mut older_server = server.accept().unwrap().0;
    let recording = FlowRecording::start(lab.source(), &[]);
    let mut disk = lab.source().enter(|| TcpStream::connect(to).unwrap()).unwrap();
    assert!(
        CLIENT_PORTS.contains(&disk.local_addr().unwrap().port()),
        "the test needs a client port of migrations"
    );
    let mut disk_server = server.accept().unwrap().0;
    let moved = transfer(&lab);
    for (client, server) in [(&mut disk, &mut disk_server), (&mut older, &mut older_server)] {
        for _ in 0..20 {
            server.write_all(b"NBDMAGIC").unwrap();
            client.read_exact(&mut [0; 8]).unwrap();
            client.write_all(&[0x5a; 4096]).unwrap();
            server.read_exact(&mut [0; 4096]).unwrap();
        }
    }
    let log = recording.stop();
    moved.assert_counted_by(&log);
    assert_eq!(log.flows(), 1);
}

/// Sends small requests that the server answers with 1 MiB each, as a client reads a network disk.
fn read_disk(client: &mut TcpStream, server: &mut TcpStream, mebibytes: u64) {
    let mut page = vec![0; MIB as usize];
    for _ in 0..mebibytes {
        client.write_all(b"give me one more").unwrap();
        server.read_exact(&mut [0; 16]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| server.write_all(&[0x5a; MIB as usize]).unwrap());
            client.read_exact(&mut page).unwrap();
        });
    }
}

#[test]
fn a_network_disk_at_a_port_of_migrations_is_dropped_once_it_is_read() {
    let _lock = one_at_a_time();
    let lab = network_of_real_frames();
    let server = listen(lab.destination(), OPEN_PORT);
    let to = SocketAddr::from((lab.destination().ipv4(), OPEN_PORT));
    let disk = || {
        let client = lab.source().enter(|| TcpStream::connect(to).unwrap()).unwrap();
        (client, server.accept().unwrap().0)
    };
    let mut older = disk();
    read_disk(&mut older.0, &mut older.1, 20);
    let recordings = [lab.source(), lab.destination()].map(|host| FlowRecording::start(host, &[]));
    let mut newer = disk();
    read_disk(&mut newer.0, &mut newer.1, 20);
    for recording in &recordings {
        recording.wait_for("\"flow_gone\"");
    }
    let moved = transfer(&lab);
    read_disk(&mut older.0, &mut older.1, 20);
    read_disk(&mut newer.0, &mut newer.1, 20);
    let end = |(client, server): (TcpStream, TcpStream)| [client.local_addr(), server.local_addr()];
    let [older, newer] = [older, newer].map(|disk| end(disk).map(Result::unwrap));
    // Long enough for two checks of entries without a connection.
    std::thread::sleep(Duration::from_secs(3));
    let [source, destination] = recordings.map(FlowRecording::stop);
    moved.assert_counted_by(&source);
    for (log, is_client) in [(&source, true), (&destination, false)] {
        let ends =
            |[client, server]: [SocketAddr; 2]| if is_client { (client, server) } else { (server, client) };
        assert_eq!(log.flows(), 2, "the newer disk and the transfer");
        assert!(log.flow(ends(older).0, ends(older).1).is_none(), "the older disk was counted");
        let counted = log.flow(ends(newer).0, ends(newer).1).unwrap().counters;
        let read = counted.tx.payload_bytes + counted.rx.payload_bytes;
        assert!((16 * MIB..30 * MIB).contains(&read), "{read} bytes of the newer disk were counted");
        assert_eq!(log.lost(), Lost::default());
    }
}

/// Waits until a guest has used its disk this many more times.
fn wait_for_disk(guest: &mut BareQemu, times: u32) {
    let until = guest.count().unwrap() + times;
    let deadline = Instant::now() + PATIENCE;
    while guest.count().unwrap() < until {
        assert!(Instant::now() < deadline, "the guest does not use its disk");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a packet socket saw of the connections from a host to this address: the client's end of each, and both directions.
fn connections(capture: &Capture, from: &Host, to: SocketAddr) -> Vec<(SocketAddr, Directions<Tally>)> {
    let of_host = capture
        .streams
        .iter()
        .filter(|((sender, receiver), _)| (sender.ip(), *receiver) == (from.ipv4().into(), to));
    of_host
        .map(|((sender, _), tx)| (*sender, Directions { tx: *tx, rx: capture.stream(to, *sender) }))
        .collect()
}

/// Checks that a host's record has the migration's connection and no other, with what a packet socket saw of it.
fn assert_only_the_migration_is_counted(record: &Value, capture: &Capture, lab: &Lab, host: &Host) {
    let listener = SocketAddr::from((lab.destination().ipv4(), MIGRATION_PORT));
    let migrations = connections(capture, lab.source(), listener);
    let [(client, captured)] = &migrations[..] else { panic!("{migrations:?}") };
    assert!(captured.tx.longest_bytes <= 1514 && captured.rx.longest_bytes <= 1514, "{captured:?}");
    assert!(CLIENT_PORTS.contains(&client.port()));
    let flows = record["traffic"]["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 1, "{flows:#?}");
    let is_source = host.role() == lab.source().role();
    let ends = if is_source { [*client, listener] } else { [listener, *client] };
    assert_eq!([&flows[0]["local"], &flows[0]["remote"]], ends.map(|end| end.to_string()).each_ref());
    for counted in [&flows[0]["counters"], &record["traffic"]["total"]] {
        for (direction, captured) in [("tx", captured.tx), ("rx", captured.rx)] {
            let counted =
                ["wire_bytes", "payload_bytes", "segments"].map(|of| counted[direction][of].as_u64());
            let captured = [captured.bytes, captured.payload_bytes, captured.frames].map(Some);
            assert_eq!(
                counted,
                captured,
                "{} {direction}: left: counted by migtrace, right: on the wire",
                host.role()
            );
        }
    }
}

#[test]
fn the_network_disk_of_a_migrating_guest_is_not_counted() {
    let _lock = one_at_a_time();
    let lab = network_of_real_frames();
    let hosts = [lab.source(), lab.destination()];
    hosts.iter().for_each(|host| give_clients_the_migrations_ports(host));
    // The destination's QEMU needs this port.
    let reserved = format!("net.ipv4.ip_local_reserved_ports={MIGRATION_PORT}");
    lab.destination().tool("sysctl", &["-q", "-w", &reserved]).unwrap();
    let disk = NbdDisk::serve(lab.observer(), NBD_PORT).unwrap();
    let served = SocketAddr::from((lab.observer().ipv4(), NBD_PORT));
    // The source connects to the disk before the recording, the destination after its start.
    let mut source = BareQemu::on_disk(lab.source(), "networked", &disk).unwrap();
    wait_for_disk(&mut source, 10);
    let recordings = hosts.map(|host| migtrace_command::Recording::start(host, &[]).unwrap());
    let taps = hosts.map(|host| Wiretap::start(host, Host::UPLINK).unwrap());
    let mut destination =
        BareQemu::incoming_on_disk(lab.destination(), "networked", &disk, MIGRATION_PORT).unwrap();
    wait_for_disk(&mut source, 100);
    // At this rate it would take 16 s.
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, 1).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    wait_for_disk(&mut source, 100);
    let unlimited = json!({ "max-bandwidth": 1_u64 << 40 });
    source.qmp().execute("migrate-set-parameters", unlimited).unwrap();
    // The guest's count arrives with its memory. Only from then on does it show what the guest does here.
    for end in [&mut source, &mut destination] {
        end.wait_for_status("completed", PATIENCE).unwrap();
    }
    wait_for_disk(&mut destination, 100);

    let records = recordings.map(|recording| assert_replays(&recording.finish(PATIENCE).unwrap()));
    let captures = taps.map(|tap| tap.stop().unwrap());
    for ((record, capture), host) in records.iter().zip(&captures).zip(hosts) {
        let disks = connections(capture, host, served);
        assert!(disks.iter().all(|(client, _)| CLIENT_PORTS.contains(&client.port())), "{disks:?}");
        let of_disk = |way: fn(&Directions<Tally>) -> Tally| {
            disks.iter().map(|(_, of)| way(of).payload_bytes).sum::<u64>()
        };
        assert!(of_disk(|of| of.tx) > 2 * MIB && of_disk(|of| of.rx) > 2 * MIB, "{disks:?}");

        assert_only_the_migration_is_counted(record, capture, &lab, host);
    }
}

#[test]
fn connections_that_reuse_their_ports_at_once_are_counted_apart() {
    const TIMES: u64 = 5;
    let _lock = one_at_a_time();
    let lab = network_of_real_frames();
    let server = listen(lab.destination(), MIGRATION_PORT);
    let to = SocketAddr::from((lab.destination().ipv4(), MIGRATION_PORT));
    let recordings = [lab.source(), lab.destination()].map(|host| FlowRecording::start(host, &[]));
    for times in 1..=TIMES {
        let mut client = connect_from(&lab, 40_001, to);
        let mut server = server.accept().unwrap().0;
        client.write_all(&vec![0x5a; 1000 * usize::try_from(times).unwrap()]).unwrap();
        server.read_exact(&mut vec![0; 1000 * usize::try_from(times).unwrap()]).unwrap();
        drop(client);
        // Fails once the reset has arrived.
        assert!(server.read(&mut [0]).is_err());
    }
    std::thread::sleep(Duration::from_millis(300));
    for (recording, is_source) in recordings.into_iter().zip([true, false]) {
        let log = recording.stop();
        let payloads: Vec<u64> = log
            .flows_in_turn()
            .iter()
            .map(|of| if is_source { of.counters.tx } else { of.counters.rx }.payload_bytes)
            .collect();
        assert_eq!(payloads, (1..=TIMES).map(|times| 1000 * times).collect::<Vec<_>>());
        assert!(log.flows_in_turn().iter().all(|of| of.closed), "each connection was reset");
        assert_eq!(log.flows(), 5);
        assert_eq!(log.lost(), Lost::default());
    }
}
