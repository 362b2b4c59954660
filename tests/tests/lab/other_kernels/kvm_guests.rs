//! Stops, phases and absences of guests in KVM.

use super::packet_counts::{ETHERNET_HEADER, FilterCounter, JsonEvents};
use super::{Doctor, in_vm, perf_events};
use crate::support::sleeping::Sleeper;
use crate::support::{
    GUEST_PATIENCE, MIGRATION_PORT, clock_offset_ns, guest_absence, network, number, sent_payload_bytes,
    vcpu_stops,
};
use migtrace_lab::migtrace_command::{self, CommandOutput, Recorded, Recording};
use migtrace_lab::record_checks::{assert_replays, clock_bounds, mark_names, phase_names};
use migtrace_lab::{Lab, Migrated, Migration, Outcome, Side};
use serde_json::Value;

#[test]
fn each_stop_of_a_kvm_guest_lies_between_the_stamps_of_the_test() {
    if !in_vm() {
        return;
    }
    let lab = network();
    let mut guest = vcpu_stops::start_counting_guest(lab.source(), 2);
    if Doctor::ask().instrument("vcpu-run")["lost"].is_null() {
        vcpu_stops::assert_stops_are_precise(lab.source(), &mut guest, 2);
        vcpu_stops::assert_stops_are_known_across_sleeps(lab.source(), &mut guest, 2);
    } else {
        vcpu_stops::assert_nothing_is_claimed(lab.source(), &mut guest);
    }
}

/// The passes before the guest stopped. QEMU announces one more afterwards, which is no phase of its own.
fn passes_while_running(migrated: &Migrated) -> usize {
    let at_source = migrated.events.iter().filter(|observed| observed.side == Side::Source);
    let running = at_source.take_while(|observed| observed.event.name != "STOP");
    running.filter(|observed| observed.event.name == "MIGRATION_PASS").count()
}

/// Checks the owner of the flow, the bytes of the phases and the states of QEMU on one host.
fn assert_traced_as_doctor_promises(
    doctor: &Doctor,
    recorded: &Recorded,
    record: &Value,
    migrated: &Migrated,
    side: Side,
) {
    let events = JsonEvents::of(recorded);
    let owners: Vec<&Value> = events.of_kind("flow_owner").collect();
    assert_eq!(owners.len(), 1, "{owners:#?}");
    let after_ns = number(&owners[0]["at_ns"]) - number(&events.flow_seen(MIGRATION_PORT)["at_ns"]);
    // The socket instrument needs a first byte. When that takes longer, sock_diag finds the owner first.
    let is_late = side == Side::Source && after_ns > 50_000_000;
    assert!(owners[0]["method"] == "socket" || is_late, "{side:?}: {owners:#?} {after_ns}");
    let summed = doctor.measures_all_of("qmp", record);
    let phases = record["phases"].as_array().unwrap();
    assert!(
        phases.iter().all(|phase| phase["traffic"].is_object() == summed),
        "{side:?}: {record:#} {owners:#?}"
    );
    let qmp: Vec<&Value> = events.of_kind("qmp").collect();
    assert!(qmp.iter().all(|event| event["counters"].is_object() == summed), "{qmp:#?}");
    let states: Vec<&str> = qmp.iter().filter_map(|event| event["data"]["status"].as_str()).collect();
    // The destination reported that it listens before the recording began.
    let driver_states = migrated.states(side);
    let driver_states = if side == Side::Source { &driver_states[..] } else { &driver_states[1..] };
    assert_eq!(states, driver_states, "{side:?}");
}

