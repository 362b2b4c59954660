//! Which bytes belong to which migration and phase.
//!
//! The canned flows carry segments of 1448 payload bytes under 66 bytes of headers, one segment without payload
//! for the handshake, and one acknowledgement for every two segments.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::{marks, one, outline, payload_tx, replay, why};
use migtrace::event::{Event, Fact};
use migtrace::invariants::inputs;
use migtrace::record::{Outcome, PhaseName, Vantage};

const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;

#[test]
fn a_cancelled_migration_and_the_next_one_share_no_bytes() {
    let records = replay("cancelled-then-completed");
    let [cancelled, completed] = &records[..] else { panic!("{} records", records.len()) };
    assert_eq!(cancelled.migration.outcome, Outcome::Cancelled);
    assert_eq!(completed.migration.outcome, Outcome::Completed);
    assert_ne!(cancelled.migration.id, completed.migration.id);
    assert_eq!(cancelled.traffic.total.unwrap().tx.payload_bytes, 51 * MIB);
    assert_eq!(completed.traffic.total.unwrap().tx.payload_bytes, 95 * MIB);
    // The kernel's snapshots still contain the first migration's flow.
    assert_eq!(payload_tx(&completed.phases[0]), 2_048);
    assert_eq!(payload_tx(&completed.phases[1]), 90 * MIB - 2_048);
    assert_eq!(completed.start.realtime_ns.unwrap() - cancelled.start.realtime_ns.unwrap(), 2_000_000_000);
}

#[test]
fn the_bytes_of_multifd_channels_are_summed() {
    let record = one("multifd");
    assert_eq!(record.traffic.flows.len(), 3);
    assert_eq!(record.traffic.total.unwrap().tx.payload_bytes, 853 * MIB);
    let device = record.phases.iter().find(|p| p.name == PhaseName::Device).unwrap();
    assert_eq!(payload_tx(device), 42 * MIB);
}

#[test]
fn an_owner_that_is_found_late_leaves_bytes_unknown_but_never_wrong() {
    let record = one("owner-found-late");
    let known: Vec<_> = record.phases.iter().map(|p| p.traffic.is_some()).collect();
    assert_eq!(known, [false, false, true, true, true]);
    assert_eq!(payload_tx(&record.phases[3]), MIB);
    assert!(why(&record, "bytes of some phases").contains("only after it had carried bytes"));
}

#[test]
fn a_disk_copy_that_failed_an_hour_before_is_not_part_of_the_migration() {
    let record = one("failed-disk-copy-before");
    assert_eq!(record.total_time.as_ref().unwrap().value_ns, 1_600 * MS);
    assert_eq!(record.traffic.flows.len(), 1);
    let sum: u64 = record.phases.iter().map(|phase| phase.traffic.unwrap().tx.payload_bytes).sum();
    assert_eq!(sum, 160 * MIB + 100, "what it had carried is in no phase");
}

#[test]
fn counters_may_be_read_in_any_order() {
    let mut swapped = 0;
    for name in common::log_names() {
        let (mut events, _) = common::events(&name);
        let expected = common::fold(&events);
        let flow = |(i, event): (usize, &Event)| match &event.fact {
            Fact::FlowCounters(counted) => Some((counted.flow, i)),
            _ => None,
        };
        let mut counted: Vec<_> = events.iter().enumerate().filter_map(flow).collect();
        counted.sort_unstable();
        for pair in counted.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let (earlier, later) = (pair[0].1, pair[1].1);
            // A count from before the flow was tied has a use of its own, so it stays before the owner.
            if events[earlier..later].iter().any(|event| matches!(event.fact, Fact::FlowOwner { .. })) {
                continue;
            }
            events.swap(earlier, later);
            inputs::fold(&events).unwrap();
            assert_eq!(common::fold(&events), expected, "{name}: {earlier} and {later}");
            events.swap(earlier, later);
            swapped += 1;
        }
    }
    assert!(swapped > 20, "{swapped}");
}

#[test]
fn sent_means_from_the_source_to_the_destination_on_the_destination_too() {
    let record = one("destination-10.0");
    assert_eq!(record.observers[0].role, Vantage::Destination);
    assert_eq!(
        outline(&record),
        [("listening", None, 501), ("setup", None, 1), ("active", None, 1_604), ("completed", None, 4)]
    );
    let total = record.traffic.total.unwrap();
    assert_eq!((total.tx.payload_bytes, total.rx.payload_bytes), (160 * MIB + 100, 200));
    assert_eq!(marks(&record), [("resume", 1_603), ("completed", 1_605), ("last-packet", 1_609)]);
}
