//! How long the guest was stopped and its taps were silent, on one host and on both.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::{headline, marks, of_role, one, replay, why};
use migtrace::event::{Fact, QmpEvent};
use migtrace::record::{Downtime, MarkName, Method, Outcome, PhaseName, Record, Role, Vantage};
use migtrace::report;
use migtrace::selection::Selection;
use migtrace::timeline::Timeline;
use migtrace::units::MonotonicNs;
use migtrace::vocabulary::Purpose;

const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;

#[test]
fn the_exits_and_the_first_run_of_the_vcpus_bound_the_stop() {
    let records = replay("vcpus");
    assert_eq!(records.len(), 2);
    for record in &records {
        let downtime = &record.downtime;
        // The last vCPU left at -0.3 ms, and one ran from 36.5 ms on; the first one left at -1.4 ms, and it is doubtful
        // whether one ran at 36.45 ms.
        let stop = downtime.stop.as_ref().unwrap();
        assert_eq!((stop.value_ns, stop.low_ns, stop.high_ns), (36_800_000, 36_750_000, Some(37_900_000)));
        assert_eq!(stop.method, Method::Vcpus);
        let network = downtime.network.as_ref().unwrap();
        assert_eq!(
            (network.value_ns, network.low_ns, network.high_ns),
            (38_000_000, 38_000_000, Some(38_000_000))
        );
        assert_eq!(downtime.contradictions, [""; 0]);
        let after_stop: Vec<_> = downtime.marks.iter().map(|m| m.name.as_str()).collect();
        let expected = [
            "first-vcpu-stopped",
            "last-guest-frame",
            "all-vcpus-stopped",
            "stop",
            "device",
            "completed",
            "last-packet",
            "last-packet",
            "first-announcement",
            "resume",
            "first-vcpu-run",
            "completed",
            "first-guest-frame",
        ];
        assert_eq!(after_stop, expected);
    }
    let source = of_role(&records, Role::Source);
    assert_eq!(
        (source.downtime.qemu_reported_ns, source.downtime.budget_ns),
        (Some(31_000_000), Some(300_000_000))
    );
}

#[test]
fn figures_that_contradict_each_other_are_reported() {
    let (mut events, _) = common::events("vcpus");
    for event in &mut events {
        match &mut event.fact {
            // Longer than the whole migration.
            Fact::QueryMigrate { reply, .. } => reply["downtime"] = 5_000.into(),
            // The vCPUs had stopped long before.
            Fact::GuestFrames { last_ns, .. } => {
                *last_ns = Some(MonotonicNs(event.at_ns.0 + 20 * MS));
            }
            _ => {}
        }
    }
    let records = common::fold(&events);
    let source = of_role(&records, Role::Source);
    let found = &source.downtime.contradictions;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("its tap was silent for only 16.900 ms"), "{found:?}");
    assert!(found[1].contains("QEMU reports a downtime of 5.000 s"), "{found:?}");
    assert!(report::text::render(source).contains("CONTRADICTION"), "the report shows them");
}

#[test]
fn the_guest_runs_elsewhere_no_sooner_than_its_last_byte_crossed() {
    let stop_of = |record: &Record| record.downtime.stop.clone().unwrap();
    let record = one("probed");
    let low_ns = stop_of(&record).low_ns;
    assert_eq!(low_ns, 49 * MS, "from STOP to the last byte");
    assert!(marks(&record).contains(&("last-byte", 3_249)), "{:?}", marks(&record));

    // Without a probe only a lower bound is known.
    let (mut events, _) = common::events("probed");
    events.retain(|event| !matches!(event.fact, Fact::EchoStart(_) | Fact::EchoGap(_) | Fact::EchoEnd(_)));
    let record = common::fold(&events).remove(0);
    let stop = stop_of(&record);
    assert_eq!((stop.value_ns, stop.low_ns, stop.high_ns), (low_ns, low_ns, None));
    assert_eq!(stop.method, Method::QmpEventToLastByte);
    assert!(why(&record, "when the guest ran again").contains("must be recorded too"));
    assert!(why(&record, "network").contains("must be recorded too"));
    let text = report::text::render(&record);
    assert!(text.lines().next().unwrap().ends_with("stop 49.0 ms or longer"), "{text}");

    // TLS ends with a closing message, when the guest may run already. Then QEMU's last pass gives the bound.
    let (mut events, _) = common::events("probed");
    for event in &mut events {
        if let Fact::FlowPurpose { purpose, .. } = &mut event.fact {
            *purpose = Purpose::Tls;
        }
    }
    let record = common::fold(&events).remove(0);
    assert_eq!(stop_of(&record).low_ns, 2 * MS);
    assert!(!marks(&record).iter().any(|(name, _)| *name == MarkName::LastByte.as_str()));
}

