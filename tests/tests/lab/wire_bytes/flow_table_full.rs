//! More connections than the flow table has room for.

use super::{assert_exact, connect, ends, network_of_frames};
use crate::support::event_log::FlowRecording;
use crate::support::{MIB, MIGRATION_PORT, one_at_a_time};
use migtrace_lab::{Host, Lab, Wiretap};

#[test]
fn when_the_flow_table_is_full_the_loss_is_reported_and_the_first_flows_stay_exact() {
    let _lock = one_at_a_time();
    let lab = network_of_frames(Lab::builder());
    // Room for two connections, and for the fragments between their hosts.
    let recording = FlowRecording::start(lab.source(), &["--flow-capacity", "3"]);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    let connections = [(); 4].map(|()| connect(&lab, false, MIGRATION_PORT));
    let all_ends = connections.each_ref().map(ends);
    for connection in connections {
        connection.send(MIB, 64 << 10).unwrap();
        connection.close().unwrap();
    }
    let capture = tap.stop().unwrap();
    let log = recording.stop();
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
    let lab = network_of_frames(Lab::builder());
    // Room for two connections, and for the fragments between the addresses of one of them.
    let recording = FlowRecording::start(lab.source(), &["--flow-capacity", "3"]);
    let tap = Wiretap::start(lab.destination(), Host::UPLINK).unwrap();
    let connections = [false, true].map(|ipv6| connect(&lab, ipv6, MIGRATION_PORT));
    let all_ends = connections.each_ref().map(ends);
    for connection in connections {
        connection.send(MIB, 64 << 10).unwrap();
        connection.close().unwrap();
    }
    let capture = tap.stop().unwrap();
    let log = recording.stop();
    for ends in all_ends {
        assert_exact(&log, &capture, ends);
    }
    let lost = log.lost();
    assert_eq!((lost.flows, lost.ring_buffer, lost.hook_calls), (1, 0, 0));
}
