//! Flows: their keys, counters and events.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::EventHeader;
use super::shared_values::shared_values;
use crate::word::Words as _;

/// A packet that came in through the interface.
pub const INGRESS: u8 = 0;
/// A packet that goes out through the interface.
pub const EGRESS: u8 = 1;

/// One TCP connection, as this host sees it: what goes out was sent by the local end.
///
/// A key whose ports are 0 is the bucket for IP fragments between the two addresses.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct FlowKey {
    /// This host's address in network order; IPv4 as `::ffff:a.b.c.d`.
    pub local: [u32; 4],
    /// The other end's address, in the same form.
    pub remote: [u32; 4],
    /// This host's port, host order.
    pub local_port: u16,
    /// The other end's port, host order.
    pub remote_port: u16,
}

impl FlowKey {
    /// The bucket for fragments between the same addresses.
    #[must_use]
    pub const fn fragments(&self) -> Self {
        Self { local_port: 0, remote_port: 0, ..*self }
    }
}

/// Bits of [`Direction::flags`].
pub mod flags {
    /// The opening of the connection (SYN) was seen: nothing crossed before what was counted.
    pub const SYN: u32 = 1;
    /// This direction was closed (FIN), and nothing new was sent since.
    pub const FIN: u32 = 2;
    /// This side has reset the connection (RST), and has sent nothing since.
    pub const RST: u32 = 4;
    /// Payload was seen: `first_payload` holds its first bytes.
    pub const PAYLOAD: u32 = 8;
    /// A packet was seen.
    pub const STARTED: u32 = 16;
    /// Somebody opens a new connection between the same ends: see [`Handshake`](super::Handshake).
    pub const REOPENING: u32 = 32;
    /// User space is about to remove the entry: it no longer counts.
    pub const RETIRED: u32 = 64;
}

/// The sum over the flows of one process, in one direction.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct Sum {
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// TCP payload bytes.
    pub payload_bytes: u64,
    /// Frames on the wire.
    pub segments: u64,
    /// Socket buffers.
    pub skbs: u64,
}

/// [`Sum`] of both directions.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct Sums {
    /// Indexed by [`INGRESS`] and [`EGRESS`].
    pub by_direction: [Sum; 2],
}

/// A flow is open, or its first payload was seen.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct FlowEvent {
    /// When, and which of the two.
    pub header: EventHeader,
    /// The flow.
    pub key: FlowKey,
    /// Interface of the flow's first packet; 0 with payload.
    pub ifindex: u32,
    /// As in [`FlowEntry`].
    pub opened_ns: u64,
    /// `CLOCK_MONOTONIC` of the flow's first packet; 0 with payload.
    pub first_ns: u64,
    /// As in [`Direction`]; 0 without payload.
    pub first_payload: u32,
    /// As in [`Direction`], indexed by [`INGRESS`] and [`EGRESS`]; 0 with payload.
    pub initial_sequences: [u32; 2],
    /// Zero.
    pub padding: u32,
}

/// One of the two ways to cross a milestone of a stream: see [`Milestone`].
pub mod crossed_by {
    /// A packet of the stream ends there, or later.
    pub const PAYLOAD: u32 = 0;
    /// A packet of the other direction acknowledges everything up to there.
    pub const ACKNOWLEDGEMENT: u32 = 1;
}

/// The milestones from `first` to `last` were crossed for the first time, all by one packet.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct MilestonesCrossed {
    /// When.
    pub header: EventHeader,
    /// The flow.
    pub key: FlowKey,
    /// The way that the packet went: [`INGRESS`] or [`EGRESS`].
    pub direction: u32,
    /// As in [`FlowEntry`].
    pub opened_ns: u64,
    /// No milestone from here on had been crossed before.
    pub first: u64,
    /// The position that was reached.
    pub last: u64,
    /// One of [`crossed_by`].
    pub crossed_by: u32,
    /// Zero.
    pub padding: u32,
}

/// The owner of a flow is known: from now on the flow's counters are in the sums over that process' flows.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct FlowOwned {
    /// When, and who owns it.
    pub header: EventHeader,
    /// The flow.
    pub key: FlowKey,
    /// 1 when user space has found the owner.
    pub by_user_space: u32,
    /// As in [`FlowEntry`].
    pub opened_ns: u64,
    /// What had crossed by then.
    pub crossed: Sums,
    /// `CLOCK_MONOTONIC` of the last packet of that; 0: there was none.
    pub last_ns: u64,
}

/// A flow is over, because there is a new connection between the same ends.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct FlowReplaced {
    /// When.
    pub header: EventHeader,
    /// The key of both.
    pub key: FlowKey,
    /// Zero.
    pub padding: u32,
    /// The one that is over.
    pub entry: FlowEntry,
}

