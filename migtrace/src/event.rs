//! One observed fact with its kernel time stamp, and the event log: one JSON object a line.
//!
//! The event log is the source of truth. A record is derived from it and from nothing else, so the same log
//! gives the same record, byte for byte.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::units::{ClockSample, Counters, Directions, Flow, MonotonicNs};

mod log;

pub use log::{LogError, LogErrorKind, LogReader, LogWriter};

/// The schema name that the first line of every event log carries.
pub const SCHEMA: &str = "migtrace.events/1";

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
    /// The probes, and how each is attached on this host.
    pub probes: Vec<Probe>,
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

/// A probe and its state on this host.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Probe {
    /// Its name in the probe table.
    pub name: String,
    /// What it observes.
    pub observes: String,
    /// Whether it works here.
    pub status: ProbeStatus,
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

/// Whether a probe works.
// There is no other state: whoever reads it has to decide for each.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeStatus {
    /// Attached to its first choice.
    Ok,
    /// Attached to another hook.
    Fallback,
    /// Not attached.
    Missing,
}

/// A QEMU process, from `/proc` alone.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Qemu {
    /// Process id.
    pub pid: u32,
    /// The user that it runs as (effective user id). Absent in logs of versions that did not look.
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

/// How the owner of a flow is known.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerMethod {
    /// The kernel saw this process send or receive on the flow's socket.
    Socket,
    /// `sock_diag` named the socket's inode and `/proc/PID/fd` the process that holds it.
    SockDiag,
}

/// What had crossed on a flow.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Crossed {
    /// Since its first packet.
    pub counters: Directions<Counters>,
    /// Stamp of the last packet of that.
    pub last_ns: MonotonicNs,
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
    /// The second channel of a post-copy migration: the pages that the guest waits for (`postcopy-preempt`).
    PostcopyPreempt,
    /// TLS: what is inside cannot be told.
    Tls,
    /// No migration, though it goes to a watched port: as much comes back as from a server of disks.
    Other,
    /// Anything else.
    Unknown,
}

/// The counters of a flow since its first packet.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct FlowCounters {
    /// The connection.
    pub flow: Flow,
    /// What crossed since the flow's first packet (or since tracing began).
    pub counters: Directions<Counters>,
    /// Stamp of the first packet.
    pub first_ns: MonotonicNs,
    /// Stamp of the last packet so far.
    pub last_ns: MonotonicNs,
    /// Stamp of the last packet so far with payload beyond all that had crossed before, so of none that was sent again;
    /// null while there was none.
    #[serde(default, skip_serializing_if = "is_neither")]
    pub last_byte_ns: Directions<Option<MonotonicNs>>,
    /// Segments that this host sent again.
    pub retransmitted_segments: Option<u64>,
    /// TCP payload bytes that this host sent again.
    pub retransmitted_payload_bytes: Option<u64>,
    /// Packets of this flow that crossed another interface and were not counted: nonzero after a route change.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub elsewhere_skbs: u64,
    /// True once both ends have said that they are done (FIN or RST).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
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
    /// Those that were seen to enter or leave KVM.
    pub known: u32,
    /// Of these, those in KVM: they run, or are halted there.
    pub inside: u32,
    /// Of those in KVM, the ones whose first run after a stop has just begun.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub starting: u32,
    /// Of those that are known, the ones that are halted outside of KVM (a VM without an interrupt controller in the kernel).
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub halted: u32,
    /// When the first of the others left KVM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_left_ns: Option<MonotonicNs>,
    /// When the last of the others left KVM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_left_ns: Option<MonotonicNs>,
}

/// How the network is told where a guest is.
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

/// What is asked for echo replies, and how.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct EchoStart {
    /// The address.
    pub target: IpAddr,
    /// The interface at which requests and replies are stamped.
    pub interface: String,
    /// How the programs are attached there.
    pub attach: AttachMode,
    /// The time between two requests that was asked for.
    pub interval_ns: u64,
    /// A silence that surely lasted for less is no gap.
    pub min_gap_ns: u64,
}

/// How it is known whose guest has the probed address.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EchoOwnerMethod {
    /// The network gives the address a MAC, and this guest has a network interface with it.
    Mac,
    /// The person who asked for the probe named this VM.
    Selected,
}

/// What all requests to an address told.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct EchoEnd {
    /// As a whole; absent when no request was seen to leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<Echo>,
    /// The gap that had not ended: what is told of its end is the last request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<EchoGap>,
}

