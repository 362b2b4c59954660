//! The words that records and events share: what a flow carries, how an address answered, what was lost.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a TC program is attached.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachMode {
    /// A TCX link, first in the chain (Linux 6.6 and later).
    Tcx,
    /// A direct-action filter of the clsact qdisc.
    Clsact,
}

/// What a flow carries.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The main migration stream (starts with `QEVM`).
    Ram,
    /// A multifd channel.
    Multifd,
    /// An NBD disk copy.
    Nbd,
    /// The second channel of a post-copy migration: the pages that the guest waits for (`postcopy-preempt`).
    PostcopyPreempt,
    /// TLS: what is inside cannot be told.
    Tls,
    /// No migration, though it goes to a watched port: as much comes back as from a server of disks.
    Other,
    /// Anything else.
    Unknown,
}

/// How the network is told where a guest is.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Announcement {
    /// A RARP request, sent by QEMU.
    Rarp,
    /// A gratuitous ARP.
    GratuitousArp,
    /// An unsolicited neighbour advertisement.
    NeighbourAdvertisement,
}

/// What a stream of echo requests to an address told as a whole.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Echo {
    /// Who was asked.
    pub target: IpAddr,
    /// Who asked.
    pub peer: IpAddr,
    /// The asker's ICMP identifier.
    pub identifier: u16,
    /// Requests.
    pub sent: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were not answered.
    pub lost: u64,
    /// Requests that were answered, but only after a gap.
    pub late: u64,
    /// Replies that came more than once.
    pub duplicate: u64,
    /// The average time between two requests; null with fewer than two.
    pub interval_ns: Option<u64>,
    /// The longest time between two requests.
    pub longest_interval_ns: u64,
    /// Times from request to reply, but for the late ones; null when nothing was answered.
    pub round_trip: Option<RoundTrip>,
    /// The longest of these since the last gap; null when nothing was answered since.
    #[serde(default)]
    pub worst_since_last_gap_ns: Option<u64>,
}

/// Times from request to reply.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct RoundTrip {
    /// Half of them took no longer than this, to within 1/16.
    pub p50_ns: u64,
    /// 99 % of them took no longer than this, to within 1/16.
    pub p99_ns: u64,
    /// The longest, exactly.
    pub max_ns: u64,
}

/// Facts that were lost; any nonzero makes the affected figures lower bounds.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Lost {
    /// Events that found the ring buffer full.
    pub ring_buffer: u64,
    /// Packets of flows that found the flow table full.
    pub flows: u64,
    /// Calls of hooks that the kernel skipped, or whose data could not be read.
    #[serde(alias = "probes")]
    pub hook_calls: u64,
    /// Writes of QEMU to its monitors that told events which were not read: their process wrote too many of them, or they
    /// were too long or no QMP. Absent when there was none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub qmp_lines: u64,
    /// Runs of vCPUs that found the table of vCPUs full. Absent when there was none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vcpus: u64,
}

/// Something that is not measured, and why.
// Whoever embeds a recording notes them too, so it has these two fields and no others.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub struct NotMeasured {
    /// What.
    pub what: String,
    /// Why, and what would help.
    pub why: String,
}

/// Whether a field may be left out of the JSON form: a reader fills in the default.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
