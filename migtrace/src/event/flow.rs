//! What is seen of a flow.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Counters, Directions, Flow, MonotonicNs};
use crate::vocabulary::is_default;

/// How the owner of a flow is known.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerMethod {
    /// The kernel saw this process send or receive on the flow's socket.
    Socket,
    /// `sock_diag` gave the socket's inode, and `/proc/PID/fd` the process that holds it.
    SockDiag,
}

/// What had crossed on a flow.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Crossed {
    /// What crossed since its first packet.
    pub counters: Directions<Counters>,
    /// Stamp of the last packet that is counted in `counters`.
    pub last_ns: MonotonicNs,
}

/// What a flow had carried before its counting began, by its socket's own count. It is not in the flow's counters, nor in
/// the sums that come with events of its process.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct CarriedBefore {
    /// The connection.
    pub flow: Flow,
    /// When it began: just before its first packet where this host has opened it, else when its handshake was complete.
    pub began_ns: MonotonicNs,
    /// What crossed, or the least that did. No program saw a socket buffer of it.
    pub counters: Directions<Counters>,
    /// The most that crossed; absent when `counters` is exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<Directions<Counters>>,
    /// Segments that this host retransmitted of it; null when not measured.
    pub retransmitted_segments: Option<u64>,
    /// TCP payload bytes that this host retransmitted of it; null when not measured.
    pub retransmitted_payload_bytes: Option<u64>,
}

/// The counters of a flow since its first packet.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct FlowCounters {
    /// The connection.
    pub flow: Flow,
    /// What crossed since the flow's first packet (or since tracing began).
    pub counters: Directions<Counters>,
    /// Stamp of the first packet.
    pub first_ns: MonotonicNs,
    /// Stamp of the last packet so far.
    pub last_ns: MonotonicNs,
    /// In each direction: stamp of the last packet so far that carried new payload, and so was not only a
    /// retransmission; null while there was none.
    #[serde(default, skip_serializing_if = "is_neither")]
    pub last_byte_ns: Directions<Option<MonotonicNs>>,
    /// Segments that this host retransmitted; null when not measured.
    pub retransmitted_segments: Option<u64>,
    /// TCP payload bytes that this host retransmitted; null when not measured.
    pub retransmitted_payload_bytes: Option<u64>,
    /// Packets of this flow that crossed another interface and were not counted. Nonzero after a route change.
    #[serde(default, skip_serializing_if = "is_default")]
    pub elsewhere_skbs: u64,
    /// True once both ends have closed it (FIN or RST).
    #[serde(default, skip_serializing_if = "is_default")]
    pub closed: bool,
}

/// The first packet that reaches certain positions of a connection's streams.
///
/// Both hosts stamp the same positions, so these stamps show how far the hosts' clocks are apart. A position is the number
/// of sequence numbers since the SYN, which takes the first itself. The milestones are 1, 2, all multiples of 2^14 up to
/// 2^20 and, between 2^n and 2^(n+1) above that, all multiples of 2^(n-6); and the end of the stream, with and without
/// its FIN.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Crossing {
    /// When the packet crossed the interface.
    pub at_ns: MonotonicNs,
    /// The way that it went.
    pub way: Way,
    /// How it reached them.
    pub by: CrossedBy,
    /// The first of these positions: no packet before had reached a milestone from here on.
    pub first: u64,
    /// The last of these positions: how far it got.
    pub last: u64,
}

/// Which way a packet went, from this host's point of view.
// There is no third way.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Sent.
    Tx,
    /// Received.
    Rx,
}

/// How a packet reached a position.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CrossedBy {
    /// It is a packet of that stream, and ends there or later.
    Payload,
    /// It is a packet of the other direction's stream, and acknowledges everything up to there.
    Acknowledgement,
}

const fn is_neither<T>(of: &Directions<Option<T>>) -> bool {
    of.tx.is_none() && of.rx.is_none()
}
