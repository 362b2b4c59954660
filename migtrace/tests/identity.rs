//! Whose migration it is: ids that both hosts derive, VMs that are kept apart.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::{one, outline, replay};
use migtrace::event::Fact;
use migtrace::record::{MarkName, Outcome, Record, Vantage};
use migtrace::selection::Selection;
use migtrace::timeline::Timeline;

const MIB: u64 = 1 << 20;

/// The log of both ends on one host, whose QEMUs run as these users.
fn both_ends_of(source: u32, destination: u32) -> Vec<Record> {
    let (mut events, _) = common::events("both-ends");
    for event in &mut events {
        if let Fact::QemuSeen(qemu) = &mut event.fact {
            qemu.uid = Some(if qemu.incoming { destination } else { source });
        }
    }
    common::fold(&events)
}

#[test]
fn both_hosts_derive_the_same_id() {
    assert_eq!(one("destination-10.0").migration.id, one("precopy-10.0").migration.id);
    assert_ne!(one("destination-10.0").migration.id, one("precopy-10.0-pause").migration.id);
}

#[test]
fn both_hosts_derive_the_same_id_whatever_parts_they_seem_to_have() {
    let id = |name: &str| one(name).migration.id.unwrap();
    assert_eq!(id("postcopy-destination"), id("destination-10.0"));
    assert_eq!(id("postcopy-destination"), id("precopy-10.0"));
    let records = replay("two-taps");
    assert_eq!(records[0].migration.id, records[1].migration.id);
}

#[test]
fn an_id_never_changes_once_it_is_known() {
    for name in common::log_names() {
        let (events, _) = common::events(&name);
        let mut timeline = Timeline::new(Selection::default());
        let mut known_ids = Vec::new();
        for event in &events {
            timeline.push(event);
            if matches!(event.fact, Fact::FlowCounters(_)) {
                continue;
            }
            for record in timeline.finish() {
                let id = record.migration.id.clone();
                let key = (record.vm.name, record.observers[0].role, record.start.realtime_ns);
                match known_ids.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, Some(known))) => assert_eq!(Some(&*known), id.as_ref(), "{name}: {event:?}"),
                    Some((_, unknown)) => *unknown = id,
                    None => known_ids.push((key, id)),
                }
            }
        }
    }
}

#[test]
fn two_vms_that_migrate_at_once_have_separate_records() {
    let records = replay("two-vms");
    let [web, db] = &records[..] else { panic!("{} records", records.len()) };
    assert_eq!((web.vm.name.as_deref(), db.vm.name.as_deref()), (Some("web-1"), Some("db-1")));
    assert_eq!(web.traffic.total.unwrap().tx.payload_bytes, 101 * MIB);
    assert_eq!(db.traffic.total.unwrap().tx.payload_bytes, 202 * MIB);
    assert_eq!((web.traffic.flows.len(), db.traffic.flows.len()), (1, 1));
}

#[test]
fn qemus_of_two_users_are_never_the_two_ends_of_one_vm() {
    assert_eq!(both_ends_of(107, 107), replay("both-ends"));
    let records = both_ends_of(107, 1000);
    let [source, destination] = &records[..] else { panic!("{} records", records.len()) };
    // Each has only its own half: the source's stop has no end here, the destination's no beginning.
    assert_eq!(source.observers[0].role, Vantage::Source);
    assert_eq!(destination.observers[0].role, Vantage::Destination);
    for record in [source, destination] {
        assert_eq!(record.migration.outcome, Outcome::Completed);
        assert_eq!(record.traffic.flows.len(), 1);
        assert_eq!(record.traffic.total.unwrap().tx.payload_bytes, 101 * MIB);
        assert!(record.downtime.stop.as_ref().is_none_or(|stop| stop.high_ns.is_none()), "{record:#?}");
    }
    let names = |record: &Record| -> Vec<MarkName> {
        record.downtime.marks.iter().map(|mark| mark.name.clone()).collect()
    };
    assert!(names(source).contains(&MarkName::Stop) && !names(source).contains(&MarkName::Resume));
    assert!(names(destination).contains(&MarkName::Resume) && !names(destination).contains(&MarkName::Stop));
    assert_eq!(outline(source), outline(&replay("both-ends")[0]), "the same phases");
}
