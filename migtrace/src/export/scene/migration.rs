//! The groups of one migration: the guest, each of its two QEMUs, and the hosts that only watched.

use super::hosts::Hosts;
use super::{Group, guest, phases, traffic, vcpus};
use crate::record::{Record, Vantage};

/// The groups of a record, with times since its start. `index` is its place among the records.
pub(super) fn groups(record: &Record, index: usize) -> Vec<Group> {
    let end_ns = end_ns(record);
    let mut hosts = Hosts::new(record);
    let own = hosts.own();
    hosts.add(own, phases::track(record, end_ns));
    for vantage in [Vantage::Source, Vantage::Destination] {
        hosts.add(vantage, vcpus::track(record, vantage, end_ns));
    }
    hosts.add_parts(record);
    hosts.add_marks(record, index);
    hosts.add_taps(record);
    hosts.add_announcements(record);
    hosts.add(own, traffic::tracks(record));
    let mut groups = vec![guest::group(record, end_ns)];
    groups.extend(hosts.into_groups());
    groups
}

/// The last instant that a record knows.
fn end_ns(record: &Record) -> i64 {
    let total = record.total_time.as_ref().map(|total| after(0, total.value_ns));
    let phases = record.phases.iter().map(|phase| phase.end_ns);
    let marks = record.downtime.marks.iter().map(|mark| mark.at_ns);
    let flows = record.traffic.flows.iter().map(|flow| flow.last_ns);
    phases.chain(marks).chain(flows).chain(total).max().unwrap_or(0)
}

/// The instant `ns` later.
pub(super) fn after(from_ns: i64, ns: u64) -> i64 {
    from_ns.saturating_add(i64::try_from(ns).unwrap_or(i64::MAX))
}
