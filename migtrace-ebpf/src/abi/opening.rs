//! Connections that open while nothing is counted.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Indices of the map `WAKING`.
pub mod waking {
    /// 1 while openings are noted.
    pub const NOTES: u32 = 0;
    /// 1 while the next opening is to be reported. The program sets it to 0 when it reports one, so that nobody can fill
    /// the ring buffer by opening connections.
    pub const ARMED: u32 = 1;
    /// How many there are.
    pub const COUNT: usize = 2;
}

/// How many openings are kept. The oldest make room.
pub const OPENINGS: usize = 1024;

/// A connection to a watched port that has opened while openings are noted.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct Opening {
    /// `CLOCK_MONOTONIC` just before this host has sent the SYN; 0: the other end has opened it, or it began before openings
    /// were noted.
    pub began_ns: u64,
    /// `CLOCK_MONOTONIC` when it was open at this end.
    pub opened_ns: u64,
    /// The sequence numbers of both SYNs, indexed by [`INGRESS`](super::INGRESS) and [`EGRESS`](super::EGRESS).
    pub initial_sequences: [u32; 2],
    /// 1 when this host has opened it.
    pub by_this_host: u32,
    /// The first bytes that a traced process has written to it, big endian, if they show what it carries; else 0.
    pub first_payload: u32,
}

/// Offsets, in bytes, of what is read of a connection that opens. All zero: not known, so openings are not noted.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct OpeningOffsets {
    /// `sock_common.skc_net`
    pub net: u32,
    /// `net.ns` + `ns_common.inum`
    pub net_inum: u32,
    /// `tcp_sock.snd_una`
    pub snd_una: u32,
    /// `tcp_sock.rcv_nxt`
    pub rcv_nxt: u32,
}
