//! What is seen of a QEMU process: its configuration, what it writes to its monitor, its vCPUs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::units::{Counters, Directions, MonotonicNs};
use crate::vocabulary::is_default;

/// A QEMU process, from `/proc` alone.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Qemu {
    /// Process id.
    pub pid: u32,
    /// The user that it runs as (effective user id). Absent in logs of versions that did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// `-name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `-uuid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Number of vCPUs (`-smp`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Guest memory (`-m`) in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// `kvm`, `tcg`, ...: the accelerator in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// QEMU's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Names of its tap interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taps: Vec<String>,
    /// MACs of its network interfaces, as its command line gives them: `52:54:00:4b:73:5f`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<String>,
    /// True when it was started to receive a migration (`-incoming`).
    #[serde(default)]
    pub incoming: bool,
}

/// A QMP event as QEMU wrote it, stamped by the kernel at the write.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct QmpEvent {
    /// The QEMU process.
    pub pid: u32,
    /// `MIGRATION`, `MIGRATION_PASS`, `STOP`, ...
    pub name: String,
    /// The event's `data`, null when there is none.
    #[serde(default)]
    pub data: Value,
    /// QEMU's own stamp: `CLOCK_REALTIME` at the event's construction, in microseconds since the epoch.
    pub qemu_realtime_us: i64,
    /// The sum over this QEMU's flows at this very instant, read by the same kernel program; absent when the
    /// kernel cannot do that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<Directions<Counters>>,
    /// This QEMU's vCPUs at this very instant; absent when none was seen in KVM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<Vcpus>,
}

/// The vCPUs of one VM at an instant.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Vcpus {
    /// Those that were seen entering or leaving KVM.
    pub known: u32,
    /// How many of these are in KVM: they run, or are halted there.
    pub inside: u32,
    /// How many of those in KVM have just begun their first run after a stop.
    #[serde(default, skip_serializing_if = "is_default")]
    pub starting: u32,
    /// How many of the known ones are halted outside of KVM (in a VM without an interrupt controller in the kernel).
    #[serde(default, skip_serializing_if = "is_default")]
    pub halted: u32,
    /// When the first of those that are neither in KVM nor halted left KVM; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_left_ns: Option<MonotonicNs>,
    /// When the last of those that are neither in KVM nor halted left KVM; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_left_ns: Option<MonotonicNs>,
}
