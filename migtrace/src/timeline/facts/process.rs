//! What is known of a QEMU process.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::event::{Qemu, QmpEvent};
use crate::record::PhaseName;
use crate::timeline::runs::Runs;
use crate::timeline::stamped::Stamped;
use crate::timeline::transition::Transition;
use crate::units::MonotonicNs;
use crate::vm::VmKey;
use crate::vocabulary::Announcement;

/// How far apart, counted in transitions, the same event may be read at two monitors.
const REPEAT_DISTANCE: usize = 8;

/// A QEMU process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) qemu: Option<Qemu>,
    pub(crate) gone: Option<MonotonicNs>,
    pub(crate) transitions: Stamped<Transition>,
    /// The rounds of copying; of use only where the transitions show no migration.
    pub(crate) dirty_logs: Stamped<Transition>,
    pub(crate) jobs: Stamped<JobStep>,
    /// Copies of disks that did not come to their end.
    pub(crate) given_up: Stamped<GivenUpCopy>,
    pub(crate) replies: Stamped<Value>,
    pub(crate) parameters: Stamped<Value>,
    /// What libvirt has said of a migration, after its end.
    pub(crate) libvirt_figures: Stamped<BTreeMap<String, u64>>,
    pub(crate) runs: Runs,
    /// The taps at which an awaited first frame came.
    pub(crate) first_frames: Stamped<String>,
    /// The frames of the guest at a tap, each time that they were counted.
    pub(crate) counted_frames: Stamped<CountedFrames>,
    pub(crate) announcements: Stamped<TapAnnouncement>,
    /// The flows of this process, as indices into [`super::Facts::flows`].
    pub(crate) flows: BTreeSet<usize>,
}

/// The frames of a guest at a tap until an instant.
#[derive(Clone, Debug)]
pub(crate) struct CountedFrames {
    pub(crate) interface: String,
    /// When the last of them came; none: there was none.
    pub(crate) last: Option<MonotonicNs>,
}

impl CountedFrames {
    pub(super) fn new(interface: &str, last: Option<MonotonicNs>) -> Self {
        Self { interface: interface.to_owned(), last }
    }
}

/// An announcement of where the guest is, at one of its taps.
#[derive(Clone, Debug)]
pub(crate) struct TapAnnouncement {
    pub(crate) interface: String,
    pub(crate) kind: Announcement,
}

/// A step in the life of a block job.
#[derive(Clone, Debug)]
pub(crate) struct JobStep {
    pub(crate) id: String,
    pub(crate) state: JobState,
    pub(crate) qemu_realtime_us: i64,
}

/// The copy of a disk that was cancelled, or has failed.
#[derive(Clone, Debug)]
pub(crate) struct GivenUpCopy {
    /// QEMU has given up, as at the end of a migration.
    pub(crate) transition: Transition,
    /// Why, if it has failed.
    pub(crate) error: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum JobState {
    Created,
    /// Only mirrors (and active commits) become ready.
    Ready,
    Over,
}

impl Process {
    /// The VM that it runs.
    pub(crate) fn vm(&self) -> VmKey<'_> {
        self.qemu.as_ref().map_or(VmKey::of_process(self.pid), VmKey::of)
    }

    /// Takes in what libvirt has said of its migration.
    pub(super) fn push_libvirt_figures(&mut self, at: MonotonicNs, figures: &BTreeMap<String, u64>) {
        self.libvirt_figures.insert(at, figures.clone());
    }

    /// Takes in an event that this QEMU wrote. Returns whether it is about a migration, and new.
    pub(super) fn push_qmp(&mut self, at: MonotonicNs, qmp: &QmpEvent) -> bool {
        if let Some(transition) = Transition::of_qmp(at, qmp) {
            // QEMU writes an event once to each monitor that has a client.
            let is_repeat = |earlier: &Transition| {
                earlier.kind == transition.kind && earlier.qemu_realtime_us == transition.qemu_realtime_us
            };
            let is_new = !self.transitions.latest_arrivals().take(REPEAT_DISTANCE).any(is_repeat);
            if is_new {
                self.transitions.insert(at, transition);
            }
            return is_new;
        }
        if let Some(copy) = GivenUpCopy::of_qmp(at, qmp) {
            self.given_up.insert(at, copy);
        }
        let step = JobStep::of_qmp(qmp);
        let is_about_job = step.is_some();
        if let Some(step) = step {
            self.jobs.insert(at, step);
        }
        is_about_job
    }
}

impl GivenUpCopy {
    /// Of a mirror alone: a backup is no part of a migration.
    fn of_qmp(at: MonotonicNs, qmp: &QmpEvent) -> Option<Self> {
        let text = |key: &str| qmp.data.get(key).and_then(Value::as_str);
        let error = text("error");
        let status = match (qmp.name.as_str(), error) {
            ("BLOCK_JOB_CANCELLED", _) => PhaseName::Cancelled,
            ("BLOCK_JOB_COMPLETED", Some(_)) => PhaseName::Failed,
            _ => return None,
        };
        let copy =
            || Self { transition: Transition::of_status(at, status, qmp), error: error.map(str::to_owned) };
        (text("type") == Some("mirror")).then(copy)
    }
}

impl JobStep {
    fn of_qmp(qmp: &QmpEvent) -> Option<Self> {
        let text = |key: &str| qmp.data.get(key).and_then(Value::as_str);
        let state = match (qmp.name.as_str(), text("status")) {
            ("JOB_STATUS_CHANGE", Some("created")) => JobState::Created,
            ("JOB_STATUS_CHANGE", Some("ready")) | ("BLOCK_JOB_READY", _) => JobState::Ready,
            ("JOB_STATUS_CHANGE", Some("aborting" | "concluded" | "null"))
            | ("BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED", _) => JobState::Over,
            _ => return None,
        };
        let id = text("id").or_else(|| text("device"))?.to_owned();
        Some(Self { id, state, qemu_realtime_us: qmp.qemu_realtime_us })
    }
}