shared_values! {
    /// What was counted of one connection in one direction.
    pub struct Direction {
        /// Bytes on the wire: with the L2 headers of every segment, without FCS and preamble.
        pub wire_bytes: U64,
        /// TCP payload bytes.
        pub payload_bytes: U64,
        /// Frames on the wire.
        pub segments: U64,
        /// Socket buffers that the program saw.
        pub skbs: U64,
        /// `CLOCK_MONOTONIC` of the last packet.
        pub last_ns: U64,
        /// `CLOCK_MONOTONIC` of the last packet with payload beyond all that had crossed before; 0: there was none.
        pub last_byte_ns: U64,
        /// The sequence number that follows that payload; without any, the one that follows the SYN.
        pub next_sequence: U32,
        /// A set of [`flags`].
        pub flags: U32,
        /// Interface at which this direction is counted: that of its first packet. Valid with [`flags::STARTED`].
        pub ifindex: U32,
        /// Bytes of VLAN tags that a frame has on the wire, but not at that interface.
        pub tag_bytes: U32,
        /// `CLOCK_MONOTONIC` of the first packet; valid with [`flags::STARTED`].
        pub first_ns: U64,
        /// Packets seen at other interfaces than `ifindex`; they are not in the counters above.
        pub elsewhere_skbs: U64,
        /// The first four bytes of TCP payload, big endian; valid with [`flags::PAYLOAD`].
        pub first_payload: U32,
        /// Sequence number of the SYN; valid with [`flags::SYN`].
        pub initial_sequence: U32,
        /// The next milestone of the stream that goes this way.
        pub sent: Milestone,
        /// The next milestone of the other direction's stream that a packet of this direction will acknowledge.
        pub acknowledged: Milestone,
        /// The position after this stream's FIN; 0: none was seen.
        pub end: U64,
    }

    /// A position in a stream at which each of the two hosts stamps the first packet that reaches it.
    ///
    /// A position is the number of sequence numbers since the SYN, which takes the first itself. So both hosts give the
    /// same name to the same byte, without talking to each other.
    pub struct Milestone {
        /// The position; 0: there are no milestones, because positions are not known.
        pub position: U64,
        /// Its sequence number.
        pub sequence: U32,
        /// Zero.
        pub padding: U32,
    }

    /// The state of one connection.
    pub struct FlowEntry {
        /// `CLOCK_MONOTONIC` when the entry was made: a later connection between the same ends has another value. It is
        /// written after the counts and read before them, so that nobody reads an earlier connection's counts with the stamp
        /// of a later one. 0 for a connection whose entry is still being filled, and for a new bucket of fragments.
        pub opened_ns: U64,
        /// Indexed by [`INGRESS`] and [`EGRESS`].
        pub directions: [Direction; 2],
        /// Thread group that owns the connection; 0 while unknown.
        pub owner: U32,
        /// The number of the owner's [`Claim`](crate::abi::Claim) to it.
        pub claim: U32,
        /// 1 while the programs look for its owner.
        pub unowned: U32,
        /// Zero.
        pub padding: U32,
        /// What this host retransmitted.
        pub retransmitted: Retransmitted,
    }

    /// What a host retransmitted on one connection.
    pub struct Retransmitted {
        /// Segments.
        pub segments: U64,
        /// TCP payload bytes.
        pub payload_bytes: U64,
        /// The kernel's address of the socket to which the next two belong.
        pub socket: U64,
        /// What the socket itself had counted when it was last looked at: `tcp_sock.total_retrans`.
        pub socket_segments: U64,
        /// As above: `tcp_sock.bytes_retrans`.
        pub socket_bytes: U64,
    }

    /// One side of a handshake: its SYN, or SYN with ACK.
    pub struct HandshakeSide {
        /// As in [`Direction`].
        pub wire_bytes: U64,
        /// `CLOCK_MONOTONIC` of the first of its packets.
        pub first_ns: U64,
        /// `CLOCK_MONOTONIC` of the last of them.
        pub last_ns: U64,
        /// As in [`Direction`].
        pub payload_bytes: U32,
        /// Packets: more than one when it was retransmitted; 0: none was seen.
        pub segments: U32,
        /// Interface of the first.
        pub ifindex: U32,
        /// Its sequence number.
        pub sequence: U32,
        /// 1 when a socket of this machine has sent it.
        pub sent_here: U32,
        /// Zero.
        pub padding: U32,
    }

    /// A connection to a watched port that is not open yet.
    ///
    /// Anybody can send a SYN, or a hundred thousand of them. But nobody can fake the third packet of a handshake,
    /// which repeats a number from the second. So only that packet opens a [`FlowEntry`], with what is kept here of
    /// the first two.
    pub struct Handshake {
        /// Indexed by [`INGRESS`] and [`EGRESS`].
        pub sides: [HandshakeSide; 2],
        /// What this host retransmitted of it.
        pub retransmitted: Retransmitted,
    }
}

impl shared::FlowEntry {
    /// Sets flags of both directions.
    #[inline(always)]
    pub fn set(&self, flags: u32) {
        for direction in &self.directions {
            direction.set(flags);
        }
    }

    /// Sets everything to zero.
    #[inline(always)]
    pub fn clear(&self) {
        for direction in &self.directions {
            direction.clear();
        }
        for word in [&self.owner, &self.claim] {
            word.set(0);
        }
        self.retransmitted.store(&Retransmitted::default());
    }
}
