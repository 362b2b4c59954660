//! Whatever others send, and whatever ports they use: what is counted is the migration, to the byte.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod recording;

use lab::consistency::assert_replays;
use lab::{Bare, Capture, Host, Lab, NbdDisk, Tally, Wiretap, tracing};
use migtrace::units::Directions;
use migtrace::vocabulary::Lost;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrStorage, bind, connect,
    sendto, setsockopt, socket, sockopt,
};
use recording::Recording;
use recording::transfer::{network, transfer};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const PORT: u16 = 49152;
/// Where somebody listens, as a QEMU does that waits for a migration.
const OPEN_PORT: u16 = 49153;
const NBD_PORT: u16 = 10809;
/// What programs that connect get for their end on the source: the ports of migrations.
const CLIENT_PORTS: RangeInclusive<u16> = 49152..=49215;
const PATIENCE: Duration = Duration::from_secs(30);

/// How many strangers there are: more than there is room for connections.
const STRANGERS: u16 = 6_000;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// One lab at a time.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An address of nobody's (RFC 2544).
fn stranger(number: u16) -> SocketAddrV4 {
    let [high, low] = number.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(198, 18, high, low), 1024 + number)
}

/// Sums up 16-bit words as the checksums of IP and TCP do.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

/// A TCP segment without payload, behind its IPv4 header.
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

/// Sends SYNs, and packets of connections that there never were, from many addresses to both ports.
fn flood(from: &Host, target: Ipv4Addr) {
    let open = || {
        let raw = SockProtocol::Raw;
        socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, raw).unwrap()
    };
    // IPPROTO_RAW: the header is the sender's.
    let socket = from.enter(open).unwrap();
    let to = SockaddrStorage::from(SocketAddr::from((target, 0)));
    for number in 0..STRANGERS {
        for port in [PORT, OPEN_PORT] {
            for flags in [SYN, ACK, RST | ACK] {
                let packet = segment(stranger(number), SocketAddrV4::new(target, port), flags);
                sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
            }
        }
    }
}

/// A connection from a port of the source's; who closes it gives the port free at once.
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

/// Somebody listens at a host.
fn listen(host: &Host, port: u16) -> TcpListener {
    host.enter(|| TcpListener::bind(("0.0.0.0", port)).unwrap()).unwrap()
}

fn give_clients_the_migrations_ports(host: &Host) {
    let range = format!("net.ipv4.ip_local_port_range={} {}", CLIENT_PORTS.start(), CLIENT_PORTS.end());
    host.tool("sysctl", &["-q", "-w", &range]).unwrap();
}

#[test]
fn a_flood_of_strangers_hides_nothing_and_is_nothing() {
    let _lock = one_at_a_time();
    let lab = network();
    // So that they are answered.
    let source = lab.source().ipv4().to_string();
    lab.destination().tool("ip", &["route", "add", "198.18.0.0/15", "via", &source]).unwrap();
    for attach in ["auto", "clsact"] {
        let _listener = listen(lab.destination(), OPEN_PORT);
        let recordings =
            [lab.source(), lab.destination()].map(|host| Recording::start(host, &["--attach", attach]));
        let (from, target) = (lab.source(), lab.destination().ipv4());
        flood(from, target);
        let before = transfer(&lab);
        let during = std::thread::scope(|scope| {
            scope.spawn(|| flood(from, target));
            transfer(&lab)
        });
        let [source, destination] = recordings.map(Recording::stop);
        for moved in [&before, &during] {
            moved.is_counted_by(&source);
        }
        assert_eq!((source.flows(), destination.flows()), (2, 2), "{attach}");
        for facts in [&source, &destination] {
            assert_eq!(facts.lost(), Lost::default(), "{attach}");
            assert_eq!(facts.not_measured(), [""; 0], "{attach}");
        }
    }
}

