//! One observed fact with its time stamp, and every kind of fact.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::echo::{EchoEnd, EchoGap, EchoOwnerMethod, EchoStart};
use super::flow::{Crossed, FlowCounters, OwnerMethod};
use super::observation::{Interface, Observation, TcRemoved};
use super::qemu::{Qemu, QmpEvent, Vcpus};
use crate::units::{ClockSample, Counters, Directions, Flow, MonotonicNs};
use crate::vocabulary::{Announcement, Lost, NotMeasured, Purpose};

/// One fact and the instant at which it was true.
// That is all that there will ever be to an event; what is observed of a fact may become more.
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
/// A later version may know more kinds; a reader gives [`Fact::NotUnderstood`] for one that this version does not know.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Fact {
    /// The first line of a log: who observes, with what.
    LogStart(Observation),
    /// The monotonic clock tied to wall time; repeated at the end and after every clock step.
    Clock(ClockSample),
    /// A QEMU process of this network namespace was found.
    QemuSeen(Qemu),
    /// A QEMU process ended.
    QemuGone {
        /// Its process id.
        pid: u32,
    },
    /// The first packet of a TCP connection on a migration port.
    FlowSeen {
        /// The connection.
        flow: Flow,
        /// The interface at which it is counted.
        interface: String,
        /// False when the connection was older than the tracing (no SYN was seen): its first bytes are missing.
        from_start: bool,
    },
    /// The process that sends or receives on a flow.
    FlowOwner {
        /// The connection.
        flow: Flow,
        /// The process.
        pid: u32,
        /// How it is known.
        method: OwnerMethod,
        /// What had crossed before: the counters of earlier events of this process lack it. Absent when it was not
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
    /// The counters of a flow since its first packet: sampled while it lives, and once more at the end.
    FlowCounters(FlowCounters),
    /// A flow is counted no more, since it is over: what this process' later events tell of its flows lacks it. Another
    /// connection between the same ends is another flow.
    FlowGone {
        /// The connection.
        flow: Flow,
    },
    /// IP fragments between the two ends of a flow, which carry no port and so belong to no flow.
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
    /// A vCPU enters KVM after none of its VM was in it for a millisecond or more, or ever: the guest runs (again).
    /// Told of every vCPU, because the first one may leave without having run.
    GuestRun {
        /// The QEMU process.
        pid: u32,
        /// Its vCPUs just before: when they had stopped.
        vcpus: Vcpus,
    },
    /// A [`Fact::GuestRun`] was none: KVM was left before the guest had run.
    GuestRunVoid {
        /// The QEMU process.
        pid: u32,
        /// When that run began.
        entered_ns: MonotonicNs,
        /// True when it is certain; false when the guest may have run, for 0.1 ms at most.
        certain: bool,
    },
    /// QEMU begins to read KVM's log of dirtied pages: a round of copying ends and the next begins.
    DirtyLog {
        /// The QEMU process.
        pid: u32,
        /// The sum over this QEMU's flows at this very instant.
        counters: Directions<Counters>,
    },
    /// The first frame that came from a guest through its tap since it was watched, or since the guest had stopped.
    GuestFrame {
        /// The QEMU process.
        pid: u32,
        /// The tap.
        interface: String,
    },
    /// What has come from a guest through its tap so far; told when it stops and when the recording ends.
    GuestFrames {
        /// The QEMU process.
        pid: u32,
        /// The tap.
        interface: String,
        /// Frames of the guest.
        frames: u64,
        /// When the last of them came; absent when there was none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_ns: Option<MonotonicNs>,
        /// Announcements, those of QEMU included.
        announcements: u64,
    },
    /// The network is told where a guest is, through its tap.
    Announcement {
        /// The QEMU process.
        pid: u32,
        /// The tap.
        interface: String,
        /// How.
        kind: Announcement,
    },
    /// A reply to `query-migrate` that the optional active client asked for.
    QueryMigrate {
        /// The QEMU process.
        pid: u32,
        /// The reply's `return` object, as QEMU gave it.
        reply: Value,
    },
    /// A reply to `query-migrate-parameters` that the optional active client asked for.
    QueryMigrateParameters {
        /// The QEMU process.
        pid: u32,
        /// The reply's `return` object, as QEMU gave it.
        reply: Value,
    },
    /// An interface that appeared while tracing is counted at from now on.
    InterfaceAdded(Interface),
    /// An interface that was counted at has vanished.
    InterfaceGone {
        /// Its name.
        interface: String,
    },
    /// Somebody else has removed TC programs of this recording from an interface: what crossed until they were attached
    /// again was not seen. Told again, with the same `last_seen_ns`, when they could not be attached at once and are at
    /// last.
    TcRemoved(TcRemoved),
    /// From now on an address is asked for echo replies.
    EchoStart(EchoStart),
    /// The probed address is this QEMU's guest's.
    EchoOwner {
        /// The QEMU process.
        pid: u32,
        /// How that is known.
        method: EchoOwnerMethod,
    },
    /// The address answers again.
    EchoGap(EchoGap),
    /// The address is asked no more: what all requests told.
    EchoEnd(EchoEnd),
    /// Facts lost so far, cumulative.
    Lost {
        /// How many.
        #[serde(flatten)]
        so_far: Lost,
        /// When that was looked at before: the latest of them were lost since then. Absent when it is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_ns: Option<MonotonicNs>,
    },
    /// Something that is not measured in this log, found while recording.
    NotMeasured(NotMeasured),
    /// An event of a kind that this version does not know, in place of it; only a reader makes this.
    NotUnderstood {
        /// The kind's name.
        kind: String,
    },
    /// The last line of a log that was ended in order.
    LogEnd {
        /// Why the recording ended.
        reason: EndReason,
    },
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