#[test]
fn a_frame_that_qemu_sends_after_the_vcpus_have_stopped_contradicts_nothing() {
    const HELD_NS: u64 = 30 * MS;
    let (mut events, _) = common::events("vcpus");
    for event in &mut events {
        if let Fact::Qmp(QmpEvent { vcpus: Some(vcpus), .. }) = &mut event.fact {
            for left_ns in [&mut vcpus.first_left_ns, &mut vcpus.last_left_ns].into_iter().flatten() {
                left_ns.0 -= HELD_NS;
            }
        }
    }
    let records = common::fold(&events);
    let source = of_role(&records, Role::Source);
    let Downtime { stop, network, contradictions, .. } = &source.downtime;
    assert!(
        network.as_ref().unwrap().high_ns.unwrap() < stop.as_ref().unwrap().low_ns,
        "{stop:?} {network:?}"
    );
    assert_eq!(*contradictions, [""; 0]);
}

#[test]
fn with_both_ends_on_one_host_events_give_a_lower_bound_of_the_stop() {
    let records = replay("both-ends");
    let [source, destination] = &records[..] else { panic!("{} records", records.len()) };
    assert_eq!(destination.observers[0].role, Vantage::Destination);
    assert_eq!(source.observers[0].role, Vantage::Source);
    // STOP was written at 2000 ms, RESUME at 2036 ms and built 0.03 ms before, to within 60 ns.
    let stop = source.downtime.stop.as_ref().unwrap();
    assert_eq!((stop.value_ns, stop.low_ns, stop.high_ns), (36_000_000, 35_970_000 - 60, None));
    assert_eq!(destination.downtime.stop.as_ref(), Some(stop));
    assert_eq!(destination.migration.id, source.migration.id);
}

#[test]
fn the_silence_of_the_guest_begins_with_the_last_frame_at_any_tap() {
    let records = replay("two-taps");
    for record in &records {
        let network = record.downtime.network.as_ref().unwrap();
        // From 1999.1 ms at vnet0 to 2037.1 ms at vnet1.
        assert_eq!((network.low_ns, network.value_ns, network.high_ns), (38 * MS, 38 * MS, Some(38 * MS)));
    }
    let taps = &of_role(&records, Role::Source).downtime.taps;
    let seen: Vec<_> = taps
        .iter()
        .map(|tap| (tap.interface.as_str(), tap.role, tap.last_frame_ns, tap.first_frame_ns))
        .collect();
    assert_eq!(
        seen,
        [
            ("vnet-idle", Role::Source, Some(199_100_000), None),
            ("vnet0", Role::Source, Some(999_100_000), None),
            ("vnet1", Role::Destination, None, Some(1_037_100_000)),
        ]
    );
}

#[test]
fn a_vcpu_that_was_not_seen_may_have_run_until_qemu_reported_stop() {
    let records = replay("one-of-two-vcpus");
    for record in &records {
        let stop = record.downtime.stop.as_ref().unwrap();
        // From STOP at 2000 ms, or the exit of the one vCPU at 1498.6 ms, to the first run at 2036.5 ms (doubtful: 36.45).
        assert_eq!((stop.low_ns, stop.value_ns, stop.high_ns), (36_450_000, 36_500_000, Some(537_900_000)));
        assert!(why(record, "when the last vCPU stopped").contains("not seen to leave KVM"));
        let marks: Vec<_> = record.downtime.marks.iter().map(|mark| &mark.name).collect();
        assert!(!marks.contains(&&MarkName::AllVcpusStopped), "{marks:?}");
    }
}