/// What a stream of echo requests to an address told as a whole.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Echo {
    /// Who was asked.
    pub target: IpAddr,
    /// Who asked.
    pub peer: IpAddr,
    /// The asker's ICMP identifier.
    pub identifier: u16,
    /// Requests.
    pub sent: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were not answered.
    pub lost: u64,
    /// Requests that were answered, but only after a gap.
    pub late: u64,
    /// Replies that came more than once.
    pub duplicate: u64,
    /// The average time between two requests; null with fewer than two.
    pub interval_ns: Option<u64>,
    /// The longest time between two requests.
    pub longest_interval_ns: u64,
    /// Times from request to reply, but for the late ones; null when nothing was answered.
    pub round_trip: Option<RoundTrip>,
    /// The longest of these since the last gap; null when nothing was answered since.
    #[serde(default)]
    pub worst_since_last_gap_ns: Option<u64>,
}

/// Times from request to reply.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct RoundTrip {
    /// Half of them took no longer than this, to within 1/16.
    pub p50_ns: u64,
    /// 99 % of them took no longer than this, to within 1/16.
    pub p99_ns: u64,
    /// The longest, exactly.
    pub max_ns: u64,
}

/// A silence of the probed address, as the stamps of echo requests and replies tell it.
///
/// Between `answered_request_ns` and `resumed_ns` the address answered nothing, or may have answered nothing. The stamps
/// are facts; what they say of the silence is worked out from them by the timeline.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct EchoGap {
    /// When the latest request was sent that was answered before.
    pub answered_request_ns: MonotonicNs,
    /// When the last reply came before.
    pub last_reply_ns: MonotonicNs,
    /// When the first request was sent that was not answered before `resumed_ns`.
    pub first_waiting_ns: MonotonicNs,
    /// When the request was sent that precedes the one whose reply ended the gap.
    pub before_resumed_ns: MonotonicNs,
    /// When the request was sent whose reply ended the gap.
    pub resuming_request_ns: MonotonicNs,
    /// When that reply came.
    pub resumed_ns: MonotonicNs,
    /// The longest of the latest round trips before, in nanoseconds.
    pub round_trip_before_ns: u64,
    /// The longest of the first round trips after, in nanoseconds; 0 when none was seen.
    pub round_trip_after_ns: u64,
    /// Requests that were sent after `answered_request_ns` and not after `resumed_ns`, but for those that a gap right after
    /// it holds too.
    pub requests: u64,
    /// Of these, those sent before `resuming_request_ns` and answered after `resumed_ns`.
    pub overtaken: u64,
    /// Of these, those sent at `resuming_request_ns` or later that waited for longer than `round_trip_before_ns`.
    pub waited: u64,
    /// Of these, the other answered ones.
    pub prompt: u64,
    /// Replies to these that came more than once.
    pub duplicate: u64,
    /// The longest round trip since the gap before, or since the first request, but for the late ones.
    #[serde(default)]
    pub worst_round_trip_ns: u64,
    /// True for a silence that may have been: all that tells of it is that later requests were answered first. Then
    /// `requests` are those that were passed over and those that passed them, `waited` the ones of all these that waited
    /// for longer than the latest round trips, and `prompt` the other answered ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_be: bool,
    /// Where `may_be` is true: the shortest of the latest round trips, in nanoseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shortest_round_trip_ns: u64,
    /// Where `may_be` is true: the longest time between two requests so far, in nanoseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub longest_interval_ns: u64,
    /// Where `may_be` is true: how many of the latest replies came after one to a later request.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub disordered: u64,
}

impl EchoGap {
    /// How many of its requests were answered.
    pub(crate) const fn answered(&self) -> u64 {
        self.overtaken.saturating_add(self.waited).saturating_add(self.prompt)
    }
}

/// Facts that were lost; any nonzero makes the affected figures lower bounds.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Lost {
    /// Events that found the ring buffer full.
    pub ring_buffer: u64,
    /// Packets of flows that found the flow table full.
    pub flows: u64,
    /// Probe hits that the kernel skipped or whose data could not be read.
    pub probes: u64,
    /// Writes of QEMU to its monitors that told events which were not read: their process wrote too many of them, or they
    /// were too long or no QMP. Absent when there was none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub qmp_lines: u64,
    /// Runs of vCPUs that found the table of vCPUs full. Absent when there was none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub vcpus: u64,
}

/// Something that is not measured, and why.
// Whoever embeds a recording notes them too, so it has these two fields and no others.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub struct NotMeasured {
    /// What.
    pub what: String,
    /// Why, and what would help.
    pub why: String,
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

const fn is_neither<T>(of: &Directions<Option<T>>) -> bool {
    of.tx.is_none() && of.rx.is_none()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}
