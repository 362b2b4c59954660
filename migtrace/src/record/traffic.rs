//! What crossed the wire.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Counters, Directions, Flow};
use crate::vocabulary::Purpose;

/// What crossed the wire.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Traffic {
    /// The sum over all flows; null when no flow was seen.
    pub total: Option<Directions<Counters>>,
    /// Segments that this host retransmitted; null when not measured.
    pub retransmitted_segments: Option<u64>,
    /// TCP payload bytes that this host retransmitted; null when not measured.
    pub retransmitted_payload_bytes: Option<u64>,
    /// The TCP connections.
    pub flows: Vec<FlowRecord>,
    /// IP fragments between the two hosts; they belong to no flow and are not in `total`.
    pub fragments: Option<Directions<Counters>>,
    /// Samples of the cumulative sum over all flows: at most 2000, denser where the rate changes.
    pub samples: Vec<Sample>,
}

/// One TCP connection of the migration.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct FlowRecord {
    /// Its two ends, named from this host's side.
    #[serde(flatten)]
    pub flow: Flow,
    /// What it carries.
    pub purpose: Purpose,
    /// The interface at which it was counted.
    pub interface: String,
    /// First packet.
    pub first_ns: i64,
    /// Last packet.
    pub last_ns: i64,
    /// False when its first packets were not seen.
    pub from_start: bool,
    /// What crossed.
    pub counters: Directions<Counters>,
    /// Segments that this host retransmitted; null when not measured.
    pub retransmitted_segments: Option<u64>,
}

/// The cumulative traffic at an instant.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Sample {
    /// When.
    pub at_ns: i64,
    /// Wire bytes so far.
    pub wire_bytes: Directions<u64>,
    /// Of these, what the copies of disks took (the flows with the purpose `nbd`). Absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_wire_bytes: Option<Directions<u64>>,
}
