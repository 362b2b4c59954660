//! One migration of one QEMU: its facts, and what they say as a whole.

use super::facts::{FlowFacts, Mark, MarkKind, Process};
use crate::event::{EndReason, Purpose};
use crate::record::{Mode, Outcome, Role};
use crate::units::MonotonicNs;

/// The facts of one migration of one QEMU.
#[derive(Clone, Debug)]
pub(super) struct Migration<'a> {
    /// None for a migration stream whose QEMU is not in this network namespace.
    pub(super) process: Option<&'a Process>,
    pub(super) role: Role,
    /// In the order of their stamps.
    pub(super) marks: Vec<&'a Mark>,
    /// In the order of their first packets.
    pub(super) flows: Vec<&'a FlowFacts>,
    /// The flows of the same process that belong to its earlier migrations.
    pub(super) earlier_flows: Vec<&'a FlowFacts>,
    /// False when the flows are this VM's only because there is no other whose they could be.
    pub(super) flows_owned: bool,
    pub(super) opening: Opening,
    pub(super) start: MonotonicNs,
    /// QEMU's own stamp of the start, in microseconds of the wall clock; none when a packet is the start.
    pub(super) start_stamp: Option<i64>,
    /// False when the migration had begun before anything of it was seen.
    pub(super) start_seen: bool,
    pub(super) end: End,
}

/// What the time before the first mark is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Opening {
    /// There is none: the first mark is the start.
    Mark,
    /// The disks are copied before the memory.
    DiskSync,
    /// Packets crossed before the first event was seen.
    Unseen,
    /// QEMU tells no phases: all that is known are its flows, STOP and RESUME.
    Transfer,
}

/// How the facts of a migration end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// QEMU said so.
    Declared(MonotonicNs, Outcome),
    /// QEMU ended in the middle.
    Died(MonotonicNs),
    /// The next migration began although no end of this one was seen.
    Superseded(MonotonicNs),
    /// QEMU told nothing and all flows are closed.
    Closed(MonotonicNs),
    /// Nothing more is known.
    Open(MonotonicNs),
}

impl End {
    pub(super) const fn at(&self) -> MonotonicNs {
        match self {
            Self::Declared(at, _)
            | Self::Died(at)
            | Self::Superseded(at)
            | Self::Closed(at)
            | Self::Open(at) => *at,
        }
    }
}

/// The outcome that a status means, when it is a last one.
pub(super) fn terminal(status: &str) -> Option<Outcome> {
    match status {
        "completed" => Some(Outcome::Completed),
        "failed" => Some(Outcome::Failed),
        "cancelled" => Some(Outcome::Cancelled),
        _ => None,
    }
}

impl Mark {
    pub(super) fn status(&self) -> Option<&str> {
        match &self.kind {
            MarkKind::Status(status) => Some(status),
            _ => None,
        }
    }

    pub(super) fn is_status(&self, status: &str) -> bool {
        self.status() == Some(status)
    }

    /// Whether only the source of a migration says this (qapi/migration.json, MigrationStatus).
    fn is_of_source(&self) -> bool {
        match &self.kind {
            // A destination enters `paused` without ever having run, which emits no STOP.
            MarkKind::Pass(_) | MarkKind::Stop | MarkKind::DirtyLog => true,
            MarkKind::Resume => false,
            MarkKind::Status(status) => matches!(
                status.as_str(),
                "cancelling"
                    | "cancelled"
                    | "pre-switchover"
                    | "device"
                    | "wait-unplug"
                    | "postcopy-recover-setup"
            ),
        }
    }
}

