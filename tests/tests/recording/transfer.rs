//! Connections that look like a migration's, and what a tap sees of them.

use super::Facts;
use migtrace::units::Directions;
use migtrace_lab::{Connection, Host, Lab, Tally, Wiretap};
use std::net::SocketAddr;

const MIB: u64 = 1 << 20;
const PORT: u16 = 49152;

pub(crate) fn connect(lab: &Lab) -> Connection {
    Connection::open(lab.source(), lab.destination(), false, PORT, 256 << 10).unwrap()
}

/// Two hosts between which real frames cross. Through the source's bridge go buffers of many, so that it counts what
/// programs see.
pub(crate) fn network() -> Lab {
    let lab = Lab::builder().without_guests().receiver_gro(false).start().unwrap();
    lab.source().set_offloads(Host::UPLINK, &["tso", "gso"], false).unwrap();
    for interface in [Host::BRIDGE, Host::UPLINK] {
        lab.destination().set_offloads(interface, &["tso", "gso"], false).unwrap();
    }
    lab
}

/// A connection that has carried bytes both ways, and what a tap has seen of it.
pub(crate) struct Transfer {
    local: SocketAddr,
    remote: SocketAddr,
    truth: Directions<Tally>,
}

/// Sends both ways.
pub(crate) fn transfer(lab: &Lab) -> Transfer {
    let tap = Wiretap::start(lab.source(), Host::UPLINK).unwrap();
    let connection = connect(lab);
    let (local, remote) = (connection.local().unwrap(), connection.remote().unwrap());
    connection.send(8 * MIB, 64 << 10).unwrap();
    connection.send_back(MIB, 64 << 10).unwrap();
    connection.close().unwrap();
    let capture = tap.stop().unwrap();
    let truth = Directions { tx: capture.stream(local, remote), rx: capture.stream(remote, local) };
    assert!(truth.tx.longest_bytes <= 1514 && truth.rx.longest_bytes <= 1514, "{truth:?}");
    Transfer { local, remote, truth }
}

impl Transfer {
    pub(crate) fn is_counted_by(&self, facts: &Facts) {
        let counted = facts.flow(self.local, self.remote).expect("the connection was not counted").counters;
        assert_eq!(
            counted.map(|counters| [counters.wire_bytes, counters.payload_bytes, counters.segments]),
            self.truth.map(|tally| [tally.bytes, tally.payload_bytes, tally.frames]),
            "left is what migtrace counted, right is what crossed: bytes, payload, segments",
        );
    }
}