/// Checks the stop in the record of both hosts' logs: QEMU said STOP after the vCPUs had stopped, and RESUME before they ran.
fn assert_merged_stop(doctor: &Doctor, merged: &CommandOutput, migrated: &Migrated) {
    assert_eq!(merged.code, Some(0), "{}", merged.stderr);
    let record: Value = serde_json::from_str(&merged.stdout).unwrap();
    let (low, high) = clock_bounds(&record);
    assert!(high - low < 10_000_000, "{low} to {high}");
    let [stop, resume] = [(Side::Source, "STOP"), (Side::Destination, "RESUME")]
        .map(|(side, name)| migrated.event(side, name).unwrap());
    let built_ns = resume.built_ns(clock_offset_ns(&record));
    let shortest_ns = built_ns.cast_unsigned().saturating_sub(stop.received_ns);
    let length = &record["downtime"]["stop"];
    let by_vcpus = doctor.measures_all_of("vcpu-run", &record);
    assert_eq!(length["method"], if by_vcpus { "vcpus" } else { "qmp-events" }, "{length}");
    assert!(number(&length["value_ns"]) + 10_000_000 >= shortest_ns, "{length}: at least {shortest_ns}");
    assert!(length["high_ns"].as_u64().is_none_or(|high| high >= shortest_ns), "{length}: {shortest_ns}");
    let parts: Vec<_> =
        record["downtime"]["parts"].as_array().unwrap().iter().map(|part| part["name"].clone()).collect();
    let expected = ["drain", "pre-switchover", "inactivate", "last-pass", "load", "await-resume", "start"];
    assert_eq!(parts, expected[..if by_vcpus { 7 } else { 6 }], "{record:#}");
}

#[test]
fn a_migration_of_a_kvm_guest_is_traced_on_both_hosts() {
    if in_vm() {
        assert_traced_on_both_hosts(|| ());
    }
}

#[test]
fn a_migration_of_a_kvm_guest_is_traced_on_both_hosts_without_perf_events() {
    if in_vm() {
        perf_events::apart(|| assert_traced_on_both_hosts(perf_events::refuse));
    }
}

/// `prepare` is called before anything is traced.
fn assert_traced_on_both_hosts(prepare: fn()) {
    let builder = Lab::builder().accelerator("kvm").memory_mib(128).dirty(4, 1);
    let mut lab = builder.sender_offloads(false).receiver_gro(false).start().unwrap();
    lab.wait_guest_ready().unwrap();
    let migration =
        Migration { ram_port: MIGRATION_PORT, downtime_limit_ms: 1000, ..Migration::like_libvirt() };
    lab.prepare(&migration).unwrap();
    prepare();
    let counter = FilterCounter::start(lab.destination(), &[MIGRATION_PORT]);
    let doctor = Doctor::ask();
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &[]).unwrap());
    let migrated = lab.migrate(&migration).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed, "{}", migrated.source);
    lab.ping_guest().unwrap();
    let recorded = recordings.map(|recording| recording.finish(GUEST_PATIENCE).unwrap());

    let [arriving, leaving] = counter.read(MIGRATION_PORT);
    for (recorded, side) in recorded.iter().zip([Side::Source, Side::Destination]) {
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        // This checks, too, that the bytes of the phases add up to the total.
        let record = assert_replays(recorded);
        assert_eq!(record["migration"]["outcome"], "completed", "{record:#}");
        assert_eq!(record["vm"]["name"], lab.guest().name.as_str());
        assert_eq!(record["qemu"]["accelerator"], "kvm");

        assert_traced_as_doctor_promises(&doctor, recorded, &record, &migrated, side);
        // On both hosts, tx is from the source to the destination.
        arriving.assert_counted_as(&record["traffic"]["total"]["tx"], ETHERNET_HEADER);
        leaving.assert_counted_as(&record["traffic"]["total"]["rx"], ETHERNET_HEADER);
    }

    let logs = recorded.each_ref().map(Recorded::events_path);
    assert_merged_stop(&doctor, &migtrace_command::merge(&[&logs[1], &logs[0]]).unwrap(), &migrated);

    let record = recorded[0].record().unwrap();
    let mut phases = phase_names(&record);
    let passes = phases.iter().filter(|name| name.starts_with("active ")).count();
    assert_eq!(passes, passes_while_running(&migrated), "{phases:?}");
    phases.retain(|name| !name.starts_with("active "));
    assert_eq!(phases, ["setup", "stop", "pre-switchover", "device", "completed"]);
    let qemu_claims = number(&migrated.source["ram"]["transferred"]);
    let payload = sent_payload_bytes(&record);
    assert!(payload >= qemu_claims, "{payload} < {qemu_claims}");
    assert_stop_measured_after_a_sleep(&mut lab, &migration, &doctor);
}

