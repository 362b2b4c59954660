//! Everything known about one migration, and its JSON form.
//!
//! Times are nanoseconds since the migration's start ([`Start`] gives its wall time). `tx` is from the source to the
//! destination, whichever host made the record.

mod bars;
mod downtime;
mod estimate;
mod gap;
mod role;
mod steps;
mod traffic;
mod words;

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use bars::{Bar, bars};
pub use downtime::{Announced, Brownout, Disturbance, Downtime, FirstSign, Mark, Part, Tap};
pub use estimate::{Estimate, EstimatedInstant};
pub use gap::Gap;
pub use role::{Role, Vantage};
pub(crate) use steps::{Step, steps};
pub use traffic::{FlowRecord, Sample, Traffic};
pub use words::{AlignmentMethod, MarkName, Method, PartName, PhaseName};

use crate::schema::{self, ReadError};
use crate::terminal;
use crate::units::{ClockSample, Counters, Directions};
use crate::vocabulary::{Echo, Lost, NotMeasured};

/// The schema name that every record carries.
pub const SCHEMA: &str = "migtrace.record/1";

/// Reads the JSON of records that follow each other. After one that is no JSON there are no more.
pub fn read(json: &[u8]) -> impl Iterator<Item = Result<Record, ReadError>> {
    schema::read_all(json, SCHEMA)
}

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
    /// From the start to the end that QEMU reported. Without a report, to the end of QEMU's process, to its last reply,
    /// or to the last packet once all connections have closed. Null when no end was seen.
    pub total_time: Option<Estimate>,
    /// From QEMU's `setup` to its first `active`. At a destination that listened, from the first packet of the memory
    /// stream.
    pub setup_time: Option<Estimate>,
    /// What QEMU was doing, in order, without holes. A destination that listened before its source connected has a
    /// phase before the start.
    pub phases: Vec<Phase>,
    /// What crossed the wire.
    pub traffic: Traffic,
    /// How long the guest was gone.
    pub downtime: Downtime,
    /// The times in which the guest did not answer echo requests, from 1 s before the migration's start to 10 s after
    /// its end, in the order of their starts; empty when the guest was not probed.
    #[serde(default)]
    pub gaps: Vec<Gap>,
    /// The overall figures of the echo requests to the guest, over the whole recording; null when it was not probed.
    #[serde(default)]
    pub echo: Option<Echo>,
    /// What QEMU is, and what it claims.
    pub qemu: QemuClaims,
    /// What libvirt says of the migration. Absent when it was not asked, or could not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt: Option<LibvirtClaims>,
    /// What was not measured, and why.
    pub not_measured: Vec<NotMeasured>,
    /// Facts that were lost. A nonzero count makes the figures lower bounds.
    pub lost: Lost,
}

/// Which migration, and how it ended.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Migration {
    /// A UUID (version 5) made from the VM's UUID and the two ends of the memory stream, so that both hosts derive the
    /// same. Null while that connection may still come. For a migration that ended without it, it is made from the
    /// first flow or, without any flow, from the time of the start.
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
    /// The guest moves before all of its memory.
    Postcopy,
    /// No event showed it.
    Unknown,
}

impl Mode {
    #[cfg(feature = "openmetrics")]
    pub(crate) const ALL: [Self; 3] = [Self::Precopy, Self::Postcopy, Self::Unknown];

    /// The word for it in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Precopy => "precopy",
            Self::Postcopy => "postcopy",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a migration ended.
// There will be no other outcome, so that readers must handle each.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// QEMU reported `completed`.
    Completed,
    /// QEMU reported `failed`, or died.
    Failed,
    /// QEMU reported `cancelled`.
    Cancelled,
    /// The recording ended before the migration did.
    Interrupted,
    /// No event showed how it ended.
    Unknown,
}

impl Outcome {
    #[cfg(feature = "openmetrics")]
    pub(crate) const ALL: [Self; 5] =
        [Self::Completed, Self::Failed, Self::Cancelled, Self::Interrupted, Self::Unknown];

    /// The word for it in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
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

impl Vm {
    /// What it is called, without what would steer a terminal.
    pub(crate) fn shown_name(&self) -> String {
        terminal::clean(self.name.as_deref().or(self.uuid.as_deref()).unwrap_or("unknown VM")).into_owned()
    }
}

/// A host that observed the migration.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Observer {
    /// Its name.
    pub host: String,
    /// Its part in the migration.
    pub role: Vantage,
    /// Its kernel's release.
    pub kernel: String,
    /// The version of migtrace that ran there.
    pub migtrace: String,
    /// Its clocks at the start of the migration; null when no clock sample was seen.
    pub clock: Option<ClockSample>,
    /// How its monotonic clock relates to the record's; null for the host whose clock is the record's.
    #[serde(default)]
    pub alignment: Option<Alignment>,
}

/// How the monotonic clock of a host relates to the one that the record uses, when the guest moved.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Alignment {
    /// This host's clock less the record's; null when nothing shows it.
    pub offset_ns: Option<i64>,
    /// Lower bound; null when nothing that was seen bounds it.
    pub low_ns: Option<i64>,
    /// Upper bound; null when nothing that was seen bounds it.
    pub high_ns: Option<i64>,
    /// How that is known.
    pub method: AlignmentMethod,
}

/// When the migration began.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Start {
    /// Wall time, nanoseconds since the Unix epoch; null when no clock sample was seen.
    pub realtime_ns: Option<i64>,
    /// Error bound of `realtime_ns`.
    pub error_ns: Option<u64>,
    /// False when the migration began before the tracing: then everything before that is missing.
    pub seen: bool,
}

/// A time in which QEMU did one thing.
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

/// What QEMU is, and what it says about the migration.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct QemuClaims {
    /// Version.
    pub version: Option<String>,
    /// Accelerator.
    pub accelerator: Option<String>,
    /// The `return` object of `query-migrate` at the end, if it was requested.
    pub stats: Option<Value>,
}

/// What libvirt says of the migration (`virsh domjobinfo --completed`).
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct LibvirtClaims {
    /// The host whose libvirt said it.
    pub host: String,
    /// The part of that host.
    pub role: Role,
    /// Its figures, under libvirt's own names. Times are in milliseconds, amounts in bytes, rates in bytes per second.
    pub stats: BTreeMap<String, u64>,
}
