//! Everything known about one migration, and its JSON form.
//!
//! Times are nanoseconds since the migration's start ([`Start`] ties them to wall time); `tx` is from the source
//! to the destination on whichever host the record was made.

mod words;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use words::{MarkName, Method, PhaseName};

use crate::units::{ClockSample, Counters, Directions, Flow};
use crate::vocabulary::{Announcement, Echo, Lost, NotMeasured, Purpose};

/// The schema name that every record carries.
pub const SCHEMA: &str = "migtrace.record/1";

/// One migration.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: String,
    /// Which migration, and how it ended.
    pub migration: Migration,
    /// The virtual machine.
    pub vm: Vm,
    /// The hosts that observed it.
    pub observers: Vec<Observer>,
    /// When it began.
    pub start: Start,
    /// From the start to the end that QEMU declared.
    pub total_time: Option<Estimate>,
    /// From the start to the first `active`.
    pub setup_time: Option<Estimate>,
    /// What QEMU was doing, in order, without gaps. A destination that listened before its source connected has a phase
    /// before the start.
    pub phases: Vec<Phase>,
    /// What crossed the wire.
    pub traffic: Traffic,
    /// How long the guest was gone.
    pub downtime: Downtime,
    /// The times in which the guest answered no echo requests, from a second before the migration's start to 10 s after
    /// its end, in the order of their starts; empty when it was not probed.
    #[serde(default)]
    pub gaps: Vec<Gap>,
    /// The echo requests to the guest as a whole, as long as the recording lasted; null when it was not probed.
    #[serde(default)]
    pub echo: Option<Echo>,
    /// What QEMU is, and what it claims.
    pub qemu: QemuClaims,
    /// What was not measured, and why.
    pub not_measured: Vec<NotMeasured>,
    /// Facts that were lost; nonzero makes the figures lower bounds.
    pub lost: Lost,
}

/// A measured length of time with its bounds. The true value lies within `[low_ns, high_ns]`.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Estimate {
    /// The best single value.
    pub value_ns: u64,
    /// Lower bound.
    pub low_ns: u64,
    /// Upper bound; absent when nothing seen bounds it from above.
    pub high_ns: Option<u64>,
    /// How it was measured.
    pub method: Method,
}

/// Which migration, and how it ended.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Migration {
    /// A UUID (version 5) made from the VM's UUID and the two ends of the migration's first flow, so that both hosts derive
    /// the same. Null as long as a flow may still come; of a migration that ended without one it is made from the time
    /// of its start.
    pub id: Option<String>,
    /// Pre-copy or post-copy.
    pub mode: Mode,
    /// How it ended.
    pub outcome: Outcome,
    /// QEMU's error text, when it gave one.
    pub error: Option<String>,
}

/// How memory moves.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Memory is copied before the guest moves.
    Precopy,
    /// The guest moves before all of its memory has.
    Postcopy,
    /// No event told.
    Unknown,
}

/// How a migration ended.
// There is no other way: whoever judges a migration has to decide for each.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// QEMU said `completed`.
    Completed,
    /// QEMU said `failed`, or died.
    Failed,
    /// QEMU said `cancelled`.
    Cancelled,
    /// The recording ended before the migration did.
    Interrupted,
    /// No event told how it ended.
    Unknown,
}

/// The virtual machine. What is not known is null.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Vm {
    /// UUID.
    pub uuid: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// Number of vCPUs.
    pub vcpus: Option<u32>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
}

/// A host that observed the migration.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Observer {
    /// Its name.
    pub host: String,
    /// Its part in the migration.
    pub role: Role,
    /// Its kernel's release.
    pub kernel: String,
    /// The version of migtrace that ran there.
    pub migtrace: String,
    /// Its clocks.
    pub clock: Option<ClockSample>,
}

/// A host's part in a migration.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The guest leaves it.
    Source,
    /// The guest arrives at it.
    Destination,
}

/// When the migration began.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Start {
    /// Wall time, nanoseconds since the Unix epoch; null when no clock sample was seen.
    pub realtime_ns: Option<i64>,
    /// Error bound of `realtime_ns`.
    pub error_ns: Option<u64>,
    /// False when the migration had begun before the tracing: then everything before is missing.
    pub seen: bool,
}

/// A stretch of time in which QEMU did one thing.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Phase {
    /// What it did.
    pub name: PhaseName,
    /// The round of dirty-page copying, in phases that have rounds.
    pub pass: Option<u64>,
    /// Start.
    pub start_ns: i64,
    /// End.
    pub end_ns: i64,
    /// What crossed the wire in it; null when the counters at its borders are not known.
    pub traffic: Option<Directions<Counters>>,
}

