//! Who observes, with what, and what became of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::MonotonicNs;
use crate::vocabulary::AttachMode;

/// Who observes, and with what.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Observation {
    /// [`SCHEMA`].
    pub schema: String,
    /// migtrace's version.
    pub migtrace: String,
    /// The host's name.
    pub host: String,
    /// The kernel's release.
    pub kernel: String,
    /// The interfaces at which packets are counted.
    pub interfaces: Vec<Interface>,
    /// The TCP ports that make a connection a candidate, as given: `49152-49215,16514`.
    pub ports: String,
    /// The instruments, and how each is attached on this host.
    #[serde(alias = "probes")]
    pub instruments: Vec<Instrument>,
}

/// An interface at which packets are counted.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index in this network namespace.
    pub index: u32,
    /// How the programs are attached.
    pub attach: AttachMode,
}

/// One row of the table of what observes the kernel, and its state on this host.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Instrument {
    /// Its name in the table.
    pub name: String,
    /// What it observes.
    pub observes: String,
    /// Whether it works here.
    pub status: InstrumentStatus,
    /// The kernel hook in use, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// What is not measured, or less well; absent when nothing is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// What this hook costs the host or the person, when that is worth knowing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Why the first choice of hooks is not in use, and what would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Whether an instrument works.
// There is no other state: whoever reads it has to decide for each.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InstrumentStatus {
    /// Attached to its first choice.
    Ok,
    /// Attached to another hook.
    Fallback,
    /// Not attached.
    Missing,
}

/// What TC programs do that are attached together.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TcProgram {
    /// They count the packets of flows.
    Count,
    /// They notice what comes from a guest through its tap.
    Guest,
    /// They follow echo requests and replies.
    Echo,
}

/// TC programs that were removed, all or some of those that are attached together.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct TcRemoved {
    /// The interface.
    pub interface: String,
    /// What they do.
    pub program: TcProgram,
    /// When all of them were there for the last time, as far as is known.
    pub last_seen_ns: MonotonicNs,
    /// When all of them were there again; absent when they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached_again_ns: Option<MonotonicNs>,
    /// Why they could not be attached again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}
