//! One observed fact with its time stamp, and every kind of fact.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::echo::{EchoEnd, EchoGap, EchoOwnerMethod, EchoStart};
use super::flow::{CarriedBefore, Crossed, Crossing, FlowCounters, OwnerMethod};
use super::observation::{Interface, Observation, PeerRecording, TcRemoved};
use super::qemu::{Qemu, QmpEvent, Vcpus};
use crate::units::{ClockSample, Counters, Directions, Flow, MonotonicNs};
use crate::vocabulary::{Announcement, Lost, NotMeasured, Purpose};

/// One fact, and when it was true.
// An event will never have more than these two fields; a fact may.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Event {
    /// When, on the host's `CLOCK_MONOTONIC`; for facts of the kernel programs, the kernel's own stamp.
    pub at_ns: MonotonicNs,
    /// What.
    #[serde(flatten)]
    pub fact: Fact,
}

/// What was observed.
///
/// A later version may know more kinds. A reader yields [`Fact::NotUnderstood`] for a kind that this version does not
/// know.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Fact {
    /// The first line of a log: who observes, and with what.
    LogStart(Observation),
    /// The monotonic clock tied to wall time; repeated at the end and after every clock step.
    Clock(ClockSample),
    /// The monotonic clock was slewed faster than NTP does, so other clocks' relation to it is known less well.
    ClockSlew {
        /// Since when, at the earliest.
        since_ns: MonotonicNs,
        /// By how many millionths its rate was off at most, on average.
        ppm: u64,
    },
    /// This host has read the clock of a peer that records the same migration, and whose log is another one. The peer's
    /// monotonic clock showed `showed_ns` at some instant between `asked_ns` and the stamp of this event.
    PeerClock {
        /// Whose clock.
        peer: PeerRecording,
        /// When this host has asked for it.
        asked_ns: MonotonicNs,
        /// What it showed.
        showed_ns: MonotonicNs,
    },
    /// A QEMU process of this network namespace was found.
    QemuSeen(Qemu),
    /// A QEMU process ended.
    QemuGone {
        /// Its process id.
        pid: u32,
    },
    /// The first packet that was seen of a TCP connection on a watched port.
    FlowSeen {
        /// The connection.
        flow: Flow,
        /// The interface at which it is counted.
        interface: String,
        /// False when the connection was older than the tracing (no SYN was seen): its first bytes are missing.
        from_start: bool,
        /// The sequence numbers of both SYNs, by which another host recognises the connection even if its addresses are
        /// translated on the way. Absent when they were not seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        initial_sequences: Option<Directions<u32>>,
    },
    /// The process that sends or receives on a flow.
    FlowOwner {
        /// The connection.
        flow: Flow,
        /// The process.
        pid: u32,
        /// How it is known.
        method: OwnerMethod,
        /// What had crossed before: the counters in earlier events of this process lack it. Absent when it was not
        /// counted at that instant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        crossed: Option<Crossed>,
    },
    /// What the first payload of a flow says about its content.
    FlowPurpose {
        /// The connection.
        flow: Flow,
        /// What it carries.
        purpose: Purpose,
    },
    /// The counters of a flow since its first packet: sampled while it lives, and once at the end.
    FlowCounters(FlowCounters),
    /// What a flow had carried before its counting began: it opened while migtrace slept. A later event of this kind about
    /// the same connection knows it better.
    FlowCarriedBefore(CarriedBefore),
    /// Milestones of a flow were crossed. The stamp of the event is the last of these.
    Milestones {
        /// The connection.
        flow: Flow,
        /// What crossed them, in the order of the stamps.
        crossings: Vec<Crossing>,
    },
    /// A flow is over and its counting ends: the counters in later events of its process lack it. A later connection
    /// between the same ends is another flow.
    FlowGone {
        /// The connection.
        flow: Flow,
    },
    /// IP fragments between the two ends of a flow. They carry no port, so they belong to no flow.
    Fragments {
        /// This host's address.
        local: IpAddr,
        /// The other end's address.
        remote: IpAddr,
        /// What crossed so far; `payload_bytes` is what follows the IP header.
        counters: Directions<Counters>,
    },
    /// A QMP event that a traced QEMU wrote to its monitor.
    Qmp(QmpEvent),
    /// A vCPU enters KVM after no vCPU of its VM was inside for a millisecond or more, or ever: the guest runs
    /// (again). Emitted for every vCPU, because the first one may leave without having run.
    GuestRun {
        /// The QEMU process.
        pid: u32,
        /// Its vCPUs just before: when they had stopped.
        vcpus: Vcpus,
    },
    /// Retracts a [`Fact::GuestRun`]: the vCPU left KVM before the guest had run.
    GuestRunVoid {
        /// The QEMU process.
        pid: u32,
        /// When that run began.
        entered_ns: MonotonicNs,
        /// True when this is certain; false when the guest may have run, for at most 0.1 ms.
        certain: bool,
    },
    /// QEMU begins to read KVM's log of dirtied pages: one pass ends and the next begins.
    DirtyLog {
        /// The QEMU process.
        pid: u32,
        /// The sum over this QEMU's flows at this very instant.
        counters: Directions<Counters>,
    },
    /// The first frame of a guest through its tap since the tap was watched, or since the guest stopped.
    GuestFrame {
        /// The QEMU process.
        pid: u32,
        /// The tap.
        interface: String,
    },
    /// The frames of a guest through its tap so far; counted when the guest stops and when the recording ends.
    GuestFrames {
        /// The QEMU process.
        pid: u32,
        /// The tap.
        interface: String,
        /// Frames of the guest.
        frames: u64,
        /// When the last of them came; absent when there were none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_ns: Option<MonotonicNs>,
        /// Announcements, those of QEMU included.
        announcements: u64,
    },
    /// A guest's place is announced to the network, through its tap.
    Announcement {
        /// The QEMU process.
        pid: u32,
        /// The tap.
        interface: String,
        /// How.
        kind: Announcement,
    },
    /// A reply of QEMU to `query-migrate`, which migtrace asks only if it was given a monitor socket (`--qmp`).
    QueryMigrate {
        /// The QEMU process.
        pid: u32,
        /// The reply's `return` object, as QEMU gave it.
        reply: Value,
    },
    /// A reply of QEMU to `query-migrate-parameters`, which migtrace asks together with `query-migrate`.
    QueryMigrateParameters {
        /// The QEMU process.
        pid: u32,
        /// The reply's `return` object, as QEMU gave it.
        reply: Value,
    },
    /// What libvirt says of the migration of a QEMU that has ended, which migtrace asks only with `--domjobinfo`.
    Domjobinfo {
        /// The QEMU process.
        pid: u32,
        /// What `virsh domjobinfo --completed --rawstats` prints: libvirt's figures under its own names. Times are in
        /// milliseconds, amounts in bytes, rates in bytes per second.
        figures: BTreeMap<String, u64>,
    },
    /// An interface appeared while tracing, and is counted from now on.
    InterfaceAdded(Interface),
    /// A counted interface has vanished.
    InterfaceGone {
        /// Its name.
        interface: String,
    },
    /// Somebody else removed TC programs of this recording from an interface. What crossed until they were attached
    /// again was not seen. If they cannot be attached at once, this is emitted again, with the same `last_seen_ns`,
    /// when they finally are.
    TcRemoved(TcRemoved),
    /// From now on an address is probed.
    EchoStart(EchoStart),
    /// The probed address belongs to this QEMU's guest.
    EchoOwner {
        /// The QEMU process.
        pid: u32,
        /// How that is known.
        method: EchoOwnerMethod,
    },
    /// The address answers again after a gap.
    EchoGap(EchoGap),
    /// The probing ends: its overall figures.
    EchoEnd(EchoEnd),
    /// Facts lost so far, cumulative.
    Lost {
        /// How many.
        #[serde(flatten)]
        so_far: Lost,
        /// When the losses were last counted before: the newest ones happened since then. Absent when not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_ns: Option<MonotonicNs>,
    },
    /// Something that is not measured in this log, found while recording.
    NotMeasured(NotMeasured),
    /// Stands for an event of a kind that this version does not know; only a reader makes this.
    NotUnderstood {
        /// The kind's name.
        kind: String,
    },
    /// The last line of a log that ended properly.
    LogEnd {
        /// Why the recording ended.
        reason: EndReason,
    },
}

impl Fact {
    /// Whether it may begin or end a migration, so that what it means is worth a look at once.
    pub(crate) const fn is_turning_point(&self) -> bool {
        matches!(self, Self::Qmp(_) | Self::QemuGone { .. })
    }
}

/// Why a recording ended.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The awaited migration has ended.
    MigrationEnded,
    /// The person or the system asked to stop (SIGINT, SIGTERM).
    Interrupted,
    /// The time limit ran out.
    TimedOut,
}
