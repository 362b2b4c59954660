//! What a QEMU was seen to change: the state of its migration, and whether its guest runs.

use super::clocks::{Bounds, Clocks};
use crate::event::{QmpEvent, Vcpus};
use crate::record::PhaseName;
use crate::units::{Counters, Directions, MonotonicNs};

/// A change at which a phase can begin or end.
#[derive(Clone, Debug)]
pub(super) struct Transition {
    pub(super) at: MonotonicNs,
    pub(super) kind: TransitionKind,
    /// QEMU's own stamp; 0 for a change that no event of QEMU reports.
    pub(super) qemu_realtime_us: i64,
    pub(super) counters: Option<Directions<Counters>>,
    pub(super) vcpus: Option<Vcpus>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum TransitionKind {
    Status(PhaseName),
    Pass(u64),
    Stop,
    Resume,
    /// A pass begins. QEMU's calls of KVM show it, not an event.
    DirtyLog,
}

impl Transition {
    /// None for an event that does not report such a change.
    pub(super) fn of_qmp(at: MonotonicNs, qmp: &QmpEvent) -> Option<Self> {
        let kind = match qmp.name.as_str() {
            "MIGRATION" => {
                let status = qmp.data.get("status")?.as_str().filter(|status| !status.is_empty())?;
                TransitionKind::Status(status.into())
            }
            "MIGRATION_PASS" => TransitionKind::Pass(qmp.data.get("pass")?.as_u64()?),
            "STOP" => TransitionKind::Stop,
            "RESUME" => TransitionKind::Resume,
            _ => return None,
        };
        Some(Self::of_kind(at, kind, qmp))
    }

    /// A state that an event of another kind shows.
    pub(super) const fn of_status(at: MonotonicNs, status: PhaseName, qmp: &QmpEvent) -> Self {
        Self::of_kind(at, TransitionKind::Status(status), qmp)
    }

    const fn of_kind(at: MonotonicNs, kind: TransitionKind, qmp: &QmpEvent) -> Self {
        let QmpEvent { qemu_realtime_us, counters, vcpus, .. } = *qmp;
        Self { at, kind, qemu_realtime_us, counters, vcpus }
    }

    pub(super) const fn of_dirty_log(at: MonotonicNs, counters: Directions<Counters>) -> Self {
        let kind = TransitionKind::DirtyLog;
        Self { at, kind, qemu_realtime_us: 0, counters: Some(counters), vcpus: None }
    }

    /// When it happened.
    pub(super) fn bounds(&self, clocks: &Clocks) -> Bounds {
        clocks.written(self.at, self.qemu_realtime_us)
    }

    pub(super) const fn status(&self) -> Option<&PhaseName> {
        match &self.kind {
            TransitionKind::Status(status) => Some(status),
            _ => None,
        }
    }

    pub(super) fn is_status(&self, status: &PhaseName) -> bool {
        self.status() == Some(status)
    }

    /// Whether it is a STOP or a RESUME, which also happen outside of migrations.
    pub(super) const fn is_of_guest(&self) -> bool {
        matches!(self.kind, TransitionKind::Stop | TransitionKind::Resume)
    }

    /// Whether only the source of a migration can report it (qapi/migration.json, MigrationStatus), whatever its guest does.
    pub(super) const fn is_of_source(&self) -> bool {
        match &self.kind {
            TransitionKind::Pass(_) | TransitionKind::DirtyLog => true,
            TransitionKind::Stop | TransitionKind::Resume => false,
            TransitionKind::Status(status) => matches!(
                status,
                PhaseName::Cancelling
                    | PhaseName::Cancelled
                    | PhaseName::PreSwitchover
                    | PhaseName::Device
                    | PhaseName::WaitUnplug
                    | PhaseName::PostcopyRecoverSetup
            ),
        }
    }
}
