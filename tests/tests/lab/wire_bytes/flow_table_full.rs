//! More connections than the flow table has room for.

use super::{assert_exact, connect, ends, network_of_frames};
use crate::support::event_log::{EventLog, FlowRecording};
use crate::support::{MIB, MIGRATION_PORT, one_at_a_time};
use migtrace_lab::{Capture, Host, Lab, Wiretap};
use std::net::SocketAddr;

/// Opens these connections, over IPv6 or not, while the table has room for three flows, and sends 1 MiB over each. One of
/// the three is for fragments.
fn overfill<const N: usize>(over_ipv6: [bool; N]) -> (EventLog, Capture, [(SocketAddr, SocketAddr); N]) {
    let lab = network_of_frames(Lab::builder());
    let recording = FlowRecording::start(lab.source(), &["--flow-capacity", "3"]);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    let connections = over_ipv6.map(|ipv6| connect(&lab, ipv6, MIGRATION_PORT));
    let all_ends = connections.each_ref().map(ends);
    for connection in connections {
        connection.send(MIB, 64 << 10).unwrap();
        connection.close().unwrap();
    }
    let capture = tap.stop().unwrap();
    (recording.stop(), capture, all_ends)
}

#[test]
fn when_the_flow_table_is_full_the_loss_is_reported_and_the_first_flows_stay_exact() {
    let _lock = one_at_a_time();
    let (log, capture, all_ends) = overfill([false; 4]);
    assert_eq!(log.flows(), 2);
    for ends in &all_ends[..2] {
        assert_exact(&log, &capture, *ends);
    }
    let lost = log.lost();
    // For each of the other two connections at least these buffers could not be counted: the end of the handshake, the
    // data in 64 KiB buffers, and the end. Packets that come back never open an entry.
    assert!(lost.flows > 2 * (1 + 16 + 1), "{lost:?}");
    assert_eq!((lost.ring_buffer, lost.hook_calls), (0, 0));
}

#[test]
fn when_only_fragments_do_not_fit_into_the_flow_table_that_is_reported() {
    let _lock = one_at_a_time();
    // There is room for the fragments between the addresses of only one of these connections.
    let (log, capture, all_ends) = overfill([false, true]);
    for ends in all_ends {
        assert_exact(&log, &capture, ends);
    }
    let lost = log.lost();
    assert_eq!((lost.flows, lost.ring_buffer, lost.hook_calls), (1, 0, 0));
}