/// Lets the guest move back, which wakes up both recordings, and checks that its stop is measured as ever.
fn assert_stop_measured_after_a_sleep(lab: &mut Lab, migration: &Migration, doctor: &Doctor) {
    let sleepers = [lab.guest_host(), lab.other_host()].map(|host| Sleeper::start(host, &[]));
    let recordings = sleepers.map(|sleeper| {
        sleeper.fall_asleep();
        sleeper.recording
    });
    let migrated = lab.migrate(migration).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed, "{}", migrated.source);
    let recorded = recordings.map(|recording| recording.finish(GUEST_PATIENCE).unwrap());
    let [source, destination] = recorded.each_ref().map(|recorded| mark_names(&assert_replays(recorded)));
    let logs = recorded.each_ref().map(Recorded::events_path);
    let merged = migtrace_command::merge(&[&logs[0], &logs[1]]).unwrap();
    assert_merged_stop(doctor, &merged, &migrated);
    if doctor.instrument("vcpu-run")["lost"].is_null() {
        let has = |marks: &[String], wanted: &str| marks.iter().any(|mark| mark == wanted);
        assert!(has(&source, "first-vcpu-stopped") && has(&source, "all-vcpus-stopped"), "{source:?}");
        assert!(has(&destination, "first-vcpu-run"), "{destination:?}");
    }
}

#[test]
fn the_absence_of_a_kvm_guest_is_seen_from_four_places() {
    if !in_vm() {
        return;
    }
    let mut lab = Lab::builder().accelerator("kvm").memory_mib(128).dirty(4, 1).start().unwrap();
    lab.wait_guest_ready().unwrap();
    let migration = Migration { downtime_limit_ms: 1000, ..Migration::like_libvirt() };
    // A guest in an emulated KVM is too slow to answer more often.
    let absence = guest_absence::measure(&mut lab, &migration, "100ms");
    let marks = absence.anatomy.stop_marks;
    if !Doctor::ask().measures_all_of("vcpu-run", &absence.source) {
        // QEMU's events are used instead.
        assert_eq!(marks, ("stop".to_owned(), "resume".to_owned()));
        return;
    }
    assert_eq!(marks, ("all-vcpus-stopped".to_owned(), "first-vcpu-run".to_owned()));
    assert!(
        absence.source_marks.iter().any(|name| name == "first-vcpu-stopped"),
        "{:?}",
        absence.source_marks
    );
    assert!(
        absence.destination_marks.iter().any(|name| name == "first-announcement"),
        "{:?}",
        absence.destination_marks
    );
    let stop = &absence.source["downtime"]["stop"];
    assert_eq!(stop["method"], "vcpus-to-first-reply", "{stop:#}");
}

#[test]
fn without_events_the_passes_are_known_from_the_dirty_log() {
    if in_vm() {
        assert_passes_of_the_dirty_log(|| ());
    }
}

#[test]
fn without_events_and_perf_events_the_passes_are_known_from_the_dirty_log() {
    if in_vm() {
        perf_events::apart(|| assert_passes_of_the_dirty_log(perf_events::refuse));
    }
}

/// `prepare` is called before anything is traced.
fn assert_passes_of_the_dirty_log(prepare: fn()) {
    let mut lab = Lab::builder().accelerator("kvm").memory_mib(128).dirty(4, 1).start().unwrap();
    lab.wait_guest_ready().unwrap();
    let migration = Migration { events: false, downtime_limit_ms: 1000, ..Migration::default() };
    prepare();
    let recording = Recording::start(lab.source(), &[]).unwrap();
    let migrated = lab.migrate(&migration).unwrap();
    let recorded = recording.finish(GUEST_PATIENCE).unwrap();
    let record = assert_replays(&recorded);
    let phases = record["phases"].as_array().unwrap();
    let passes: Vec<u64> = phases.iter().filter_map(|phase| phase["pass"].as_u64()).collect();
    // The last pass begins after the guest has stopped.
    let expected = number(&migrated.source["ram"]["dirty-sync-count"]) - 1;
    let expected = if Doctor::ask().measures_all_of("dirty-log", &record) { expected } else { 0 };
    assert_eq!(passes, (1..=expected).collect::<Vec<_>>(), "{phases:#?}");
    assert_eq!(phases.last().unwrap()["name"], "stop", "{phases:#?}");
}
