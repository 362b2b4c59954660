//! How long the guest was gone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::estimate::Estimate;
use super::role::{Role, Vantage};
use super::words::{MarkName, PartName};
use crate::vocabulary::{Announcement, is_default};

/// How long the guest was gone, from every place where that can be seen.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Downtime {
    /// Whether the migration stopped the guest, as far as this host saw. False when it certainly did not (pauses with
    /// another cause are in `remarks`), null when that is not known.
    #[serde(default)]
    pub stopped: Option<bool>,
    /// How long the guest did not run: from the last vCPU that left KVM to the first that entered it again. The
    /// method says what stood in for an edge that was not seen: `vcpus`, `qmp-events`, `vcpus-to-qmp-event`,
    /// `vcpus-to-first-reply`, ... With `vcpus-to-last-byte` only a lower bound is known.
    pub stop: Option<Estimate>,
    /// What the stop was made of, in order: each part begins where the one before ends, so their values add up to the time
    /// from the beginning of the first to the end of the last. Empty unless the guest was seen to stop at the source and to
    /// run at the destination.
    #[serde(default)]
    pub parts: Vec<Part>,
    /// What was seen of the guest once it ran again at the destination, in order. Empty where its run was not seen.
    #[serde(default)]
    pub first_signs: Vec<FirstSign>,
    /// How long the guest's taps were silent: from its last frame at the source to its first at the destination.
    pub network: Option<Estimate>,
    /// How long the guest did not answer echo requests, seen from where they were sent.
    pub reachability: Option<Estimate>,
    /// What the network needed to find the guest again: `reachability` less `stop`.
    pub tail: Option<Estimate>,
    /// The downtime that QEMU reports in `query-migrate`, to the millisecond; null when it was not requested.
    pub qemu_reported_ns: Option<u64>,
    /// How well the guest answered while it ran; null without a gap that separates the time before from the time
    /// after.
    pub brownout: Option<Brownout>,
    /// QEMU's `downtime-limit`, the downtime that the migration was allowed; null when it was not requested.
    pub budget_ns: Option<u64>,
    /// Figures that contradict each other.
    pub contradictions: Vec<String>,
    /// What else happened to the guest that is not part of the stop: pauses by a person or an error, a return to the
    /// source.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// Each tap's silence: those of the source first, each side in the order of the names. Empty when no frame was seen
    /// at a tap.
    #[serde(default)]
    pub taps: Vec<Tap>,
    /// How the guest's new place was announced to the network, in the order of the first of each kind.
    pub announcements: Vec<Announced>,
    /// Instants that matter, in order.
    pub marks: Vec<Mark>,
}

impl Downtime {
    /// Whether the guest is known not to have been stopped by the migration.
    #[must_use]
    pub fn never_stopped(&self) -> bool {
        self.stopped == Some(false)
    }
}

/// A part of the stop: what one of the two QEMUs did meanwhile.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Part {
    /// What it did.
    pub name: PartName,
    /// On which side of the migration.
    pub role: Role,
    /// On which host.
    pub host: String,
    /// When it began.
    pub start_ns: i64,
    /// How long it took.
    pub length: Estimate,
    /// What the source sent in it, in bytes on the wire; null when that is not known, and at the destination.
    pub wire_bytes: Option<u64>,
}

/// The first sign of one kind that the guest runs again.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct FirstSign {
    /// What was seen: the announcement of its new place, its first frame, its first reply.
    pub name: MarkName,
    /// From where.
    pub role: Vantage,
    /// On which host that was.
    pub host: String,
    /// How long after the guest ran again: after the mark `first-vcpu-run` or, where no vCPU was seen to run, `resume`.
    pub after: Estimate,
}

/// When a tap of the guest fell silent (at the source), or first carried a frame (at the destination).
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Tap {
    /// The tap.
    pub interface: String,
    /// On which side of the migration.
    pub role: Role,
    /// The guest's last frame before it stopped here; null when none was seen.
    pub last_frame_ns: Option<i64>,
    /// The guest's first frame since it stopped; null when none was seen.
    pub first_frame_ns: Option<i64>,
    /// By how much that may be off. Absent when it is exact: the clock that stamped it is the record's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub error_ns: u64,
}

/// Announcements of one kind at one tap.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Announced {
    /// How.
    pub kind: Announcement,
    /// The tap.
    pub interface: String,
    /// When the first came.
    pub first_ns: i64,
    /// By how much that may be off. Absent when it is exact: the clock that stamped it is the record's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub error_ns: u64,
    /// How many came until the next migration of the guest, or the end of the recording.
    pub count: u64,
}

/// How well the guest answered echo requests outside of its downtime.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Brownout {
    /// Until it stopped.
    pub before: Disturbance,
    /// From when it answered again until its next migration, or the end of the probing.
    pub after: Disturbance,
}

/// The worst that was seen while the guest answered.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Disturbance {
    /// The longest round trip; null when none was seen.
    pub worst_round_trip_ns: Option<u64>,
    /// The longest gap; null when there was none.
    pub longest_gap: Option<Estimate>,
}

/// A named instant.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Mark {
    /// What happened.
    pub name: MarkName,
    /// When.
    pub at_ns: i64,
    /// By how much that may be off. Absent when it is exact: the clock that stamped it is the record's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub error_ns: u64,
    /// From where it was seen.
    pub role: Vantage,
    /// On which host that was.
    pub host: String,
}
