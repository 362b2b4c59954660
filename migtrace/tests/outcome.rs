//! How migrations end, how long they took, and what QEMU claims about them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::{made, one, payload_tx, replay, why};
use migtrace::event::{Event, Fact};
use migtrace::invariants::inputs;
use migtrace::record::{Method, Outcome, PhaseName, Record};
use migtrace::units::MonotonicNs;
use serde_json::json;

const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;

/// The place of the end of QEMU in a log.
fn death(events: &[Event]) -> usize {
    events.iter().position(|event| matches!(event.fact, Fact::QemuGone { .. })).unwrap()
}

fn last_phase(record: &Record) -> (&PhaseName, i64) {
    let last = record.phases.last().unwrap();
    (&last.name, last.start_ns)
}

#[test]
fn total_time_lies_between_the_stamps_of_qemu_and_of_the_kernel() {
    // QEMU stamped `setup` and `completed` 0.1 ms before they were written; the clock is known to 60 ns.
    let total = one("precopy-7.2").total_time.unwrap();
    assert_eq!(
        (total.value_ns, total.low_ns, total.high_ns),
        (3_250_000_000, 3_250_000_000 - 100_060, Some(3_250_000_000 + 100_060))
    );
    assert_eq!(total.method, Method::QmpEvents);
}

#[test]
fn a_failed_migration_has_its_error_and_the_length_of_the_stop() {
    let record = one("failed");
    assert_eq!(record.migration.outcome, Outcome::Failed);
    assert_eq!(
        record.migration.error.as_deref(),
        Some("Unable to write to socket: Connection reset by peer")
    );
    let stop = record.downtime.stop.unwrap();
    // STOP was written at 2000 ms, RESUME was built at 2030.9 ms to within 60 ns.
    assert_eq!((stop.value_ns, stop.low_ns, stop.high_ns), (31_000_000, 30_900_000 - 60, None));
}

#[test]
fn a_qemu_that_died_failed_at_some_time_after_its_last_packet() {
    let record = one("qemu-dies");
    assert_eq!(record.migration.outcome, Outcome::Failed);
    assert_eq!(record.migration.error.as_deref(), Some("QEMU (pid 4242) ended during the migration"));
    let total = record.total_time.unwrap();
    assert_eq!((total.low_ns, total.value_ns), (1_222_000_000, 1_400_000_000));
    assert_eq!(record.phases.iter().map(payload_tx).sum::<u64>(), 120 * MIB);
}

#[test]
fn the_last_reply_of_a_qemu_that_died_gives_the_outcome() {
    let (events, _) = common::events("qemu-dies");
    let asked = |status: &str| {
        let mut events = events.clone();
        let reply = json!({ "at_ns": 1_002_350_000_000_u64, "event": "query_migrate", "pid": 4242, "reply": { "status": status } });
        events.insert(death(&events), made(reply));
        inputs::fold(&events).unwrap();
        common::fold(&events).remove(0)
    };
    for (status, outcome, phase) in [
        ("completed", Outcome::Completed, PhaseName::Completed),
        ("cancelled", Outcome::Cancelled, PhaseName::Cancelled),
        ("failed", Outcome::Failed, PhaseName::Failed),
    ] {
        let record = asked(status);
        assert_eq!(record.migration.outcome, outcome);
        // It ended when it was asked, or before, but not before its last packet.
        assert_eq!(last_phase(&record), (&phase, 1_350_000_000));
        let total = record.total_time.as_ref().unwrap();
        assert_eq!((total.value_ns, &total.method), (1_350 * MS, &Method::LastSignOfLife));
        assert_eq!(total.low_ns, 1_222 * MS, "its last packet");
    }
    // It was asked in the middle, and then died.
    let record = asked("active");
    assert_eq!(record.migration.outcome, Outcome::Failed);
    assert_eq!(last_phase(&record), (&PhaseName::Failed, 1_400_000_000));
}