#[test]
fn a_host_whose_clients_have_the_migrations_ports_counts_migrations_only() {
    let _lock = one_at_a_time();
    let lab = network();
    give_clients_the_migrations_ports(lab.source());
    let server = listen(lab.destination(), NBD_PORT);
    let to = SocketAddr::from((lab.destination().ipv4(), NBD_PORT));
    let mut older = connect_from(&lab, 49_200, to);
    let mut older_server = server.accept().unwrap().0;
    let recording = Recording::start(lab.source(), &[]);
    let mut disk = lab.source().enter(|| TcpStream::connect(to).unwrap()).unwrap();
    assert!(CLIENT_PORTS.contains(&disk.local_addr().unwrap().port()), "else this proves nothing");
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
    let facts = recording.stop();
    moved.is_counted_by(&facts);
    assert_eq!(facts.flows(), 1);
}

/// Reads from a disk of the server's: requests of some bytes, and answers of many.
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
fn a_disk_at_a_port_of_migrations_is_none_once_it_is_read() {
    let _lock = one_at_a_time();
    let lab = network();
    let server = listen(lab.destination(), OPEN_PORT);
    let to = SocketAddr::from((lab.destination().ipv4(), OPEN_PORT));
    let disk = || {
        let client = lab.source().enter(|| TcpStream::connect(to).unwrap()).unwrap();
        (client, server.accept().unwrap().0)
    };
    let mut older = disk();
    read_disk(&mut older.0, &mut older.1, 20);
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &[]));
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
    // Long enough for two looks at what belongs to no connection.
    std::thread::sleep(Duration::from_secs(3));
    let [source, destination] = recordings.map(Recording::stop);
    moved.is_counted_by(&source);
    for (facts, is_client) in [(&source, true), (&destination, false)] {
        let ends =
            |[client, server]: [SocketAddr; 2]| if is_client { (client, server) } else { (server, client) };
        assert_eq!(facts.flows(), 2, "the newer disk, and what looks like a migration");
        assert!(facts.flow(ends(older).0, ends(older).1).is_none(), "the older disk was known for one");
        let counted = facts.flow(ends(newer).0, ends(newer).1).unwrap().counters;
        let read = counted.tx.payload_bytes + counted.rx.payload_bytes;
        assert!((16 * MIB..30 * MIB).contains(&read), "{read} bytes were counted of the newer disk");
        assert_eq!(facts.lost(), Lost::default());
    }
}

