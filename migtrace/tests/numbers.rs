//! The numbers that matter in the records of the canned logs, worked out by hand from the logs' lines.
//!
//! The canned flows carry segments of 1448 payload bytes under 66 bytes of headers, one segment without payload
//! for the handshake, and one acknowledgement for every two segments.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::{one, replay, why};
use migtrace::event::{Event, Fact, LogErrorKind, QmpEvent};
use migtrace::record::{Downtime, MarkName, Method, Mode, Outcome, Phase, PhaseName, Record, Role};
use migtrace::units::MonotonicNs;
use migtrace::vocabulary::Purpose;

const MS: i64 = 1_000_000;
const MIB: u64 = 1 << 20;

/// Name, pass and length in ms of each phase.
fn outline(record: &Record) -> Vec<(&str, Option<u64>, i64)> {
    record.phases.iter().map(|p| (p.name.as_str(), p.pass, (p.end_ns - p.start_ns) / MS)).collect()
}

/// Name of each mark and its time in ms.
fn marks(record: &Record) -> Vec<(&str, i64)> {
    record.downtime.marks.iter().map(|m| (m.name.as_str(), m.at_ns / MS)).collect()
}

fn payload_tx(phase: &Phase) -> u64 {
    phase.traffic.unwrap().tx.payload_bytes
}

