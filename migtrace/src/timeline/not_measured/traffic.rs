//! What is not known of the phases and the traffic.

use super::list::List;
use crate::record::Record;
use crate::timeline::facts::Facts;
use crate::timeline::half::Half;
use crate::timeline::joined::Joined;
use crate::timeline::migration::{MigrationFacts, Opening};
use crate::timeline::phases::BytesUnknown;
use crate::units::{Counters, Directions};
use crate::vocabulary::Purpose;

pub(super) fn start(migration: &MigrationFacts<'_>, list: &mut List) {
    if !migration.start_seen && migration.opening != Opening::Transfer {
        list.push(
            "the start",
            "the migration began before the recording: its first part is missing from every time and count",
        );
    }
}

pub(super) fn events(facts: &Facts, migration: &MigrationFacts<'_>, list: &mut List) {
    if migration.opening != Opening::Transfer {
        return;
    }
    let why = if migration.process.is_none() {
        "the QEMU of these flows is not in this network namespace: run migtrace in QEMU's namespace"
    } else if !facts.hears_qemu() {
        "QEMU's events cannot be read on this host (see above)"
    } else if migration.flows.iter().all(|f| f.purpose == Purpose::Nbd) {
        "only a disk copy was seen; QEMU did not report that a migration began"
    } else {
        "QEMU reported no migration states: its migration capability `events` is off (libvirt always turns it on); \
         turn it on before the migration with QMP migrate-set-capabilities {\"capabilities\": \
         [{\"capability\": \"events\", \"state\": true}]}"
    };
    list.push("phases", why.to_owned());
}

/// A copy of disks may have had another purpose, unless another host knows that a guest was to arrive.
pub(super) fn purpose(joined: &Joined<'_>, list: &mut List) {
    let Half { facts, migration, .. } = joined.first.half;
    let is_known = joined.other.is_some() || joined.apart.is_some();
    let Some(copy) = migration.flows.first() else { return };
    if migration.is_only_copy() && migration.process.is_some() && facts.hears_qemu() && !is_known {
        list.push(
            "whether this is a migration",
            format!(
                "a disk was copied to {}, and no memory has followed; a copy for another purpose looks the same from \
                 here. The destination knows: record there as well (`--peer`), or merge its log",
                copy.flow.remote
            ),
        );
    }
}

pub(super) fn flows(migration: &MigrationFacts<'_>, record: &Record, list: &mut List) {
    if migration.flows.is_empty() {
        list.push(
            "traffic",
            "no flow of this migration was seen: its port is not one of the watched ones, or it crosses an interface \
             that is not counted, a Unix socket, RDMA or a tunnel",
        );
    }
    if !migration.flows_owned && migration.process.is_some() {
        list.push(
            "the owner of the flows",
            "no process was seen to send on them; they are counted as this VM's because no other VM migrates here",
        );
    }
    for flow in &migration.flows {
        if !flow.is_whole() {
            let why = match flow.carried_before.as_ref().and_then(|carried| carried.at_most) {
                Some(at_most) => only_bounds(flow.before(), at_most),
                None => "the connection is older than the recording".to_owned(),
            };
            list.push(&format!("the first bytes of {}", flow.flow), why);
        }
        let Some(counters) = &flow.last else {
            list.push(&format!("the bytes of {}", flow.flow), "its counters were never read");
            continue;
        };
        if counters.elsewhere_skbs > 0 {
            list.push(
                &format!("a part of {}", flow.flow),
                format!(
                    "{} packets crossed an interface other than {}: the route changed, and the bytes are a lower \
                     bound",
                    counters.elsewhere_skbs, flow.interface
                ),
            );
        }
    }
    if record.traffic.fragments.is_some() {
        list.push(
            "the flow of IP fragments",
            "fragments carry no port: those between the two hosts are shown separately and are not in the total",
        );
    }
}

/// Of what had crossed before a flow was counted, only bounds are known.
fn only_bounds(least: Directions<Counters>, most: Directions<Counters>) -> String {
    format!(
        "it opened while migtrace slept. By its socket's own count, {} to {} bytes had been sent and {} to {} received before \
         it was counted: the bytes are a lower bound",
        least.tx.wire_bytes, most.tx.wire_bytes, least.rx.wire_bytes, most.rx.wire_bytes
    )
}

pub(super) fn phase_bytes(record: &Record, unknown: Option<BytesUnknown>, list: &mut List) {
    let Some(unknown) = unknown else { return };
    if record.phases.iter().all(|p| p.traffic.is_some()) {
        return;
    }
    let why = match unknown {
        BytesUnknown::NoSnapshot => "this kernel cannot read the counters together with QEMU's events",
        BytesUnknown::NoEvent => {
            "the counters are read with QEMU's events, and no event reported where one of these phases ends"
        }
        BytesUnknown::NotOwned => {
            "the counters read with QEMU's events do not include flows without an owner"
        }
        BytesUnknown::OwnedLate => "a flow was tied to this QEMU only after it had carried bytes",
        BytesUnknown::Contradiction => "the counters read with QEMU's events contradict those of the flows",
        BytesUnknown::CutOff => "the event log ends before the last count of the flows",
    };
    list.push("the bytes of some phases", why.to_owned());
}
