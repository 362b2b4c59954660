//! Transfers of 200 MiB, with and without loss.

use super::{TAIL_LOSS_PROBES, assert_exact, assert_goodput, connect, counted, ends, network_of_frames};
use crate::support::event_log::FlowRecording;
use crate::support::{MIB, MIGRATION_PORT, one_at_a_time};
use migtrace::vocabulary::Lost;
use migtrace_lab::{Host, Lab, Wiretap};

/// The packets and bytes that a device has received, by its own statistics.
fn received(host: &Host, interface: &str) -> (u64, u64) {
    let text = host.tool("ip", &["-j", "-s", "link", "show", "dev", interface]).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    let statistics = &links[0]["stats64"]["rx"];
    (statistics["packets"].as_u64().unwrap(), statistics["bytes"].as_u64().unwrap())
}

/// Sends 200 MiB without loss, and compares every figure with the receiver's.
fn assert_exact_without_loss(ipv6: bool, attach: &str) {
    let _lock = one_at_a_time();
    let lab = network_of_frames(Lab::builder());
    let recording = FlowRecording::start(lab.source(), &["--attach", attach]);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    let before = received(lab.destination(), Host::UPLINK);

    let connection = connect(&lab, ipv6, MIGRATION_PORT);
    let ends = ends(&connection);
    connection.send(200 * MIB, 64 << 10).unwrap();
    connection.close().unwrap();

    let after = received(lab.destination(), Host::UPLINK);
    let capture = tap.stop().unwrap();
    let log = recording.stop();
    assert_exact(&log, &capture, ends);
    assert_goodput(&log, ends, 200 * MIB, lab.source().retransmitted_segments().unwrap());
    assert_eq!(counted(&log, ends).rx.payload_bytes, 0);
    let flow = log.flow(ends.0, ends.1).unwrap();
    assert!(flow.closed && log.is_from_start(ends.0));
    assert_eq!(log.lost(), Lost::default());

    // The test proves little unless migtrace saw buffers of many segments.
    let tx = counted(&log, ends).tx;
    assert!(tx.skbs * 4 < tx.segments, "{tx:?}");
    // The device confirms the packet socket: except for a stray neighbour solicitation, nothing else crossed.
    let stream = capture.stream(ends.0, ends.1);
    let (packets, bytes) = (after.0 - before.0, after.1 - before.1);
    let (most_packets, most_bytes) = (stream.frames + 20, stream.bytes + 20 * 100);
    assert!(
        (stream.frames..most_packets).contains(&packets),
        "packet socket {stream:?}, device {packets} packets"
    );
    assert!((stream.bytes..most_bytes).contains(&bytes), "packet socket {stream:?}, device {bytes} bytes");
}

#[test]
fn every_byte_and_segment_of_200_mib_over_ipv4_is_counted() {
    assert_exact_without_loss(false, "tcx");
}

#[test]
fn every_byte_and_segment_of_200_mib_over_ipv6_is_counted() {
    assert_exact_without_loss(true, "tcx");
}

#[test]
fn a_clsact_filter_counts_the_same() {
    assert_exact_without_loss(false, "clsact");
}

/// Sends 200 MiB of which some frames are lost behind the sender's uplink, and compares retransmissions too.
fn assert_exact_with_loss(ipv6: bool) {
    let _lock = one_at_a_time();
    let lab = network_of_frames(Lab::builder());
    // The kernel sends tail loss probes from another function than other retransmissions.
    lab.source().enter(|| std::fs::write(TAIL_LOSS_PROBES, "3").unwrap()).unwrap();
    let recording = FlowRecording::start(lab.source(), &[]);
    let tap = Wiretap::start(lab.source(), Host::UPLINK).unwrap();

    let connection = connect(&lab, ipv6, MIGRATION_PORT);
    let ends = ends(&connection);
    lab.drop_packets(5).unwrap();
    connection.send(200 * MIB, 64 << 10).unwrap();
    let dropped = lab.dropped_packets().unwrap();
    lab.drop_packets(0).unwrap();
    connection.close().unwrap();

    let capture = tap.stop().unwrap();
    let log = recording.stop();
    assert!(dropped > 200, "only {dropped} packets were lost");
    assert_exact(&log, &capture, ends);
    let retransmitted = lab.source().retransmitted_segments().unwrap();
    assert_goodput(&log, ends, 200 * MIB, retransmitted);
    assert!(retransmitted >= dropped / 2, "{dropped} were lost, {retransmitted} were sent again");
    let tx = counted(&log, ends).tx;
    assert!(tx.skbs < tx.segments, "{tx:?}");
    assert_eq!(log.lost(), Lost::default());
}

#[test]
fn retransmissions_over_ipv4_are_counted_and_known_as_such() {
    assert_exact_with_loss(false);
}

#[test]
fn retransmissions_over_ipv6_are_counted_and_known_as_such() {
    assert_exact_with_loss(true);
}
