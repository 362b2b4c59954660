//! What `migtrace record` writes about a real migration agrees with what its driver saw, in every mode of QEMU.

use crate::support::{
    GUEST_PATIENCE, clock_offset_ns, monotonic_ns_of, number, sent_payload_bytes, signed_number,
};
use migtrace_lab::migtrace_command::{Recorded, Recording};
use migtrace_lab::record_checks::{assert_replays, not_measured, phase_names, replay};
use migtrace_lab::{Action, Lab, Migrated, Migration, ObservedEvent, Outcome, Side, shared_lab};
use serde_json::{Value, json};

/// A migration as its driver saw it, and as both hosts recorded it.
struct RecordedMigration {
    migrated: Migrated,
    source: Recorded,
    destination: Recorded,
}

/// Migrates the guest while both hosts record.
fn record_both(lab: &mut Lab, migration: &Migration) -> RecordedMigration {
    let source = Recording::start(lab.guest_host(), &[]).unwrap();
    let destination = Recording::start(lab.other_host(), &[]).unwrap();
    let migrated = lab.migrate(migration).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed);
    let both = RecordedMigration {
        migrated,
        source: source.finish(GUEST_PATIENCE).unwrap(),
        destination: destination.finish(GUEST_PATIENCE).unwrap(),
    };
    for recorded in [&both.source, &both.destination] {
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        assert_replays(recorded);
    }
    both
}

/// Where phases begin according to the driver: the event, and the name of the phase that it begins.
fn borders(migrated: &Migrated, side: Side) -> Vec<(&ObservedEvent, String)> {
    let mut borders: Vec<(&ObservedEvent, String)> = Vec::new();
    for observed in migrated.events.iter().filter(|observed| observed.side == side) {
        let copies = borders.last().is_some_and(|(_, name)| name.starts_with("active"));
        let data = &observed.event.data;
        match observed.event.name.as_str() {
            "MIGRATION" if data["status"] == "active" && side == Side::Source => {
                borders.push((observed, "active 1".into()));
            }
            // A destination emits this when it begins to listen. Its setup begins with the first packet, for which there is no event.
            "MIGRATION" if data["status"] == "setup" && side == Side::Destination => {
                borders.push((observed, "listening".into()));
            }
            "MIGRATION" => borders.push((observed, data["status"].as_str().unwrap().into())),
            "MIGRATION_PASS" if copies && data["pass"] != 1 => {
                borders.push((observed, format!("active {}", data["pass"])));
            }
            "STOP" if copies => borders.push((observed, "stop".into())),
            _ => {}
        }
    }
    borders
}

/// Checks that each phase begins between QEMU's own stamp of the event and the driver's receipt of it.
fn assert_borders(record: &Value, migrated: &Migrated, side: Side) {
    let borders = borders(migrated, side);
    let mut expected: Vec<_> = borders.iter().map(|(_, name)| name.clone()).collect();
    if side == Side::Destination {
        expected.insert(1, "setup".into());
    }
    assert_eq!(phase_names(record), expected);
    let offset_ns = clock_offset_ns(record);
    let mut closest_ns = i64::MAX;
    let has_event = |phase: &&Value| side == Side::Source || phase["name"] != "setup";
    for (phase, (observed, name)) in
        record["phases"].as_array().unwrap().iter().filter(has_event).zip(&borders)
    {
        let at_ns = monotonic_ns_of(record, signed_number(&phase["start_ns"]));
        let received_ns = observed.event.received_ns.cast_signed();
        // QEMU truncates its stamp to microseconds.
        let constructed_ns = observed.event.built_ns(offset_ns);
        assert!(
            constructed_ns <= at_ns + 2_000,
            "{name} begins before QEMU made the event: {constructed_ns} {at_ns}"
        );
        assert!(
            at_ns <= received_ns,
            "{name} begins after the driver received the event: {at_ns} {received_ns}"
        );
        closest_ns = closest_ns.min(received_ns - at_ns);
    }
    assert!(closest_ns < 5_000_000, "no phase begins within 5 ms of what the driver saw: {closest_ns} ns");
}

/// The payload bytes that the flows with these purposes carried from the source to the destination.
fn payload(record: &Value, purposes: &[&str]) -> u64 {
    let flows = record["traffic"]["flows"].as_array().unwrap();
    let wanted = flows.iter().filter(|flow| purposes.iter().any(|purpose| flow["purpose"] == *purpose));
    wanted.map(|flow| number(&flow["counters"]["tx"]["payload_bytes"])).sum()
}

