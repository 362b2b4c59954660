//! What the timeline shows while a migration runs, and when it considers the migration over.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use migtrace::event::{Event, Fact, QmpEvent};
use migtrace::record::{Outcome, PhaseName, Role};
use migtrace::selection::Selection;
use migtrace::timeline::Timeline;
use migtrace::units::MonotonicNs;
use migtrace::vocabulary::Announcement;

const LOG_START_NS: u64 = 1_000_000_000_000;
const MS: u64 = 1_000_000;

#[test]
fn the_display_follows_the_phases_and_passes() {
    let mut timeline = Timeline::new(Selection::default());
    let mut shown = Vec::new();
    for event in common::events("precopy-7.2").0 {
        timeline.push(&event);
        if let Some(live) = timeline.live(event.at_ns) {
            let step = (live.phase, live.pass);
            if shown.last() != Some(&step) {
                shown.push(step);
            }
        }
    }
    let expected = [
        ("setup", None),
        ("active", Some(1)),
        ("active", Some(2)),
        ("active", Some(3)),
        ("stop", None),
        ("completed", None),
    ];
    assert_eq!(shown, expected.map(|(phase, pass)| (PhaseName::from(phase), pass)));
}

#[test]
fn the_elapsed_time_grows_until_the_end_and_not_after() {
    let mut timeline = Timeline::new(Selection::default());
    let elapsed = |timeline: &Timeline, ms: u64| {
        timeline.live(MonotonicNs(LOG_START_NS + ms * MS)).map(|live| live.elapsed_ns / MS)
    };
    for event in common::events("precopy-7.2").0 {
        if matches!(&event.fact, Fact::Qmp(qmp) if qmp.data["status"] == "completed") {
            assert_eq!(elapsed(&timeline, 4_249), Some(3_249));
            assert_eq!(timeline.ended(), None);
        }
        timeline.push(&event);
    }
    assert_eq!(elapsed(&timeline, 60_000), Some(3_250));
}

#[test]
fn the_end_is_known_at_once_and_the_last_packet_soon_after() {
    let mut timeline = Timeline::new(Selection::default());
    let mut seen = Vec::new();
    for event in common::events("precopy-7.2").0 {
        timeline.push(&event);
        if let Some(ended) = timeline.ended() {
            assert_eq!(ended.outcome, Outcome::Completed);
            assert_eq!(ended.at.0, LOG_START_NS + 4_250 * MS);
            seen.push(ended.flows_closed);
        }
    }
    assert_eq!(seen[..2], [false, true]);
}

#[test]
fn a_destination_waits_for_the_announcement_of_its_guest_not_only_for_its_flows_to_close() {
    let mut timeline = Timeline::new(Selection::default());
    let mut seen = Vec::new();
    let (mut events, _) = common::events("destination-disk-sync");
    let resume =
        events.iter().position(|event| matches!(&event.fact, Fact::Qmp(qmp) if qmp.name == "RESUME"));
    let at_ns = events[resume.unwrap()].at_ns;
    let (pid, interface) = (777, "vnet0".to_owned());
    let frame = Fact::GuestFrame { pid, interface: interface.clone() };
    let announcement = Fact::Announcement { pid, interface, kind: Announcement::Rarp };
    events.splice(resume.unwrap() + 1.., [frame, announcement].map(|fact| Event { at_ns, fact }));
    for event in &events {
        timeline.push(event);
        seen.extend(timeline.ended().map(|ended| ended.all_seen));
    }
    // QEMU's last event, RESUME, the guest's first frame, and its announcement to the network.
    assert_eq!(seen[seen.len() - 4..], [false, false, false, true], "{seen:?}");
}

#[test]
fn an_arrived_guest_that_does_not_run_yet_is_awaited_while_its_qemu_lives() {
    let (mut events, _) = common::events("destination-10.0");
    let resume = events
        .iter()
        .position(|event| matches!(&event.fact, Fact::Qmp(qmp) if qmp.name == "RESUME"))
        .unwrap();
    let resume = events.remove(resume);
    let log_end = events.pop().unwrap();
    let Fact::Qmp(QmpEvent { pid, .. }) = resume.fact else { unreachable!() };
    let after = |more: &[Event]| {
        let mut timeline = Timeline::new(Selection::default());
        events.iter().chain(more).for_each(|event| timeline.push(event));
        let awaits = timeline.ended().unwrap().awaits_guest;
        let (mut records, reason) = (timeline.finish(), "the guest did not run within");
        let record = records.remove(0);
        assert_eq!(record.migration.outcome, Outcome::Completed);
        (awaits, record.not_measured.iter().any(|entry| entry.why.starts_with(reason)))
    };
    let late = |event: &Event, fact: Fact| Event { at_ns: MonotonicNs(event.at_ns.0 + 3_000 * MS), fact };
    let gone = late(&log_end, Fact::QemuGone { pid });
    assert_eq!(after(&[]), (true, false), "not known yet");
    assert_eq!(after(std::slice::from_ref(&log_end)), (true, true));
    assert_eq!(after(&[late(&log_end, resume.fact.clone()), log_end.clone()]), (false, false));
    assert_eq!(after(&[gone, log_end]), (false, false));
}