#[test]
fn a_pid_that_is_reused_after_the_end_of_a_process_is_another_process() {
    let (mut events, _) = common::events("qemu-dies");
    let status = |at_ns: u64, status: &str| {
        made(json!({
            "at_ns": at_ns, "event": "qmp", "pid": 4242, "name": "MIGRATION", "data": { "status": status },
            "qemu_realtime_us": 1_800_000_000_000_000_u64 + at_ns / 1_000
        }))
    };
    let end = events.len() - 1;
    let later =
        [(1_002_400_500_000, "setup"), (1_002_400_600_000, "active"), (1_002_400_700_000, "completed")];
    events.splice(end..end, later.map(|(at_ns, what)| status(at_ns, what)));
    inputs::fold(&events).unwrap();
    let records = common::fold(&events);
    let [died, other] = &records[..] else { panic!("{records:#?}") };
    assert_eq!(*died, replay("qemu-dies")[0]);
    assert_eq!((other.migration.outcome, &other.vm.name), (Outcome::Completed, &None));
    assert_eq!(last_phase(other), (&PhaseName::Completed, 200_000));
}

#[test]
fn an_event_of_a_process_may_be_read_after_its_end() {
    let (mut events, _) = common::events("qemu-dies");
    let death = death(&events);
    let active = events.iter().position(|event| format!("{event:?}").contains("active")).unwrap();
    let late = events.remove(active);
    events.insert(death, late);
    assert_eq!(common::fold(&events), replay("qemu-dies"));
    // An end that is stamped before the last that was heard is not before it.
    let (mut events, _) = common::events("qemu-dies");
    events[death].at_ns = MonotonicNs(1_001_011_000_000);
    inputs::fold(&events).unwrap();
    let record = common::fold(&events).remove(0);
    assert_eq!(last_phase(&record), (&PhaseName::Failed, 12_000_000));
    assert_eq!(record.total_time.unwrap().value_ns, 12 * MS);
}

#[test]
fn a_source_is_not_done_before_the_last_byte_of_the_return_path() {
    let (mut events, _) = common::events("destination-listened-long");
    for event in &mut events {
        if let Fact::FlowCounters(counters) = &mut event.fact
            && counters.closed
        {
            counters.last_byte_ns.tx = Some(MonotonicNs(4_602_605_500_000));
        }
    }
    let total = common::fold(&events).remove(0).total_time.unwrap();
    assert_eq!((total.value_ns, total.low_ns), (1_605 * MS, 1_604_500_000));
}

#[test]
fn claims_of_qemu_are_kept_beside_the_measurements() {
    let record = one("precopy-7.2");
    assert_eq!(record.downtime.qemu_reported_ns, Some(52_000_000));
    assert_eq!(record.qemu.stats.as_ref().unwrap()["ram"]["dirty-sync-count"], 4);
    assert_eq!(record.downtime.stop, None, "the guest runs again on a host that was not seen");
    assert!(why(&record, "stop").contains("must be recorded too"));
}

#[test]
fn a_reply_of_qemu_belongs_to_the_migration_that_ran_at_that_time() {
    let records = replay("reply-about-the-second");
    let [cancelled, completed] = &records[..] else { panic!("{} records", records.len()) };
    let claims = |record: &Record| {
        (record.downtime.qemu_reported_ns, record.downtime.budget_ns, record.qemu.stats.is_some())
    };
    assert_eq!(claims(cancelled), (None, None, false));
    assert_eq!(claims(completed), (Some(77 * MS), Some(9_000 * MS), true));
}

#[test]
fn claims_that_cannot_be_true_are_contradictions() {
    let found = one("qemu-claims-more").downtime.contradictions;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("the migration completed") && found[0].contains("it failed"), "{found:?}");
    assert!(found[1].contains("3407172000 B") && found[1].contains("340787712 B"), "{found:?}");
    assert_eq!(one("precopy-7.2").downtime.contradictions, [""; 0], "an honest QEMU contradicts nothing");
}
