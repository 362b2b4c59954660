//! Who observes, with what, and what was removed meanwhile.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::MonotonicNs;
use crate::vocabulary::AttachMode;

/// Who observes, and with what.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Observation {
    /// The name of the schema: `migtrace.events/1`.
    pub schema: String,
    /// migtrace's version.
    pub migtrace: String,
    /// The host's name.
    pub host: String,
    /// The kernel's release.
    pub kernel: String,
    /// The interfaces at which packets are counted.
    pub interfaces: Vec<Interface>,
    /// The TCP ports used by migrations, as given: `49152-49215,16514`.
    pub ports: String,
    /// The instruments, and how each is attached on this host.
    #[serde(alias = "probes")]
    pub instruments: Vec<Instrument>,
}

/// Which recording of which host: what its log begins with.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub struct PeerRecording {
    /// The host's name.
    pub host: String,
    /// The stamp of the first event of its log.
    pub since_ns: MonotonicNs,
}

impl PeerRecording {
    /// Of the host with this name, whose log's first event has this stamp.
    #[must_use]
    pub const fn new(host: String, since_ns: MonotonicNs) -> Self {
        Self { host, since_ns }
    }
}

/// An interface at which packets are counted.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index in this network namespace.
    pub index: u32,
    /// How the programs are attached there.
    pub attach: AttachMode,
    /// Its kind, in the kernel's word: `bridge`, `bond`, `vlan`, `vxlan`, ...; absent for a physical one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The devices that its frames pass below it, as far as they are the same for all of them. Absent when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub below: Vec<Device>,
}

/// A network device below an interface at which packets are counted.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its kind, in the kernel's word; absent for a physical one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
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
    /// What is not measured, or measured less well; absent when nothing is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// What this hook costs the host or its operator, when that is worth knowing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Why the preferred hook is not in use, and what would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Whether an instrument works.
// There will be no other state, so that readers must handle each.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InstrumentStatus {
    /// Attached to the preferred hook.
    Ok,
    /// Attached to another hook.
    Fallback,
    /// Not attached.
    Missing,
}

/// What a group of TC programs does. Those of a group are attached together.
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

/// The removal of all or some of the TC programs of a group.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct TcRemoved {
    /// The interface.
    pub interface: String,
    /// What they do.
    pub program: TcProgram,
    /// When all of them were last known to be attached.
    pub last_seen_ns: MonotonicNs,
    /// When all of them were attached again; absent when they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached_again_ns: Option<MonotonicNs>,
    /// Why they could not be attached again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}