#[test]
fn sent_bytes_go_from_the_source_to_the_destination_on_either_host() {
    for log in ["destination-10.0", "precopy-10.0"] {
        let mut timeline = Timeline::new(Selection::default());
        common::events(log).0.iter().for_each(|event| timeline.push(event));
        let live = timeline.live(MonotonicNs(0)).unwrap();
        let wire_bytes = live.wire_bytes.unwrap();
        assert!(wire_bytes.tx > 10 * wire_bytes.rx, "{log}: {live:?}");
    }
}

#[test]
fn only_the_selected_vm_ends_the_recording_and_gets_a_record() {
    let select = |vm: &str| Selection::new(Some(vm.to_owned()), None);
    let of = |selection: Selection| {
        let mut timeline = Timeline::new(selection);
        common::events("two-vms").0.iter().for_each(|event| timeline.push(event));
        let names: Vec<_> = timeline.finish().into_iter().filter_map(|r| r.vm.name).collect();
        (timeline.ended().map(|e| (e.at.0 - LOG_START_NS) / MS), names)
    };
    assert_eq!(of(Selection::default()), (Some(2_030), vec!["web-1".to_owned(), "db-1".to_owned()]));
    assert_eq!(of(select("db-1")), (Some(2_230), vec!["db-1".to_owned()]));
    assert_eq!(of(select("11111111-2222-4333-8444-555555555555")), (Some(2_230), vec!["db-1".to_owned()]));
    assert_eq!(of(Selection::new(None, Some(4242))), (Some(2_030), vec!["web-1".to_owned()]));
    assert_eq!(of(select("nobody")), (None, vec![]));
}

#[test]
fn without_qemu_events_a_migration_ends_with_its_last_flow() {
    let mut timeline = Timeline::new(Selection::default());
    for event in common::events("events-off").0 {
        timeline.push(&event);
        let closed = matches!(&event.fact, Fact::FlowCounters(c) if c.closed);
        let over = timeline.ended().is_some();
        assert!(over || !closed);
        assert!(!over || closed || matches!(event.fact, Fact::LogEnd { .. }));
    }
}

#[test]
fn a_destination_that_only_listens_has_no_migration_yet() {
    let events = common::events("destination-10.0").0;
    let until_setup: Vec<_> = events.into_iter().take(4).collect();
    assert!(until_setup.iter().any(|e| matches!(&e.fact, Fact::Qmp(q) if q.data["status"] == "setup")));
    let mut timeline = Timeline::new(Selection::default());
    until_setup.iter().for_each(|event| timeline.push(event));
    assert_eq!(timeline.live(MonotonicNs(LOG_START_NS)), None);
    assert!(timeline.finish().is_empty());
}

#[test]
fn the_role_of_this_host_is_shown() {
    let role = |log| {
        let mut timeline = Timeline::new(Selection::default());
        common::events(log).0.iter().for_each(|event| timeline.push(event));
        timeline.live(MonotonicNs(0)).unwrap().role
    };
    assert_eq!(role("destination-10.0"), Role::Destination);
    assert_eq!(role("precopy-10.0"), Role::Source);
}

#[test]
fn a_guest_of_several_taps_has_shown_itself_once_each_of_them_has_carried_a_frame() {
    let mut timeline = Timeline::new(Selection::default());
    let mut taps = Vec::new();
    for event in common::events("../merged/three-taps-7.2/destination").0 {
        if let Fact::GuestFrame { interface, .. } = &event.fact
            && !taps.contains(interface)
        {
            taps.push(interface.clone());
        }
        timeline.push(&event);
        let all_seen = timeline.ended().is_some_and(|ended| ended.all_seen);
        assert!(!all_seen || taps.len() == 3, "{taps:?}");
    }
    assert_eq!(taps.len(), 3);
    assert!(timeline.ended().unwrap().all_seen);
}
