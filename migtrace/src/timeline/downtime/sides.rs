//! What both halves of a migration show of the guest's stop.

use crate::record::{Outcome, Role};
use crate::timeline::facts::Process;
use crate::timeline::half::Half;
use crate::timeline::migration::{Ending, MigrationFacts};
use crate::timeline::prober::Prober;
use crate::timeline::transition::{Transition, TransitionKind};
use crate::units::MonotonicNs;

/// Both halves of a migration, as far as they were seen. Where the source was, its clock is the record's.
pub(super) struct Sides<'a> {
    pub(super) source: Option<Half<'a>>,
    pub(super) destination: Option<Half<'a>>,
    /// The host that has sent the echo requests.
    pub(super) prober: Prober<'a>,
}

impl<'a> Sides<'a> {
    /// When the guest's next migration begins, where it has arrived or else where it was; on the clock of the prober.
    pub(super) fn next_migration(&self) -> Option<MonotonicNs> {
        let half = self.destination.or(self.source)?;
        let next = half.next_start?;
        if std::ptr::eq(half.facts, self.prober.facts) {
            return Some(next);
        }
        Some(self.prober.clock.shows(half.clock.on_record(next)))
    }

    pub(super) fn last_stop(&self) -> Option<&'a Transition> {
        self.source?.last_stop()
    }

    /// Where the guest can run again, the likelier side first, and until when a run there ends the stop. A completed migration
    /// leaves no guest at the source: what runs there later does not end the stop.
    pub(super) fn places_to_run(&self) -> impl Iterator<Item = (Half<'a>, MonotonicNs)> {
        let until = |source: &MigrationFacts<'_>| match source.end {
            Ending::Declared(end, Outcome::Completed) | Ending::Replied(end, Outcome::Completed) => end,
            _ => MonotonicNs(u64::MAX),
        };
        let destination = self.destination.map(|destination| (destination, MonotonicNs(u64::MAX)));
        destination.into_iter().chain(self.source.map(|source| (source, until(&source))))
    }

    /// From when on a run of the guest, or a frame of it, on this side ends the stop; on the clock of that side.
    pub(super) fn after_stop(&self, side: &Half<'_>) -> Option<MonotonicNs> {
        match (side.role, self.last_stop()) {
            (_, Some(stop)) => Some(side.clock.earliest(stop.at)),
            (Role::Destination, None) => Some(side.start),
            (Role::Source, None) => None,
        }
    }
}

/// The first RESUME from `at` on.
pub(super) fn resume_after<'a>(migration: &MigrationFacts<'a>, at: MonotonicNs) -> Option<&'a Transition> {
    migration.transitions.iter().copied().find(|m| m.kind == TransitionKind::Resume && m.at >= at)
}

/// When the vCPUs left KVM for a stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct VcpuExits {
    pub(super) first: MonotonicNs,
    /// The last of those that are known.
    pub(super) last: MonotonicNs,
    /// Whether the VM has no others.
    pub(super) all_known: bool,
}

/// When the vCPUs left KVM for a stop, as seen at QEMU's event or, where that could not be read, when they ran again.
pub(super) fn vcpu_exits(process: Option<&Process>, stop: &Transition) -> Option<VcpuExits> {
    let later = || process?.runs.vcpus_since(stop.at);
    let vcpus = stop.vcpus.or_else(later).filter(|vcpus| vcpus.inside == 0)?;
    let (first, last) = vcpus.first_left_ns.zip(vcpus.last_left_ns).filter(|(_, last)| *last <= stop.at)?;
    let in_all = process.and_then(|p| p.qemu.as_ref()).and_then(|q| q.vcpus);
    Some(VcpuExits { first: first.min(last), last, all_known: in_all.is_none_or(|all| vcpus.known >= all) })
}
