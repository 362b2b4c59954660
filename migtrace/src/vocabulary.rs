//! What records and events share: what a flow carries, how an address answered, what was lost.

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
    /// The second channel of a post-copy migration, for the pages that the guest waits for (`postcopy-preempt`).
    PostcopyPreempt,
    /// TLS: its content cannot be seen.
    Tls,
    /// Not a migration, although it uses a watched port: more data comes back than in any migration, as from a disk
    /// server.
    Other,
    /// Anything else.
    Unknown,
}

impl Purpose {
    /// As a report says it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ram => "memory",
            Self::Multifd => "multifd",
            Self::Nbd => "disk",
            Self::PostcopyPreempt => "urgent pages",
            Self::Tls => "TLS",
            Self::Other => "other",
            Self::Unknown => "unknown",
        }
    }
}

/// How a guest's place is announced to the network.
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

impl Announcement {
    /// As a report says it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rarp => "RARP",
            Self::GratuitousArp => "gratuitous ARP",
            Self::NeighbourAdvertisement => "unsolicited neighbour advertisement",
        }
    }
}

/// The overall figures of a stream of echo requests to an address.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Echo {
    /// The probed address.
    pub target: IpAddr,
    /// The sender's address.
    pub peer: IpAddr,
    /// The sender's ICMP identifier.
    pub identifier: u16,
    /// Requests that were seen leaving.
    pub sent: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were not answered.
    pub lost: u64,
    /// Requests that were answered only after a gap.
    pub late: u64,
    /// Replies to requests that had been answered already.
    pub duplicate: u64,
    /// The average time between two requests; null with fewer than two.
    pub interval_ns: Option<u64>,
    /// The longest time between two requests.
    pub longest_interval_ns: u64,
    /// Times from request to reply, without late replies; null when nothing was answered.
    pub round_trip: Option<RoundTrip>,
    /// The longest time from request to reply since the last gap, without late replies; null when nothing was answered
    /// since then.
    #[serde(default)]
    pub worst_since_last_gap_ns: Option<u64>,
}

/// Times from request to reply.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct RoundTrip {
    /// Half of them were at most this long, to within 1/16.
    pub p50_ns: u64,
    /// 99 % of them were at most this long, to within 1/16.
    pub p99_ns: u64,
    /// The longest, exactly.
    pub max_ns: u64,
}

/// Facts that were lost. A nonzero count makes the affected figures lower bounds.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Lost {
    /// Events that found the ring buffer full.
    pub ring_buffer: u64,
    /// Packets whose flow found the flow table full.
    pub flows: u64,
    /// Calls of hooks that the kernel skipped, or whose data could not be read.
    #[serde(alias = "probes")]
    pub hook_calls: u64,
    /// Writes of QEMU to its monitors whose events were not read: the process wrote too many, or they were too long
    /// or not QMP. Absent when there were none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub qmp_lines: u64,
    /// vCPU runs that found the vCPU table full. Absent when there were none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vcpus: u64,
}

/// The name of what libvirt says of a migration: the heading in a report and, when it did not say it, the entry of
/// `not_measured`.
pub const LIBVIRT_FIGURES: &str = "libvirt's own figures";

/// Something that is not measured, and why.
// Programs that embed a recording construct this too, so it has these two fields and no others.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub struct NotMeasured {
    /// What.
    pub what: String,
    /// Why, and what would help.
    pub why: String,
}

/// Whether a field may be left out of the JSON form, since a reader fills in the default.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