/// What crossed the wire.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Traffic {
    /// The sum over all flows; null when no flow was seen.
    pub total: Option<Directions<Counters>>,
    /// Segments that the sender of this host sent again; null when not measured.
    pub retransmitted_segments: Option<u64>,
    /// TCP payload bytes that were sent again; null when not measured.
    pub retransmitted_payload_bytes: Option<u64>,
    /// The TCP connections.
    pub flows: Vec<FlowRecord>,
    /// IP fragments between the two hosts, which belong to no flow and are not in `total`.
    pub fragments: Option<Directions<Counters>>,
    /// Samples of the cumulative sum over all flows: at most 2000, more of them where the rate changes.
    pub samples: Vec<Sample>,
}

/// One TCP connection of the migration.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct FlowRecord {
    /// Its two ends, from this host's side.
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
    /// Segments that this host sent again; null when not measured.
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
}

/// How long the guest was gone, seen from every place where that can be seen.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Downtime {
    /// Whether the migration stopped the guest, as far as this host saw: false when it surely ran all the time (but for
    /// pauses that were not the migration's; see `remarks`), null when that is not known.
    #[serde(default)]
    pub stopped: Option<bool>,
    /// The guest did not run: from the last vCPU that left KVM to the first that entered it again. The method says what
    /// stood in for an end that was not seen: `vcpus`, `qmp-events`, `vcpus-to-qmp-event`, `vcpus-to-first-reply`, ... and
    /// `vcpus-to-last-byte` when all that is known is how long it was at least.
    pub stop: Option<Estimate>,
    /// The guest's taps were silent: from its last frame at the source to its first at the destination.
    pub network: Option<Estimate>,
    /// The guest did not answer echo requests, seen from where they were sent.
    pub reachability: Option<Estimate>,
    /// What the network needed to find the guest again: `reachability` less `stop`.
    pub tail: Option<Estimate>,
    /// What QEMU reports.
    pub qemu_reported_ns: Option<u64>,
    /// How well the guest answered while it ran; null without a gap to part the time before from the time after.
    pub brownout: Option<Brownout>,
    /// QEMU's `downtime-limit`: what the migration was allowed; null when it was not asked for.
    pub budget_ns: Option<u64>,
    /// Figures that cannot both be true.
    pub contradictions: Vec<String>,
    /// What else befell the guest, and is no part of the stop: pauses by a person or an error, a return to the source.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// Each tap's silence, in the order of their names; empty when no frame was seen at a tap.
    #[serde(default)]
    pub taps: Vec<Tap>,
    /// How the network was told of the guest's new place, in the order of the first of each kind.
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

/// When a tap of the guest fell silent and spoke again.
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
    /// How many came until the next migration of the guest, or the end of the recording.
    pub count: u64,
}

/// How well the guest answered echo requests outside of its downtime.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Brownout {
    /// Until it stopped.
    pub before: Disturbance,
    /// From when it answered again until its next migration, or until nobody asked any more.
    pub after: Disturbance,
}

/// The worst that happened while the guest answered.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Disturbance {
    /// The longest round trip; null when none was seen.
    pub worst_round_trip_ns: Option<u64>,
    /// The longest gap; null when there was none.
    pub longest_gap: Option<Estimate>,
}

/// A measured instant with its bounds. The true one lies within `[low_ns, high_ns]`.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Instant {
    /// The best single value.
    pub value_ns: i64,
    /// Not before this.
    pub low_ns: i64,
    /// Not after this.
    pub high_ns: i64,
}

/// A time in which an address answered no echo requests, or may have answered none.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Gap {
    /// When it fell silent.
    pub start: Instant,
    /// For how long it was silent. The method is `lost-requests`, `delayed-replies`, `overtaken-requests`, or `open` when
    /// it had not answered again by the end of the observation. Where the lower bound is 0 it may have answered all the
    /// time, and what was lost or late was so for another reason.
    pub length: Estimate,
    /// Requests of the gap that were never answered.
    pub lost: u64,
    /// Requests of the gap that were answered after it.
    pub late: u64,
    /// Replies to requests of the gap that came more than once.
    pub duplicate: u64,
    /// From the last answered request to the first unanswered one: `start` is known no better.
    pub interval_at_start_ns: u64,
    /// From the last unanswered request to the first answered one; null when the gap is open.
    pub interval_at_end_ns: Option<u64>,
    /// The longest of the latest round trips before: the start is known no better.
    pub round_trip_before_ns: u64,
    /// That of the reply that ended the gap; when it had been waiting, the longest of those around the gap: the end is
    /// known no better. 0 when the gap is open.
    pub round_trip_after_ns: u64,
    /// The longest round trip between the gap before, or the first request, and this gap; 0 when none was seen.
    pub worst_round_trip_ns: u64,
}

/// A named instant.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Mark {
    /// What happened.
    pub name: MarkName,
    /// When.
    pub at_ns: i64,
    /// On which side of the migration.
    pub role: Role,
    /// On which host it was seen.
    pub host: String,
}

/// What QEMU is, and what it says of the migration.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct QemuClaims {
    /// Version.
    pub version: Option<String>,
    /// Accelerator.
    pub accelerator: Option<String>,
    /// The `return` object of `query-migrate` at the end, when it was asked for.
    pub stats: Option<Value>,
}
