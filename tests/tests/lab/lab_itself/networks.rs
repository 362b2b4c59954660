//! The networks of the lab's hosts, and commands on them.

use crate::support::{MIGRATION_PORT, network};
use migtrace_lab::{Host, Lab};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Sends `bytes` over one TCP connection from the source to `address` of the destination. Returns how long that took.
fn send(lab: &Lab, address: impl Into<IpAddr>, bytes: usize) -> Duration {
    let to = SocketAddr::new(address.into(), MIGRATION_PORT);
    let listener = lab.destination().enter(|| TcpListener::bind(to)).unwrap().unwrap();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    });
    let mut stream = lab.source().enter(|| TcpStream::connect(to)).unwrap().unwrap();
    let started = Instant::now();
    stream.write_all(&vec![0x55; bytes]).unwrap();
    drop(stream);
    assert_eq!(receiver.join().unwrap(), bytes as u64);
    started.elapsed()
}

#[test]
fn a_host_sends_through_the_switch_at_its_configured_rate() {
    let lab = Lab::builder().without_guests().rate("80mbit").start().unwrap();
    let elapsed = send(&lab, lab.destination().ipv4(), 4 << 20);
    // 4 MiB at 80 Mbit/s take 0.42 s; the first 256 KiB are not limited.
    assert!(elapsed > Duration::from_millis(380), "{elapsed:?}");
}

/// The TCP segments that one of the two hosts sent and the other did not receive, as their kernels count them.
fn missing_segments(lab: &Lab) -> u64 {
    let of = |host: &Host| {
        let tcp = |name| host.tcp_statistic("snmp", "Tcp", name).unwrap();
        // A SYN-ACK that is sent again is counted twice.
        let twice = host.tcp_statistic("netstat", "TcpExt", "TCPSynRetrans").unwrap();
        (tcp("OutSegs") + tcp("RetransSegs"), tcp("InSegs"), twice)
    };
    let ((sent, received, _), (answered, arrived, twice)) = (of(lab.source()), of(lab.destination()));
    (sent + answered - twice).saturating_sub(received + arrived)
}

#[test]
fn the_switch_drops_as_many_packets_as_it_counts() {
    let lab = Lab::builder().without_guests().sender_offloads(false).receiver_gro(false).start().unwrap();
    lab.drop_packets(20).unwrap();
    send(&lab, lab.destination().ipv6(), 4 << 20);
    // As many segments are missing, once the last ones have arrived or are lost.
    let started = Instant::now();
    let dropped = loop {
        let (missed, dropped) = (missing_segments(&lab), lab.dropped_packets().unwrap());
        if missed == dropped {
            break dropped;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{missed} missed, {dropped} dropped");
        std::thread::sleep(Duration::from_millis(10));
    };
    // It drops 20 of 1000 packets: about 2900 frames of data, and their acknowledgements.
    assert!((20..400).contains(&dropped), "{dropped}");
    assert!(lab.source().retransmitted_segments().unwrap() > 0);
    lab.drop_packets(0).unwrap();
    lab.dropped_packets().unwrap_err();
}

#[test]
fn a_dropped_guard_returns_the_thread_to_its_namespace() {
    let lab = network();
    let namespace = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let home = namespace();
    {
        let _guard = lab.source().guard().unwrap();
        assert_ne!(namespace(), home);
        assert_eq!(namespace(), lab.source().enter(namespace).unwrap());
    }
    assert_eq!(namespace(), home);
}

#[test]
fn a_command_on_a_host_uses_its_network_and_is_killed_when_dropped() {
    let lab = network();
    let output = lab.observer().run(Command::new("ip").args(["-brief", "address"])).unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("10.77.0.3/24"), "{output:?}");
    let error = lab.source().tool("ip", &["link", "show", "eth7"]).unwrap_err().to_string();
    assert!(error.contains("ip link show eth7") && error.contains("src"), "{error}");

    let sleeper = lab.source().spawn(Command::new("sleep").arg("7777")).unwrap();
    let directory = format!("/proc/{}", sleeper.id());
    assert!(Path::new(&directory).exists());
    drop(sleeper);
    assert!(!Path::new(&directory).exists());
}
