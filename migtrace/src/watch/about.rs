//! Whom a fact concerns, and so into which journals it goes.

use crate::event::Fact;
use crate::units::Flow;

/// Whom a fact concerns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum About {
    /// The host: every journal.
    Host,
    /// This QEMU.
    Qemu(u32),
    /// This connection.
    Flow(Flow),
    /// The recording itself, or an echo probe: no journal.
    Recording,
}

/// Whom a fact concerns.
pub(super) fn about(fact: &Fact) -> About {
    match fact {
        Fact::QemuSeen(qemu) => About::Qemu(qemu.pid),
        Fact::Qmp(qmp) => About::Qemu(qmp.pid),
        Fact::QemuGone { pid }
        | Fact::GuestRun { pid, .. }
        | Fact::GuestRunVoid { pid, .. }
        | Fact::DirtyLog { pid, .. }
        | Fact::GuestFrame { pid, .. }
        | Fact::GuestFrames { pid, .. }
        | Fact::Announcement { pid, .. }
        | Fact::QueryMigrate { pid, .. }
        | Fact::QueryMigrateParameters { pid, .. }
        | Fact::Domjobinfo { pid, .. } => About::Qemu(*pid),
        Fact::FlowSeen { flow, .. }
        | Fact::FlowOwner { flow, .. }
        | Fact::FlowPurpose { flow, .. }
        | Fact::Milestones { flow, .. }
        | Fact::FlowGone { flow } => About::Flow(*flow),
        Fact::FlowCarriedBefore(carried) => About::Flow(carried.flow),
        Fact::FlowCounters(counted) => About::Flow(counted.flow),
        Fact::NotMeasured(entry) => process_of(&entry.what).map_or(About::Host, About::Qemu),
        Fact::Clock(_)
        | Fact::ClockSlew { .. }
        | Fact::PeerClock { .. }
        | Fact::Fragments { .. }
        | Fact::InterfaceAdded(_)
        | Fact::InterfaceGone { .. }
        | Fact::TcRemoved(_)
        | Fact::Lost { .. }
        | Fact::NotUnderstood { .. } => About::Host,
        // Each journal has a beginning and an end of its own, and who watches pings nobody.
        Fact::LogStart(_)
        | Fact::LogEnd { .. }
        | Fact::EchoStart(_)
        | Fact::EchoOwner { .. }
        | Fact::EchoGap(_)
        | Fact::EchoEnd(_) => About::Recording,
    }
}

/// The QEMU that something which is not measured is about; `None` when it is about the host.
pub(crate) fn process_of(what: &str) -> Option<u32> {
    let (_, rest) = what.split_once("QEMU ")?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_measured_of_a_qemu_names_its_process() {
        assert_eq!(process_of("QMP events of QEMU 4711"), Some(4711));
        assert_eq!(process_of("what QEMU 12 does"), Some(12));
        for of_host in ["packets at br0", "owners of flows", "3 more processes that call themselves QEMU"] {
            assert_eq!(process_of(of_host), None, "{of_host}");
        }
    }
}