#[test]
fn a_pause_by_a_person_is_a_remark_and_not_a_stop() {
    let record = one("paused-by-hand-then-cancelled");
    assert_eq!((record.downtime.stopped, &record.downtime.stop), (Some(false), &None));
    assert!(
        record.phases.iter().any(|p| p.name == PhaseName::Paused && p.end_ns - p.start_ns == 60_000_000_000)
    );
    let [remark] = &record.downtime.remarks[..] else { panic!("{:?}", record.downtime.remarks) };
    assert!(remark.starts_with("2.000 s after the start the guest was paused for 60.000 s"), "{remark}");
}

#[test]
fn a_guest_that_runs_at_the_source_again_is_a_remark_and_ends_no_stop() {
    let record = one("completed-then-resumed-here");
    let [remark] = &record.downtime.remarks[..] else { panic!("{:?}", record.downtime.remarks) };
    assert!(remark.contains("runs at the source again, 100.500 ms after"), "{remark}");
    assert_eq!(record.downtime.stop, None);
}

#[test]
fn a_migration_that_fails_in_its_setup_does_not_stop_the_guest() {
    let record = one("failed-in-setup");
    assert_eq!((record.migration.outcome, record.downtime.stopped), (Outcome::Failed, Some(false)));
    assert!(headline(&record).ends_with("the guest was not stopped"), "{}", headline(&record));
}

#[test]
fn a_reply_before_the_last_byte_crossed_is_a_contradiction() {
    let record = one("answers-before-last-byte");
    let found = &record.downtime.contradictions;
    assert!(found.iter().any(|one| one.contains("28.700 ms before the source had sent")), "{found:?}");
    let stop = record.downtime.stop.as_ref().unwrap();
    assert_eq!((stop.low_ns, stop.high_ns), (49 * MS, None), "such an answer bounds nothing");
}

#[test]
fn a_resume_before_the_first_report_of_qemu_counts() {
    // As of a recording that began while the memory was copied.
    let (mut events, _) = common::events("destination-10.0");
    events.retain(|event| match &event.fact {
        Fact::Qmp(qmp) => qmp.data["status"] != "setup" && qmp.data["status"] != "active",
        _ => true,
    });
    let mut timeline = Timeline::new(Selection::default());
    events.iter().for_each(|event| timeline.push(event));
    let ended = timeline.ended().unwrap();
    assert!(!ended.awaits_guest);
    let record = timeline.finish().remove(0);
    assert!(record.downtime.marks.iter().any(|mark| mark.name == MarkName::Resume));
}

#[test]
fn a_resume_hours_later_is_not_part_of_the_record() {
    let record = one("resumed-by-hand-later");
    assert_eq!(record.migration.outcome, Outcome::Cancelled);
    assert_eq!((record.downtime.stopped, &record.downtime.marks[..]), (Some(false), &[][..]));
    assert_eq!(record.downtime.remarks, [""; 0]);
}

#[test]
fn a_guest_that_stops_again_has_still_arrived() {
    let (arrived, stopped) = (one("postcopy-destination"), one("postcopy-destination-stopped-again"));
    assert_eq!(stopped.observers[0].role, Vantage::Destination);
    assert_eq!(stopped.migration, arrived.migration);
    assert_eq!((&stopped.traffic, &stopped.total_time), (&arrived.traffic, &arrived.total_time));
    assert_eq!(stopped.traffic.total.unwrap().tx.payload_bytes, 160 * MIB + 100);
    assert_eq!(arrived.downtime.remarks, [""; 0]);
    let [remark] = &stopped.downtime.remarks[..] else { panic!("{:?}", stopped.downtime.remarks) };
    assert!(remark.starts_with("1.000 ms after it arrived the guest was stopped again"), "{remark}");
}

/// QEMU 7.2 reports `postcopy-active` before the last pass where a manager completes the copy of the disks, and sends the
/// devices' state after both.
#[test]
fn the_parts_of_a_postcopy_by_libvirt_end_with_what_the_destination_does() {
    let records = replay("libvirt-postcopy-7.2");
    let parts = &of_role(&records, Role::Source).downtime.parts;
    let outline: Vec<_> =
        parts.iter().map(|p| (p.name.as_str(), p.role, p.length.value_ns / 100_000)).collect();
    let expected = [
        ("drain", Role::Source, 20),
        ("pre-switchover", Role::Source, 90),
        ("inactivate", Role::Source, 23),
        ("last-pass", Role::Source, 30),
        ("load", Role::Destination, 377),
    ];
    assert_eq!(outline, expected);
}
