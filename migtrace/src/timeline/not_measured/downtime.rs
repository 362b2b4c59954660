//! What is not known of the guest's absence.

use super::list::List;
use crate::record::{MarkName, Method, Mode, Outcome, Record, Role};
use crate::timeline::facts::Facts;
use crate::timeline::joined::Joined;
use crate::timeline::migration::MigrationFacts;
use crate::timeline::probe_target::Probing;
use crate::timeline::wording::spoken;
use crate::vocabulary::Purpose;

const CUT_OFF: &str = "the recording was cut off before the echo requests were summed up";

/// A guest that has arrived here, and did not run before the recording ended.
pub(super) fn arrival(facts: &Facts, migration: &MigrationFacts<'_>, list: &mut List) {
    if facts.end.is_some() && facts.hears_qemu() && migration.may_still_run() {
        let waited = spoken(facts.latest.0.saturating_sub(migration.end.at().0));
        list.push(
            "when the guest runs",
            format!("the guest did not run within {waited} of the end of its migration"),
        );
    }
}

/// What is not known of the guest's absence. There is none in a migration that did not get so far.
pub(super) fn downtime(joined: &Joined<'_>, record: &Record, list: &mut List) {
    let migration = joined.first.half.migration;
    let moved = matches!(record.migration.outcome, Outcome::Completed | Outcome::Unknown)
        || record.migration.mode == Mode::Postcopy
        || record.downtime.marks.iter().any(|m| m.name == MarkName::Stop);
    if !moved || record.downtime.never_stopped() {
        return;
    }
    let other = match migration.role {
        _ if joined.other.is_some() => "neither host has seen both its stop and its next run",
        _ if joined.apart.is_some() => {
            "it begins on one host and ends on the other, and their clocks are not aligned"
        }
        Role::Source => {
            "the guest runs again on the destination: that host must be recorded too (`record --peer`, or `merge` of both \
             logs)"
        }
        Role::Destination => {
            "the guest stops on the source: that host must be recorded too (`record --peer`, or `merge` of both logs)"
        }
    };
    let downtime = &record.downtime;
    let from_below_only = downtime.stop.as_ref().is_some_and(|stop| stop.method.is_from_below());
    if downtime.stop.is_none() {
        list.push("stop (how long the guest did not run)", other.to_owned());
    } else if from_below_only {
        list.push("when the guest ran again after the last byte", other.to_owned());
    }
    ends_of_parts(joined, record, list);
    vcpus(migration, record, list);
    if downtime.network.is_none() {
        let both_ends =
            !from_below_only && downtime.stop.as_ref().is_some_and(|stop| !stop.method.takes_a_reply());
        let why = if migration.qemu().is_some_and(|qemu| qemu.taps.is_empty()) {
            "this QEMU has no tap in this network namespace: frames of a guest with vhost-user, SR-IOV, macvtap or \
             user-mode networking cannot be seen"
        } else if both_ends {
            "no frame of the guest was seen at its taps before it stopped or after it ran again"
        } else {
            other
        };
        list.push("network (how long the guest's tap was silent)", why.to_owned());
    }
}

/// What is not known of the parts of the stop.
fn ends_of_parts(joined: &Joined<'_>, record: &Record, list: &mut List) {
    let parts = &record.downtime.parts;
    let is_encrypted = joined.first.half.migration.flows.iter().any(|flow| flow.purpose == Purpose::Tls);
    if is_encrypted && record.migration.mode == Mode::Precopy && !joined.first.half.migration.is_of_colo() {
        list.push(
            "when the last byte crossed",
            "the connection is encrypted (TLS): the last bytes of its stream are messages of TLS, after those of QEMU",
        );
    }
    if parts.iter().any(|part| part.role == Role::Source && part.wire_bytes.is_none()) {
        list.push(
            "the bytes of some parts of the stop",
            "the source's counters are read with its own events, and none of these marks where those parts end",
        );
    }
}

/// Why the stop, where it is known, is known from QEMU's events only.
fn vcpus(migration: &MigrationFacts<'_>, record: &Record, list: &mut List) {
    let is_marked = |name: MarkName| record.downtime.marks.iter().any(|m| m.name == name);
    let stopped = is_marked(MarkName::FirstVcpuStopped);
    if stopped || is_marked(MarkName::FirstVcpuRun) {
        if stopped && !is_marked(MarkName::AllVcpusStopped) {
            list.push(
                "when the last vCPU stopped",
                "some of the VM's vCPUs were not seen to leave KVM; QEMU's STOP is used instead",
            );
        }
        return;
    }
    let accelerator = migration.qemu().and_then(|q| q.accelerator.as_deref());
    if let Some(accelerator) = accelerator.filter(|name| *name != "kvm") {
        list.push(
            "when the vCPUs stop and run",
            format!(
                "this guest's accelerator is {accelerator}: it has no vCPUs in KVM, and QEMU's STOP and RESUME are used instead"
            ),
        );
    }
}

/// Why it is not known how long the guest did not answer.
pub(super) fn reachability(record: &Record, is_rough: bool, probing: Probing<'_>, list: &mut List) {
    let what = "reachability (how long the guest did not answer)";
    let probe = match probing {
        Probing::Probed(probe) => probe,
        Probing::Nobody => return list.push(what, "the guest was not probed (use --probe ADDRESS)"),
        Probing::Another(target) => {
            let why =
                format!("the guest was not probed: the echo requests went to {target}, which another VM has");
            return list.push(what, why);
        }
        Probing::Doubtful(target) => {
            let why = format!(
                "several VMs run here, and it is not known which of them has the probed address {target}; choose one with \
                 --vm or --pid"
            );
            return list.push(what, why);
        }
    };
    if probe.echo.is_none() {
        let why = if probe.ended { "no echo request to the guest was seen leaving" } else { CUT_OFF };
        return list.push(what, why.to_owned());
    }
    if record.gaps.iter().any(|gap| gap.length.method == Method::Open) {
        list.push("the end of a gap", "the guest did not answer again before the recording ended");
    }
    if record.downtime.reachability.is_none() && !record.downtime.never_stopped() {
        let ends = [MarkName::Stop, MarkName::FirstVcpuRun, MarkName::Resume];
        let why = if is_rough && !record.gaps.is_empty() {
            "there were several gaps, and only wall clocks say which of them the migration caused"
        } else if record.downtime.marks.iter().any(|mark| ends.contains(&mark.name)) {
            "the echo requests do not cover the time in which the guest stopped and ran again"
        } else {
            "neither the stop of the guest nor its next run was seen, so no gap can be tied to them"
        };
        list.push(what, why.to_owned());
    }
}
