//! migtrace counts what crosses the wire, to the byte and to the segment.
//!
//! It counts at the sender's bridge, where TCP hands down buffers of many segments. A packet socket counts independently
//! where real frames pass: at a receiver that does not join them, or, where the switch loses some, at the sender's uplink.

mod bulk_transfers;
mod flow_table_full;
mod fragments;
pub(crate) mod sleeping;
mod traffic_shapes;
mod which_connections;

use crate::support::event_log::EventLog;
use migtrace::units::{Counters, Directions};
use migtrace_lab::{Builder, Capture, Connection, Host, Lab, Tally};
use std::net::SocketAddr;

/// Far below what the kernel's queues hold, in frames of any size that these tests use.
const WINDOW_BYTES: usize = 256 << 10;

/// This setting of the thread's namespace once controlled early retransmit, hence its name; today only tail loss probes.
const TAIL_LOSS_PROBES: &str = "/proc/sys/net/ipv4/tcp_early_retrans";

/// Two hosts with real frames between them, in both directions.
fn network_of_frames(builder: Builder) -> Lab {
    let lab = builder.without_guests().sender_offloads(false).receiver_gro(false).start().unwrap();
    for interface in [Host::BRIDGE, Host::UPLINK] {
        lab.destination().set_offloads(interface, &["tso", "gso"], false).unwrap();
    }
    // Without loss nothing may be sent again, but on a busy machine a tail loss probe would be sent for nothing.
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

/// The addresses of a connection, which are needed after its end.
fn ends(connection: &Connection) -> (SocketAddr, SocketAddr) {
    (connection.local().unwrap(), connection.remote().unwrap())
}

/// What both migtrace and the packet socket count.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct WireCounts {
    wire_bytes: u64,
    payload_bytes: u64,
    segments: u64,
}

impl From<Counters> for WireCounts {
    fn from(counters: Counters) -> Self {
        let Counters { wire_bytes, payload_bytes, segments, .. } = counters;
        Self { wire_bytes, payload_bytes, segments }
    }
}

impl From<Tally> for WireCounts {
    fn from(tally: Tally) -> Self {
        let Tally { frames, bytes, payload_bytes, .. } = tally;
        Self { wire_bytes: bytes, payload_bytes, segments: frames }
    }
}

fn comparable<T: Into<WireCounts>>(pair: Directions<T>) -> Directions<WireCounts> {
    pair.map(Into::into)
}

/// What migtrace counted of a connection.
fn counted(log: &EventLog, (local, remote): (SocketAddr, SocketAddr)) -> Directions<Counters> {
    let flow = log.flow(local, remote).unwrap_or_else(|| panic!("{local} - {remote} was not counted"));
    assert_eq!(flow.elsewhere_skbs, 0);
    flow.counters
}

/// What crossed the wire according to the packet socket. tx is what the local end sent.
fn captured(capture: &Capture, (local, remote): (SocketAddr, SocketAddr)) -> Directions<Tally> {
    let pair = Directions { tx: capture.stream(local, remote), rx: capture.stream(remote, local) };
    for tally in [pair.tx, pair.rx] {
        assert!(tally.longest_bytes <= 9014, "the packet socket saw buffers of many frames: {tally:?}");
    }
    pair
}

fn assert_exact(log: &EventLog, capture: &Capture, ends: (SocketAddr, SocketAddr)) {
    let counted = comparable(counted(log, ends));
    let captured = comparable(captured(capture, ends));
    assert_eq!(counted, captured, "left: counted by migtrace, right: on the wire");
}

/// Checks that migtrace counted as many retransmissions as the sender's TCP, and that the payload without them is what was
/// written. Even without loss there may be a few: on a busy machine an acknowledgement may be late.
fn assert_goodput(
    log: &EventLog,
    (local, remote): (SocketAddr, SocketAddr),
    written: u64,
    retransmitted: u64,
) {
    let flow = log.flow(local, remote).unwrap();
    assert_eq!(flow.retransmitted_segments, Some(retransmitted), "{flow:?}");
    let goodput = flow.counters.tx.payload_bytes - flow.retransmitted_payload_bytes.unwrap();
    assert_eq!(goodput, written, "{flow:?}");
}
