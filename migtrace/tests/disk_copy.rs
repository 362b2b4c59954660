//! Copies of disks that were given up before QEMU began to migrate.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::merged::{both, merge_one};
use common::{fold, one, outline, payload_tx, replay, why};
use migtrace::event::{Event, Fact, QmpEvent};
use migtrace::invariants::inputs;
use migtrace::record::{Outcome, Record};
use migtrace::selection::Selection;
use migtrace::timeline::Timeline;
use migtrace::units::MonotonicNs;
use serde_json::json;

const MS: u64 = 1_000_000;
const NAME: &str = "disk-copy-given-up";
const DOUBT: &str = "whether this is a migration";

/// The records of the log with its last job event changed.
fn with_job_end(change: impl Fn(&mut QmpEvent)) -> Vec<Record> {
    let mut events = common::events(NAME).0;
    let ends = events.iter_mut().filter_map(|event| match &mut event.fact {
        Fact::Qmp(qmp) if qmp.name == "BLOCK_JOB_CANCELLED" => Some(qmp),
        _ => None,
    });
    ends.for_each(change);
    inputs::fold(&events).unwrap();
    fold(&events)
}

#[test]
fn a_cancelled_disk_copy_is_a_migration_that_was_given_up_before_it_sent_memory() {
    let record = one(NAME);
    assert_eq!(record.migration.outcome, Outcome::Cancelled);
    assert_eq!(outline(&record), [("disk-sync", None, 4_001), ("cancelled", None, 9)]);
    assert_eq!(payload_tx(&record.phases[0]), 500 << 20);
    assert_eq!(payload_tx(&record.phases[1]), 16);
    assert_eq!(record.total_time.as_ref().unwrap().value_ns, 4_001_000_000);
    assert_eq!(record.downtime.stopped, Some(false));
    // The source alone cannot know what the copy was for.
    assert!(why(&record, DOUBT).contains("192.0.2.2:49153"));
}

#[test]
fn the_recording_of_a_disk_copy_that_was_given_up_is_over_once_its_connection_has_closed() {
    let mut timeline = Timeline::new(Selection::default());
    let mut ended = Vec::new();
    for event in common::events(NAME).0 {
        timeline.push(&event);
        ended.extend(timeline.ended().map(|end| (event.at_ns, end.flows_closed && end.all_seen)));
    }
    let start = 1_000_000 * MS;
    assert_eq!(ended.first(), Some(&(MonotonicNs(start + 5_001 * MS), false)));
    assert_eq!(ended.last(), Some(&(MonotonicNs(start + 5_101 * MS), true)));
    assert!(!timeline.is_under_way());
}

#[test]
fn a_disk_copy_that_failed_says_why() {
    let records = with_job_end(|qmp| {
        qmp.name = "BLOCK_JOB_COMPLETED".to_owned();
        qmp.data["error"] = json!("Input/output error");
    });
    assert_eq!(records[0].migration.outcome, Outcome::Failed);
    let error = records[0].migration.error.as_deref();
    assert_eq!(error, Some("a disk could not be copied: Input/output error"));
    assert_eq!(outline(&records[0]), [("disk-sync", None, 4_001), ("failed", None, 9)]);
}

#[test]
fn a_disk_copy_that_fails_after_its_connection_has_closed_ends_when_qemu_says_so() {
    let mut events = common::events(NAME).0;
    for event in &mut events {
        if matches!(&event.fact, Fact::Qmp(qmp) if qmp.name == "BLOCK_JOB_CANCELLED") {
            event.at_ns = MonotonicNs(event.at_ns.0 + 1_000 * MS);
        }
    }
    events.sort_by_key(|event| event.at_ns);
    let records = fold(&events);
    assert_eq!(outline(&records[0]), [("disk-sync", None, 5_001), ("cancelled", None, 0)]);
}

#[test]
fn other_disk_copies_are_no_migration() {
    // It came to its end.
    assert_eq!(with_job_end(|qmp| qmp.name = "BLOCK_JOB_COMPLETED".to_owned()), []);
    // It was a backup.
    assert_eq!(with_job_end(|qmp| qmp.data["type"] = json!("backup")), []);
    // It was no copy over the network.
    let mut local = common::events(NAME).0;
    local.retain(|event| matches!(event.fact, Fact::LogStart(_) | Fact::QemuSeen(_) | Fact::Qmp(_)));
    assert_eq!(fold(&local), []);
}

#[test]
fn a_qemu_that_ends_while_it_copies_a_disk_has_failed() {
    let mut events = common::events(NAME).0;
    let is_job = |event: &Event| matches!(&event.fact, Fact::Qmp(qmp) if qmp.data["status"] != "created");
    events.retain(|event| !is_job(event));
    let end = events.pop().unwrap();
    let gone = |pid| Event { at_ns: MonotonicNs(end.at_ns.0 - MS), fact: Fact::QemuGone { pid } };
    let without_death = fold(&events);
    assert_eq!(without_death, [], "the copy may have come to its end");
    events.push(gone(4242));
    events.push(end.clone());
    inputs::fold(&events).unwrap();
    let records = fold(&events);
    assert_eq!(records[0].migration.outcome, Outcome::Failed);
    assert_eq!(outline(&records[0]), [("disk-sync", None, 4_100)]);
    assert!(why(&records[0], DOUBT).contains("192.0.2.2:49153"));
}

#[test]
fn the_next_attempt_has_no_part_of_the_copy_that_was_given_up_just_before() {
    let [given_up, moved] = &replay("disk-copy-given-up-then-moved")[..] else { panic!() };
    assert_eq!(given_up.traffic, one(NAME).traffic);
    let alone = one("disk-sync");
    assert_eq!(outline(moved), outline(&alone));
    assert_eq!(moved.traffic.flows.len(), 2);
    assert_eq!(moved.phases[0].traffic, alone.phases[0].traffic);
}

#[test]
fn both_hosts_know_together_that_it_was_a_migration() {
    let logs = both("libvirt-copy-aborted-7.2");
    let doubts = |record: &Record| record.not_measured.iter().any(|entry| entry.what == DOUBT);
    let source = merge_one(&logs[..1]);
    let record = merge_one(&logs);
    assert!(doubts(&source) && !doubts(&record));
    assert_eq!(record.migration.outcome, Outcome::Cancelled);
    assert_eq!(record.observers.len(), 2);
    assert_eq!(record.phases, source.phases);
    assert_eq!(record.traffic.flows.len(), 1);
}

#[test]
fn nothing_is_under_way_at_a_destination_that_only_listens_again() {
    let mut timeline = Timeline::new(Selection::default());
    let mut under_way = Vec::new();
    // As if its QEMU had lived on.
    let log = both("libvirt-copy-aborted-7.2")[1].clone();
    for line in log.iter().filter(|line| line["event"] != "qemu_gone") {
        timeline.push(&serde_json::from_value(line.clone()).unwrap());
        under_way.push(timeline.is_under_way());
    }
    under_way.dedup();
    assert_eq!(under_way, [false, true, false]);
    assert_eq!(timeline.ended(), None);
    assert_eq!(timeline.finish().len(), 1, "what it has received is kept");
}