/// Waits until a guest has used its disk so many times more.
fn wait_for_disk(guest: &mut Bare, times: u32) {
    let until = guest.count().unwrap() + times;
    let deadline = Instant::now() + PATIENCE;
    while guest.count().unwrap() < until {
        assert!(Instant::now() < deadline, "the guest does not use its disk");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a tap saw of the connections of a host to this port of another: the port of each, and bytes and segments each way.
fn connections(capture: &Capture, from: &Host, to: SocketAddr) -> Vec<(SocketAddr, Directions<Tally>)> {
    let of_host = capture
        .streams
        .iter()
        .filter(|((sender, receiver), _)| (sender.ip(), *receiver) == (from.ipv4().into(), to));
    of_host
        .map(|((sender, _), tx)| (*sender, Directions { tx: *tx, rx: capture.stream(to, *sender) }))
        .collect()
}

#[test]
fn a_guest_whose_disk_has_the_migrations_ports_moves_and_its_disk_is_not_counted() {
    let _lock = one_at_a_time();
    let lab = network();
    let hosts = [lab.source(), lab.destination()];
    hosts.iter().for_each(|host| give_clients_the_migrations_ports(host));
    // Where somebody is to listen.
    let reserved = format!("net.ipv4.ip_local_reserved_ports={PORT}");
    lab.destination().tool("sysctl", &["-q", "-w", &reserved]).unwrap();
    let disk = NbdDisk::serve(lab.observer(), NBD_PORT).unwrap();
    let served = SocketAddr::from((lab.observer().ipv4(), NBD_PORT));
    // The source's connection to the disk is older than the recording, the destination's is not.
    let mut source = Bare::on_disk(lab.source(), "networked", &disk).unwrap();
    wait_for_disk(&mut source, 10);
    let recordings = hosts.map(|host| tracing::Recording::start(host, &[]).unwrap());
    let taps = hosts.map(|host| Wiretap::start(host, Host::UPLINK).unwrap());
    let mut destination = Bare::incoming_on_disk(lab.destination(), "networked", &disk, PORT).unwrap();
    wait_for_disk(&mut source, 100);
    // It would take 16 s.
    source.migrate(lab.destination().ipv4(), PORT, 1).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    wait_for_disk(&mut source, 100);
    let unlimited = json!({ "max-bandwidth": 1_u64 << 40 });
    source.qmp().execute("migrate-set-parameters", unlimited).unwrap();
    // What the guest has counted arrives with its memory: only then does it tell what it does here.
    for end in [&mut source, &mut destination] {
        end.wait_for_status("completed", PATIENCE).unwrap();
    }
    wait_for_disk(&mut destination, 100);

    let records = recordings.map(|recording| assert_replays(&recording.finish(PATIENCE).unwrap()));
    let captures = taps.map(|tap| tap.stop().unwrap());
    let listener = SocketAddr::from((lab.destination().ipv4(), PORT));
    for ((record, capture), host) in records.iter().zip(&captures).zip(hosts) {
        let disks = connections(capture, host, served);
        assert!(disks.iter().all(|(client, _)| CLIENT_PORTS.contains(&client.port())), "{disks:?}");
        let of_disk = |way: fn(&Directions<Tally>) -> Tally| {
            disks.iter().map(|(_, of)| way(of).payload_bytes).sum::<u64>()
        };
        assert!(of_disk(|of| of.tx) > 2 * MIB && of_disk(|of| of.rx) > 2 * MIB, "{disks:?}");

        let migrations = connections(capture, lab.source(), listener);
        let [(client, truth)] = &migrations[..] else { panic!("{migrations:?}") };
        assert!(truth.tx.longest_bytes <= 1514 && truth.rx.longest_bytes <= 1514, "{truth:?}");
        assert!(CLIENT_PORTS.contains(&client.port()));
        let flows = record["traffic"]["flows"].as_array().unwrap();
        assert_eq!(flows.len(), 1, "{flows:#?}");
        let is_source = host.role() == lab.source().role();
        let ends = if is_source { [*client, listener] } else { [listener, *client] };
        assert_eq!([&flows[0]["local"], &flows[0]["remote"]], ends.map(|end| end.to_string()).each_ref());
        for counted in [&flows[0]["counters"], &record["traffic"]["total"]] {
            for (way, truth) in [("tx", truth.tx), ("rx", truth.rx)] {
                let counted = ["wire_bytes", "payload_bytes", "segments"].map(|of| counted[way][of].as_u64());
                let truth = [truth.bytes, truth.payload_bytes, truth.frames].map(Some);
                assert_eq!(
                    counted,
                    truth,
                    "{} {way}: left is what migtrace counted, right is what crossed",
                    host.role()
                );
            }
        }
    }
}

#[test]
fn ports_that_are_used_again_at_once_are_another_connection_each_time() {
    const TIMES: u64 = 5;
    let _lock = one_at_a_time();
    let lab = network();
    let server = listen(lab.destination(), PORT);
    let to = SocketAddr::from((lab.destination().ipv4(), PORT));
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &[]));
    for times in 1..=TIMES {
        let mut client = connect_from(&lab, 40_001, to);
        let mut server = server.accept().unwrap().0;
        client.write_all(&vec![0x5a; 1000 * usize::try_from(times).unwrap()]).unwrap();
        server.read_exact(&mut vec![0; 1000 * usize::try_from(times).unwrap()]).unwrap();
        drop(client);
        // The reset has come.
        assert!(server.read(&mut [0]).is_err());
    }
    std::thread::sleep(Duration::from_millis(300));
    for (recording, is_source) in recordings.into_iter().zip([true, false]) {
        let facts = recording.stop();
        let payloads: Vec<u64> = facts
            .of_each_connection()
            .iter()
            .map(|of| if is_source { of.counters.tx } else { of.counters.rx }.payload_bytes)
            .collect();
        assert_eq!(payloads, (1..=TIMES).map(|times| 1000 * times).collect::<Vec<_>>());
        assert!(facts.of_each_connection().iter().all(|of| of.closed), "each was reset");
        assert_eq!(facts.flows(), 5);
        assert_eq!(facts.lost(), Lost::default());
    }
}