impl Migration<'_> {
    pub(super) fn mode(&self) -> Mode {
        let status = |test: fn(&str) -> bool| self.marks.iter().any(|m| m.status().is_some_and(test));
        if status(|s| s.starts_with("postcopy")) {
            Mode::Postcopy
        } else if self.opening != Opening::Transfer && status(|s| s == "active" || s == "completed") {
            Mode::Precopy
        } else {
            Mode::Unknown
        }
    }

    pub(super) fn first_packet(&self) -> Option<MonotonicNs> {
        self.flows.iter().map(|f| f.first()).min()
    }

    pub(super) fn last_packet(&self) -> Option<MonotonicNs> {
        self.flows.iter().map(|f| f.last()).max()
    }

    /// When the last byte of the memory stream crossed for the first time; it ends with the devices' state and what
    /// describes it, and without them the guest cannot run at the destination. Unknown where QEMU itself does not end
    /// the stream there: TLS adds a farewell, COLO goes on.
    pub(super) fn last_byte(&self) -> Option<MonotonicNs> {
        if self.mode() != Mode::Precopy || self.marks.iter().any(|m| m.is_status("colo")) {
            return None;
        }
        let streams = self.flows.iter().filter(|f| f.purpose == Purpose::Ram);
        let last = streams.filter_map(|f| f.last.as_ref()).map(|counted| match self.role {
            Role::Source => counted.last_byte_ns.tx,
            Role::Destination => counted.last_byte_ns.rx,
        });
        last.max().flatten()
    }

    /// The last reply of `query-migrate` about this migration.
    pub(super) fn reply(&self) -> Option<&serde_json::Value> {
        let replies = &self.process?.replies;
        // The client asks once more after the end, so the last reply before the next migration is this one's.
        let until = match self.end {
            End::Superseded(at) => at,
            _ => MonotonicNs(u64::MAX),
        };
        replies.iter().rev().find(|(at, _)| (self.start..=until).contains(at)).map(|(_, reply)| reply)
    }

    pub(super) fn outcome(&self, log_end: Option<EndReason>) -> Outcome {
        let told = || self.reply().and_then(|r| r.get("status")).and_then(|s| s.as_str()).and_then(terminal);
        match self.end {
            End::Declared(_, outcome) => outcome,
            // Without events a source that has stopped its guest and then ends has most likely succeeded.
            End::Died(_) if self.opening == Opening::Transfer && self.stopped() => {
                told().unwrap_or(Outcome::Unknown)
            }
            End::Died(_) => told().unwrap_or(Outcome::Failed),
            End::Superseded(_) | End::Closed(_) => told().unwrap_or(Outcome::Unknown),
            End::Open(_) => told().unwrap_or(match log_end {
                Some(EndReason::MigrationEnded) => Outcome::Unknown,
                Some(EndReason::Interrupted | EndReason::TimedOut) | None => Outcome::Interrupted,
            }),
        }
    }

    /// Whether a guest that has arrived here, or may have, did not run so far and still can: its QEMU lives.
    pub(super) fn may_still_run(&self) -> bool {
        let has_arrived = match self.end {
            End::Declared(_, outcome) => outcome == Outcome::Completed,
            End::Closed(_) => true,
            End::Died(_) | End::Superseded(_) | End::Open(_) => false,
        };
        let runs = self.marks.iter().any(|m| m.kind == MarkKind::Resume);
        let lives = self.process.is_some_and(|process| process.gone.is_none());
        self.role == Role::Destination && has_arrived && lives && !runs
    }

    /// Whether the guest was stopped and not resumed here.
    fn stopped(&self) -> bool {
        let last = |kind: &MarkKind| self.marks.iter().rposition(|m| m.kind == *kind);
        last(&MarkKind::Stop) > last(&MarkKind::Resume)
    }
}

/// This host's part. Decides by what was seen; the command line (`-incoming`) only when nothing tells, because a guest that has
/// arrived can leave again.
pub(super) fn role(marks: &[&Mark], flows: &[&FlowFacts], process: Option<&Process>, arrived: bool) -> Role {
    let end = marks.iter().position(|m| m.status().and_then(terminal).is_some()).unwrap_or(marks.len());
    if marks.iter().take(end + 1).any(|m| m.is_of_source()) {
        return Role::Source;
    }
    let (tx, rx) = flows
        .iter()
        .map(|f| f.payload_bytes())
        .fold((0u64, 0u64), |(tx, rx), p| (tx.saturating_add(p.tx), rx.saturating_add(p.rx)));
    if rx / 2 > tx {
        return Role::Destination;
    }
    if tx / 2 > rx {
        return Role::Source;
    }
    let qemu = process.and_then(|p| p.qemu.as_ref());
    let incoming = qemu.is_some_and(|q| q.incoming) && !arrived;
    let resumed_only = qemu.is_none() && marks.iter().any(|m| m.kind == MarkKind::Resume);
    if incoming || resumed_only { Role::Destination } else { Role::Source }
}