#[test]
fn precopy_of_qemu_7_2_has_its_first_pass_in_setup_and_stops_until_completed() {
    let record = one("precopy-7.2");
    assert_eq!(
        outline(&record),
        [
            ("setup", None, 12),
            ("active", Some(1), 2_488),
            ("active", Some(2), 500),
            ("active", Some(3), 200),
            ("stop", None, 50),
            ("completed", None, 5),
        ]
    );
    assert_eq!((record.migration.outcome, record.migration.mode), (Outcome::Completed, Mode::Precopy));
    assert_eq!(payload_tx(&record.phases[1]), 250 * MIB - 2_048);
    assert_eq!(payload_tx(&record.phases[4]), 5 * MIB);
    assert_eq!(payload_tx(&record.phases[5]), 512);
    // 325 MiB + 512 bytes are 235 351 segments, and one more for the handshake.
    let total = record.traffic.total.unwrap();
    assert_eq!(total.tx.segments, 235_352);
    assert_eq!(total.tx.wire_bytes, 325 * MIB + 512 + 66 * 235_352);
    assert_eq!(record.traffic.retransmitted_segments, Some(3));
    assert_eq!(record.traffic.retransmitted_payload_bytes, Some(3 * 1_448));
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
fn what_qemu_claims_is_kept_beside_what_was_measured() {
    let record = one("precopy-7.2");
    assert_eq!(record.downtime.qemu_reported_ns, Some(52_000_000));
    assert_eq!(record.qemu.stats.as_ref().unwrap()["ram"]["dirty-sync-count"], 4);
    assert_eq!(record.downtime.stop, None, "the guest runs again on a host that was not seen");
    assert!(why(&record, "stop").contains("the destination's record is needed"));
}

#[test]
fn precopy_of_qemu_10_0_has_a_device_state() {
    let record = one("precopy-10.0");
    let tail = &outline(&record)[2..];
    assert_eq!(
        tail,
        [("active", Some(2), 500), ("stop", None, 1), ("device", None, 99), ("completed", None, 10)]
    );
}

#[test]
fn with_pause_before_switchover_the_guest_is_stopped_before_the_state_says_so() {
    let record = one("precopy-10.0-pause");
    let tail = &outline(&record)[3..];
    assert_eq!(
        tail,
        [("stop", None, 1), ("pre-switchover", None, 50), ("device", None, 49), ("completed", None, 0)]
    );
    assert_eq!(payload_tx(&record.phases[4]), 0);
    assert_eq!(payload_tx(&record.phases[5]), 10 * MIB);
}

#[test]
fn postcopy_orders_differ_by_version() {
    let names = |log| {
        let record = one(log);
        assert_eq!(record.migration.mode, Mode::Postcopy);
        record.phases.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("postcopy-7.2"), "setup active postcopy-active completed");
    assert_eq!(names("postcopy-10.0"), "setup active stop device postcopy-active completed");
    assert_eq!(names("postcopy-10.2"), "setup active stop device postcopy-device postcopy-active completed");
    assert_eq!(
        names("postcopy-recovered"),
        "setup active stop device postcopy-active postcopy-paused postcopy-recover-setup postcopy-recover \
         postcopy-active completed"
    );
}

#[test]
fn a_cancelled_migration_and_its_repetition_are_two_and_share_no_bytes() {
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
    assert_eq!(completed.start.realtime_ns.unwrap() - cancelled.start.realtime_ns.unwrap(), 2_000 * MS);
}

#[test]
fn a_failed_migration_tells_the_error_and_for_how_long_the_guest_was_stopped() {
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
fn without_events_there_is_a_coarse_timeline_and_the_way_out() {
    let record = one("events-off");
    assert_eq!(outline(&record), [("transfer", None, 1_499), ("stop", None, 50)]);
    assert_eq!(payload_tx(&record.phases[0]), 150 * MIB);
    assert_eq!(payload_tx(&record.phases[1]), 5 * MIB);
    assert_eq!((record.migration.outcome, record.migration.mode), (Outcome::Unknown, Mode::Unknown));
    let total = record.total_time.as_ref().unwrap();
    assert_eq!((total.value_ns, total.high_ns), (1_549_000_000, None));
    assert_eq!(total.method, Method::FirstAndLastPacket);
    assert!(why(&record, "phases").contains("migrate-set-capabilities"));
}

#[test]
fn without_events_the_rounds_of_copying_are_known_from_the_log_of_dirtied_pages() {
    let record = one("events-off-kvm");
    assert_eq!(
        outline(&record),
        [
            ("transfer", None, 9),
            ("transfer", Some(1), 890),
            ("transfer", Some(2), 400),
            ("transfer", Some(3), 200),
            ("stop", None, 50),
        ]
    );
    assert_eq!(payload_tx(&record.phases[2]), 30_000 * 1_448);
}

#[test]
fn vcpus_tell_the_stop_to_the_first_and_the_last_of_them() {
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
    let source = records.iter().find(|r| r.observers[0].role == Role::Source).unwrap();
    assert_eq!(
        (source.downtime.qemu_reported_ns, source.downtime.budget_ns),
        (Some(31_000_000), Some(300_000_000))
    );
}

#[test]
fn figures_that_cannot_both_be_true_are_told() {
    let (mut events, _) = common::events("vcpus");
    for event in &mut events {
        match &mut event.fact {
            // Longer than the whole migration.
            Fact::QueryMigrate { reply, .. } => reply["downtime"] = 5_000.into(),
            // The vCPUs had stopped long before.
            Fact::GuestFrames { last_ns, .. } => {
                *last_ns = Some(MonotonicNs(event.at_ns.0 + 20 * MS.cast_unsigned()));
            }
            _ => {}
        }
    }
    let records = common::fold(&events);
    let source = records.iter().find(|r| r.observers[0].role == Role::Source).unwrap();
    let told = &source.downtime.contradictions;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("its tap was silent for 16.900 ms only"), "{told:?}");
    assert!(told[1].contains("QEMU reports a downtime of 5.000 s"), "{told:?}");
    assert!(migtrace::report::text::render(source).contains("CONTRADICTION"), "the report shows them");
}

#[test]
fn the_guest_runs_elsewhere_no_sooner_than_its_last_byte_went() {
    let stop_of = |record: &Record| record.downtime.stop.clone().unwrap();
    let record = one("probed");
    let low_ns = stop_of(&record).low_ns;
    assert_eq!(low_ns, 49 * MS.cast_unsigned(), "from STOP to the last byte");
    assert!(marks(&record).contains(&("last-byte", 3_249)), "{:?}", marks(&record));

    // With nobody asking it is known how long it was at least.
    let (mut events, _) = common::events("probed");
    events.retain(|event| !matches!(event.fact, Fact::EchoStart(_) | Fact::EchoGap(_) | Fact::EchoEnd(_)));
    let record = common::fold(&events).remove(0);
    let stop = stop_of(&record);
    assert_eq!((stop.value_ns, stop.low_ns, stop.high_ns), (low_ns, low_ns, None));
    assert_eq!(stop.method, Method::QmpEventToLastByte);
    assert!(why(&record, "when the guest ran again").contains("the destination's record is needed"));
    assert!(why(&record, "network").contains("the destination's record is needed"));
    let text = migtrace::report::text::render(&record);
    assert!(text.lines().next().unwrap().ends_with("stop 49.0 ms or longer"), "{text}");

    // TLS says farewell when the guest may run already: then QEMU's last pass is what is left.
    let (mut events, _) = common::events("probed");
    for event in &mut events {
        if let Fact::FlowPurpose { purpose, .. } = &mut event.fact {
            *purpose = Purpose::Tls;
        }
    }
    let record = common::fold(&events).remove(0);
    assert_eq!(stop_of(&record).low_ns, 2 * MS.cast_unsigned());
    assert!(!marks(&record).iter().any(|(name, _)| *name == MarkName::LastByte.as_str()));
}

#[test]
fn a_frame_that_qemu_sends_after_the_vcpus_have_stopped_contradicts_nothing() {
    const HELD_NS: u64 = 30 * MS.cast_unsigned();
    let (mut events, _) = common::events("vcpus");
    for event in &mut events {
        if let Fact::Qmp(QmpEvent { vcpus: Some(vcpus), .. }) = &mut event.fact {
            for left_ns in [&mut vcpus.first_left_ns, &mut vcpus.last_left_ns].into_iter().flatten() {
                left_ns.0 -= HELD_NS;
            }
        }
    }
    let records = common::fold(&events);
    let source = records.iter().find(|r| r.observers[0].role == Role::Source).unwrap();
    let Downtime { stop, network, contradictions, .. } = &source.downtime;
    assert!(
        network.as_ref().unwrap().high_ns.unwrap() < stop.as_ref().unwrap().low_ns,
        "{stop:?} {network:?}"
    );
    assert_eq!(*contradictions, [""; 0]);
}

#[test]
fn a_destination_counts_from_the_source_to_itself() {
    let record = one("destination-10.0");
    assert_eq!(record.observers[0].role, Role::Destination);
    assert_eq!(
        outline(&record),
        [("listening", None, 501), ("setup", None, 1), ("active", None, 1_604), ("completed", None, 4)]
    );
    let total = record.traffic.total.unwrap();
    assert_eq!((total.tx.payload_bytes, total.rx.payload_bytes), (160 * MIB + 100, 200));
    assert_eq!(marks(&record), [("resume", 1_603), ("completed", 1_605), ("last-packet", 1_609)]);
}

#[test]
fn both_hosts_derive_the_same_id() {
    assert_eq!(one("destination-10.0").migration.id, one("precopy-10.0").migration.id);
    assert_ne!(one("destination-10.0").migration.id, one("precopy-10.0-pause").migration.id);
}

#[test]
fn a_7_2_destination_says_setup_even_without_events() {
    let record = one("destination-7.2-events-off");
    assert_eq!(record.observers[0].role, Role::Destination);
    assert_eq!(outline(&record), [("transfer", None, 1_609)]);
    assert_eq!(record.traffic.total.unwrap().tx.payload_bytes, 160 * MIB + 100);
    assert!(why(&record, "phases").contains("`events` is off"));
}

#[test]
fn disks_that_are_copied_first_are_a_phase_of_their_own() {
    let record = one("disk-sync");
    let names: Vec<_> = outline(&record).into_iter().map(|(name, _, ms)| (name, ms)).collect();
    assert_eq!(names[..3], [("disk-sync", 8_101), ("setup", 12), ("active", 888)]);
    assert_eq!(payload_tx(&record.phases[0]), 1_024 * MIB);
    assert_eq!(record.total_time.unwrap().value_ns, 9_061_000_000);
    assert_eq!(record.setup_time.unwrap().value_ns, 12_000_000);
}

#[test]
fn two_vms_are_kept_apart() {
    let records = replay("two-vms");
    let [web, db] = &records[..] else { panic!("{} records", records.len()) };
    assert_eq!((web.vm.name.as_deref(), db.vm.name.as_deref()), (Some("web-1"), Some("db-1")));
    assert_eq!(web.traffic.total.unwrap().tx.payload_bytes, 101 * MIB);
    assert_eq!(db.traffic.total.unwrap().tx.payload_bytes, 202 * MIB);
    assert_eq!((web.traffic.flows.len(), db.traffic.flows.len()), (1, 1));
}

#[test]
fn with_both_ends_on_one_host_the_stop_is_known_from_below() {
    let records = replay("both-ends");
    let [source, destination] = &records[..] else { panic!("{} records", records.len()) };
    assert_eq!(destination.observers[0].role, Role::Destination);
    assert_eq!(source.observers[0].role, Role::Source);
    // STOP was written at 2000 ms, RESUME at 2036 ms and built 0.03 ms before, to within 60 ns.
    let stop = source.downtime.stop.as_ref().unwrap();
    assert_eq!((stop.value_ns, stop.low_ns, stop.high_ns), (36_000_000, 35_970_000 - 60, None));
    assert_eq!(destination.downtime.stop.as_ref(), Some(stop));
    assert_eq!(destination.migration.id, source.migration.id);
}

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
fn qemus_of_two_users_are_never_the_two_ends_of_one_vm() {
    assert_eq!(both_ends_of(107, 107), replay("both-ends"));
    let records = both_ends_of(107, 1000);
    let [source, destination] = &records[..] else { panic!("{} records", records.len()) };
    // Of each what this one tells: the source's stop has no end here, the destination's no beginning.
    assert_eq!(source.observers[0].role, Role::Source);
    assert_eq!(destination.observers[0].role, Role::Destination);
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

#[test]
fn a_migration_that_was_already_running_is_picked_up_and_says_so() {
    let record = one("in-progress");
    assert!(!record.start.seen);
    assert_eq!(
        outline(&record),
        [("unseen", None, 1_498), ("active", Some(7), 300), ("stop", None, 50), ("completed", None, 1)]
    );
    assert_eq!(payload_tx(&record.phases[0]), 150 * MIB);
    assert_eq!(record.total_time.as_ref().unwrap().high_ns, None);
    assert!(why(&record, "the start").contains("before the recording"));
    assert!(why(&record, "first bytes of").contains("older than the recording"));
}

#[test]
fn a_qemu_that_dies_has_failed_at_some_time_after_its_last_packet() {
    let record = one("qemu-dies");
    assert_eq!(record.migration.outcome, Outcome::Failed);
    assert_eq!(record.migration.error.as_deref(), Some("QEMU (pid 4242) ended during the migration"));
    let total = record.total_time.unwrap();
    assert_eq!((total.low_ns, total.value_ns), (1_222_000_000, 1_400_000_000));
    assert_eq!(record.phases.iter().map(payload_tx).sum::<u64>(), 120 * MIB);
}

#[test]
fn multifd_channels_are_summed() {
    let record = one("multifd");
    assert_eq!(record.traffic.flows.len(), 3);
    assert_eq!(record.traffic.total.unwrap().tx.payload_bytes, 853 * MIB);
    let device = record.phases.iter().find(|p| p.name == PhaseName::Device).unwrap();
    assert_eq!(payload_tx(device), 42 * MIB);
}

#[test]
fn a_state_that_no_one_knows_yet_is_a_phase() {
    let record = one("unknown-status");
    let names: Vec<_> = record.phases.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["setup", "active", "quantum-entangled", "completed"]);
    assert_eq!(record.migration.outcome, Outcome::Completed);
}

#[test]
fn flows_without_an_owner_are_the_only_migrating_vms_and_everything_missing_is_named() {
    let record = one("no-owner");
    assert_eq!(record.traffic.total.unwrap().tx.payload_bytes, 101 * MIB);
    assert!(record.phases.iter().all(|p| p.traffic.is_none()), "the snapshots are not of these flows");
    assert_eq!(record.traffic.retransmitted_segments, None);
    assert_eq!(record.traffic.fragments.unwrap().tx.payload_bytes, 3_000);
    assert!(why(&record, "the owner of a flow").contains("CONFIG_KPROBES"));
    assert!(why(&record, "owner of the flows").contains("no other migrates"));
    assert!(why(&record, "a part of").contains("17 packets"));
    assert!(why(&record, "everything").contains("lower bound"));
    assert_eq!((record.lost.flows, record.lost.hook_calls), (2, 1));
}

#[test]
fn a_truncated_log_is_told_up_to_its_last_whole_line() {
    let (events, error) = common::events("truncated");
    let error = error.unwrap();
    assert_eq!((events.len(), error.line), (11, 12));
    assert!(matches!(error.what, LogErrorKind::Truncated));
    let record = one("truncated");
    assert_eq!(record.migration.outcome, Outcome::Interrupted);
    assert_eq!(outline(&record), [("setup", None, 12), ("active", Some(1), 1_488), ("active", Some(2), 0)]);
    assert_eq!(payload_tx(&record.phases[1]), 150 * MIB - 2_048);
    assert_eq!(record.phases[2].traffic, None);
    assert!(why(&record, "the end of the recording").contains("cut off"));
}

#[test]
fn a_pause_by_hand_ends_with_its_resume_and_is_not_the_last_stop() {
    let record = one("paused-by-hand");
    assert_eq!(
        outline(&record)[1..],
        [
            ("active", Some(1), 488),
            ("paused", None, 200),
            ("active", Some(2), 200),
            ("active", Some(3), 100),
            ("stop", None, 30),
            ("completed", None, 1),
        ]
    );
    assert_eq!(record.downtime.stop, None, "the guest runs again elsewhere");
    let [remark] = &record.downtime.remarks[..] else { panic!("{:?}", record.downtime.remarks) };
    assert!(remark.contains("500.000 ms after the start the guest was paused for 200.000 ms"), "{remark}");
}

#[test]
fn a_libvirt_destination_listens_then_gets_the_disks_then_the_memory() {
    let record = one("destination-disk-sync");
    assert_eq!(
        outline(&record),
        [("listening", None, 501), ("disk-sync", None, 8_101), ("active", None, 960), ("completed", None, 2)]
    );
    assert_eq!(payload_tx(&record.phases[1]), 1_024 * MIB);
    let marks: Vec<_> = marks(&record).into_iter().filter(|(name, _)| *name != "last-packet").collect();
    assert_eq!(marks, [("completed", 9_061), ("resume", 9_089)], "the manager continues the guest later");
}

#[test]
fn the_checkpoints_of_colo_are_no_phases() {
    let names: Vec<_> = one("colo").phases.iter().map(|p| p.name.to_string()).collect();
    assert_eq!(names, ["setup", "active", "colo", "completed"]);
}

#[test]
fn an_owner_that_is_found_late_leaves_no_wrong_bytes() {
    let record = one("owner-found-late");
    let known: Vec<_> = record.phases.iter().map(|p| p.traffic.is_some()).collect();
    assert_eq!(known, [false, false, true, true, true]);
    assert_eq!(payload_tx(&record.phases[3]), MIB);
    assert!(why(&record, "bytes of some phases").contains("only after it had carried bytes"));
}

#[test]
fn an_event_that_two_monitors_were_told_happened_once() {
    let (once, _) = common::events("precopy-10.0");
    let twice: Vec<_> = once
        .iter()
        .flat_map(|event| {
            let copies = if matches!(event.fact, Fact::Qmp(_)) { 2 } else { 1 };
            (0..copies).map(|copy| Event {
                at_ns: MonotonicNs(event.at_ns.0 + copy * 300),
                fact: event.fact.clone(),
            })
        })
        .collect();
    assert!(twice.len() > once.len());
    let (once, twice) = (common::fold(&once), common::fold(&twice));
    assert_eq!(once, twice);
}