fn purposes(record: &Value) -> Vec<&str> {
    let flows = record["traffic"]["flows"].as_array().unwrap();
    let mut purposes: Vec<_> = flows.iter().filter_map(|flow| flow["purpose"].as_str()).collect();
    purposes.sort_unstable();
    purposes
}

/// Checks the source's lower bound of the stop: the guest cannot run elsewhere before its last byte was sent.
fn assert_stop_has_a_lower_bound(source: &Value, migrated: &Migrated) {
    let [stopped, resumed] = [(Side::Source, "STOP"), (Side::Destination, "RESUME")]
        .map(|(side, name)| migrated.event(side, name).unwrap());
    let offset_ns = clock_offset_ns(source);
    let stopped_ns = stopped.built_ns(offset_ns);
    let stop = &source["downtime"]["stop"];
    let (least_ns, most_ns) = (number(&stop["low_ns"]), resumed.received_ns - stopped_ns.cast_unsigned());
    assert!(least_ns > 0 && least_ns <= most_ns && stop["high_ns"].is_null(), "{stop:#} {most_ns}");
}

/// Checks what both hosts count of what the source sends. Without loss, they agree to the byte.
fn assert_hosts_agree(source: &Value, destination: &Value) {
    assert_eq!(source["migration"]["id"], destination["migration"]["id"]);
    if source["traffic"]["retransmitted_segments"] == 0 {
        for side in ["tx", "rx"] {
            for counter in ["wire_bytes", "payload_bytes", "segments"] {
                let of = |record: &Value| record["traffic"]["total"][side][counter].clone();
                assert_eq!(of(source), of(destination), "{side} {counter}");
            }
        }
    }
}

/// Checks the bytes of the source against QEMU's statistics, and the share of headers.
fn assert_bytes_fit_qemus_statistics(source: &Value, migrated: &Migrated) {
    // QEMU counts what it writes to the stream, without retransmissions.
    let total = &source["traffic"]["total"]["tx"];
    let again = number(&source["traffic"]["retransmitted_payload_bytes"]);
    let sent = sent_payload_bytes(source) - again;
    let claimed = number(&migrated.source["ram"]["transferred"]);
    assert!(
        sent >= claimed && sent < claimed + claimed / 50,
        "{sent} bytes in the stream, QEMU claims {claimed}"
    );
    // Each segment has 66 bytes of headers and 1448 of payload.
    let headers = (number(&total["wire_bytes"]) - number(&total["payload_bytes"])) as f64;
    let share = headers / number(&total["wire_bytes"]) as f64;
    assert!((0.0435..0.0445).contains(&share), "{share}");
}

