//! Connections on a port of migrations, and what a packet socket sees of them.

use super::event_log::EventLog;
use super::{MIB, MIGRATION_PORT};
use migtrace::units::Directions;
use migtrace_lab::{Connection, Host, Lab, Tally, Wiretap};
use std::net::SocketAddr;

pub(crate) fn connect(lab: &Lab) -> Connection {
    Connection::open(lab.source(), lab.destination(), false, MIGRATION_PORT, 256 << 10).unwrap()
}

/// Two hosts with real frames between them. Only on the source's bridge do buffers of many segments pass, so its own
/// statistics count what its eBPF programs see.
pub(crate) fn network_of_real_frames() -> Lab {
    let lab = Lab::builder().without_guests().receiver_gro(false).start().unwrap();
    lab.source().set_offloads(Host::UPLINK, &["tso", "gso"], false).unwrap();
    for interface in [Host::BRIDGE, Host::UPLINK] {
        lab.destination().set_offloads(interface, &["tso", "gso"], false).unwrap();
    }
    lab
}

/// A connection that carried bytes both ways, and what a packet socket saw of it.
pub(crate) struct Transfer {
    local: SocketAddr,
    remote: SocketAddr,
    crossed: Directions<Tally>,
}

/// Opens a connection, sends both ways, and closes it.
pub(crate) fn transfer(lab: &Lab) -> Transfer {
    let tap = Wiretap::start(lab.source(), Host::UPLINK).unwrap();
    let connection = connect(lab);
    let (local, remote) = (connection.local().unwrap(), connection.remote().unwrap());
    connection.send(8 * MIB, 64 << 10).unwrap();
    connection.send_back(MIB, 64 << 10).unwrap();
    connection.close().unwrap();
    let capture = tap.stop().unwrap();
    let crossed = Directions { tx: capture.stream(local, remote), rx: capture.stream(remote, local) };
    assert!(crossed.tx.longest_bytes <= 1514 && crossed.rx.longest_bytes <= 1514, "{crossed:?}");
    Transfer { local, remote, crossed }
}

impl Transfer {
    /// Checks that a recording counted exactly what crossed.
    pub(crate) fn assert_counted_by(&self, log: &EventLog) {
        let counted = log.flow(self.local, self.remote).expect("the connection was not counted").counters;
        assert_eq!(
            counted.map(|counters| [counters.wire_bytes, counters.payload_bytes, counters.segments]),
            self.crossed.map(|tally| [tally.bytes, tally.payload_bytes, tally.frames]),
            "left: counted by migtrace, right: on the wire (wire bytes, payload bytes, segments)",
        );
    }
}