#[test]
fn a_recording_agrees_with_the_driver_and_with_the_other_host() {
    let mut lab = shared_lab().unwrap();
    let both = record_both(&mut lab, &Migration::default());
    let (source, destination) = (both.source.record().unwrap(), both.destination.record().unwrap());

    assert_borders(&source, &both.migrated, Side::Source);
    assert_borders(&destination, &both.migrated, Side::Destination);
    for (record, role) in [(&source, "source"), (&destination, "destination")] {
        assert_eq!(record["observers"][0]["role"], role);
        assert_eq!(record["migration"]["outcome"], "completed");
        assert_eq!(record["migration"]["mode"], "precopy");
        assert_eq!(record["start"]["seen"], true);
        assert_eq!(record["vm"]["name"], lab.guest().name);
        assert_eq!(record["vm"]["uuid"], lab.guest().uuid);
        assert_eq!(purposes(record), ["ram"]);
        assert_eq!(record["traffic"]["flows"][0]["interface"], migtrace_lab::Host::BRIDGE);
    }

    assert_stop_has_a_lower_bound(&source, &both.migrated);
    assert_hosts_agree(&source, &destination);
    assert_bytes_fit_qemus_statistics(&source, &both.migrated);

    let owner =
        both.source.events().unwrap().into_iter().find(|event| event["event"] == "flow_owner").unwrap();
    let qemu = both.source.events().unwrap().into_iter().find(|event| event["event"] == "qemu_seen").unwrap();
    assert_eq!(owner["pid"], qemu["pid"]);

    let text = replay(&both.source, "text");
    for wanted in [lab.guest().name.as_str(), "setup", "active", "stop", "completed", "Not measured:"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn multifd_channels_over_ipv6_have_a_purpose_of_their_own() {
    let mut lab = shared_lab().unwrap();
    let migration = Migration { multifd: Some(3), ipv6: true, ..Migration::default() };
    let both = record_both(&mut lab, &migration);
    for (recorded, side) in [(&both.source, Side::Source), (&both.destination, Side::Destination)] {
        let record = recorded.record().unwrap();
        assert_borders(&record, &both.migrated, side);
        assert_eq!(purposes(&record), ["multifd", "multifd", "multifd", "ram"]);
        let remote = record["traffic"]["flows"][0]["remote"].as_str().unwrap();
        assert!(remote.starts_with("[fd77::"), "{remote}");
        let channels = number(&both.migrated.source["ram"]["multifd-bytes"]);
        assert!(payload(&record, &["multifd"]) >= channels, "{channels}: {record:#}");
        assert!(payload(&record, &["ram"]) < channels / 10, "{record:#}");
    }
    assert_eq!(
        both.source.record().unwrap()["migration"]["id"],
        both.destination.record().unwrap()["migration"]["id"]
    );
}

#[test]
fn a_migration_as_libvirt_drives_it_has_its_pause_and_its_late_resume() {
    let mut lab = shared_lab().unwrap();
    let both = record_both(&mut lab, &Migration::like_libvirt());
    let (source, destination) = (both.source.record().unwrap(), both.destination.record().unwrap());
    assert_borders(&source, &both.migrated, Side::Source);
    assert_borders(&destination, &both.migrated, Side::Destination);
    let names = phase_names(&source).join(", ");
    assert!(names.ends_with("stop, pre-switchover, device, completed"), "{names}");

    // The guest runs only after `cont`, which comes after QEMU's `completed`.
    let resume = both.migrated.event(Side::Destination, "RESUME").unwrap().received_ns.cast_signed();
    let marks = destination["downtime"]["marks"].as_array().unwrap();
    let place = |name: &str| marks.iter().position(|mark| mark["name"] == name).unwrap();
    assert!(place("completed") < place("resume"), "{marks:?}");
    let at_ns = monotonic_ns_of(&destination, signed_number(&marks[place("resume")]["at_ns"]));
    assert!((0..100_000_000).contains(&(resume - at_ns)), "{at_ns} {resume}");
}

#[test]
fn a_postcopy_migration_is_recorded_as_postcopy() {
    let mut lab = shared_lab().unwrap();
    let migration = Migration {
        return_path: true,
        postcopy_at_pass: Some(2),
        max_bandwidth_bytes_per_s: 40 << 20,
        ..Migration::default()
    };
    let both = record_both(&mut lab, &migration);
    let source = both.source.record().unwrap();
    assert_eq!(source["migration"]["mode"], "postcopy");
    assert_eq!(both.destination.record().unwrap()["migration"]["mode"], "postcopy");
    let names = phase_names(&source);
    assert!(names.contains(&"postcopy-active".into()), "{names:?}");
    let statuses: Vec<_> =
        source["phases"].as_array().unwrap().iter().map(|phase| phase["name"].clone()).collect();
    let mut expected: Vec<_> = both.migrated.states(Side::Source);
    expected.retain(|state| statuses.contains(&json!(state)));
    assert_eq!(expected, both.migrated.states(Side::Source), "{statuses:?}");
}

#[test]
fn the_postcopy_preempt_channel_has_a_purpose_of_its_own() {
    let mut lab = shared_lab().unwrap();
    let migration = Migration {
        return_path: true,
        postcopy_at_pass: Some(2),
        postcopy_preempt: true,
        max_bandwidth_bytes_per_s: 40 << 20,
        ..Migration::default()
    };
    let both = record_both(&mut lab, &migration);
    let [source, destination] = [&both.source, &both.destination].map(|recorded| recorded.record().unwrap());
    assert_borders(&source, &both.migrated, Side::Source);
    assert_borders(&destination, &both.migrated, Side::Destination);
    for record in [&source, &destination] {
        assert_eq!(record["migration"]["mode"], "postcopy");
        assert_eq!(purposes(record), ["postcopy_preempt", "ram"]);
        // `assert_replays` has checked that the phases add up to the total if all are known.
        for phase in record["phases"].as_array().unwrap() {
            assert!(phase["traffic"].is_object(), "{phase:#} {}", not_measured(record));
        }
        assert!(!not_measured(record).contains("the bytes of some phases"), "{}", not_measured(record));
        let flows = record["traffic"]["flows"].as_array().unwrap();
        let urgent = flows.iter().find(|flow| flow["purpose"] == "postcopy_preempt").unwrap();
        let [sent, answered] = ["tx", "rx"].map(|side| number(&urgent["counters"][side]["payload_bytes"]));
        assert!(sent > 0 && sent < payload(record, &["ram"]), "{urgent:#}");
        assert_eq!(answered, 0, "the destination asks for pages on the other channel: {urgent:#}");
    }
    // The program that finds a flow's owner reports what had crossed by then: here QEMU had not sent anything yet.
    for event in [&both.source, &both.destination].into_iter().flat_map(|recorded| recorded.events().unwrap())
    {
        if event["event"] == "flow_owner" && event["method"] == "socket" {
            let crossed = &event["crossed"];
            assert_eq!(crossed["counters"]["tx"]["payload_bytes"], 0, "{event:#}");
            for side in ["tx", "rx"] {
                assert!(number(&crossed["counters"][side]["segments"]) > 0, "{event:#}");
            }
            assert!(number(&crossed["last_ns"]) <= number(&event["at_ns"]), "{event:#}");
        }
    }
    assert_eq!(source["migration"]["id"], destination["migration"]["id"]);
}

#[test]
fn a_disk_copy_has_a_phase_and_a_flow_of_its_own() {
    let mut lab = Lab::builder().memory_mib(160).dirty(16, 10).disk_mib(24).start().unwrap();
    lab.wait_guest_ready().unwrap();
    let both = record_both(&mut lab, &Migration::default());
    for recorded in [&both.source, &both.destination] {
        let record = recorded.record().unwrap();
        assert_eq!(purposes(&record), ["nbd", "ram"]);
        let copied = payload(&record, &["nbd"]);
        assert!((24 << 20..25 << 20).contains(&copied), "{copied}");
        assert!(phase_names(&record).contains(&"disk-sync".into()), "{:?}", phase_names(&record));
    }
    let source = both.source.record().unwrap();
    let first = &source["phases"][0];
    assert_eq!(first["name"], "disk-sync");
    assert!(number(&first["traffic"]["tx"]["payload_bytes"]) >= 24 << 20, "{first:#}");
    // The record begins with the copy, which the driver starts before the migration.
    let started_ns = monotonic_ns_of(&source, 0);
    let Migrated { started_ns: before, migrate_ns: after, .. } = both.migrated;
    assert!(
        (before.cast_signed()..after.cast_signed()).contains(&started_ns),
        "{before} {started_ns} {after}"
    );
}

#[test]
fn without_qemus_events_the_flows_and_the_stop_are_still_recorded() {
    let mut lab = shared_lab().unwrap();
    let both = record_both(&mut lab, &Migration { events: false, ..Migration::default() });
    let source = both.source.record().unwrap();
    assert_eq!(phase_names(&source), ["transfer", "stop"]);
    assert!(not_measured(&source).contains("`events` is off"), "{}", not_measured(&source));
    let stop = both.migrated.event(Side::Source, "STOP").unwrap().received_ns.cast_signed();
    let at_ns = monotonic_ns_of(&source, signed_number(&source["phases"][1]["start_ns"]));
    assert!((0..100_000_000).contains(&(stop - at_ns)), "{stop} {at_ns}");
    let total = sent_payload_bytes(&source);
    assert!(total >= number(&both.migrated.source["ram"]["transferred"]));
}

#[test]
fn a_cancelled_migration_is_recorded_as_cancelled() {
    let mut lab = shared_lab().unwrap();
    let source = Recording::start(lab.guest_host(), &[]).unwrap();
    let destination = Recording::start(lab.other_host(), &[]).unwrap();
    let migration = Migration { max_bandwidth_bytes_per_s: 30 << 20, ..Migration::default() };
    let migrated = lab
        .migrate_with(&migration, |progress| {
            if progress.transferred_bytes > 10 << 20 { Action::Cancel } else { Action::Continue }
        })
        .unwrap();
    assert_eq!(migrated.outcome, Outcome::Cancelled);

    let source = source.finish(GUEST_PATIENCE).unwrap();
    assert_eq!(source.code, Some(3), "{}", source.stderr);
    let record = assert_replays(&source);
    assert_borders(&record, &migrated, Side::Source);
    assert_eq!(record["migration"]["outcome"], "cancelled");
    assert!(replay(&source, "text").contains("the guest was not stopped"));

    // The destination sees only that its stream ends.
    let destination = destination.finish(GUEST_PATIENCE).unwrap();
    assert_eq!(destination.code, Some(3), "{}", destination.stderr);
    assert_eq!(assert_replays(&destination)["migration"]["outcome"], "failed");
}
