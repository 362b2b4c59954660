//! `migtrace record --probe` reports when the guest did not answer during its migration.

use crate::support::{FAST, GUEST_PATIENCE, MIGRATION_PORT, clock_offset_ns, monotonic_ns_of, signed_number};
use migtrace_lab::migtrace_command::{Recorded, Recording, run};
use migtrace_lab::record_checks::{assert_replays, not_measured, replay};
use migtrace_lab::{BareQemu, Host, Migrated, Migration, Outcome, Side, shared_lab};
use serde_json::Value;

/// Three probers share two CPUs with an emulated guest.
const PROBE_INTERVAL: [&str; 2] = ["--probe-interval", "20ms"];

/// The gap that contains the guest's stop.
fn gap_around_the_stop<'a>(record: &'a Value, migrated: &Migrated) -> &'a Value {
    // QEMU emits STOP after the guest has stopped, and RESUME before it runs.
    let stopped_ns = migrated.event(Side::Source, "STOP").unwrap().received_ns.cast_signed();
    let resume = migrated.event(Side::Destination, "RESUME").unwrap();
    let resumed_ns = resume.built_ns(clock_offset_ns(record));
    let gaps = record["gaps"].as_array().unwrap();
    let holds = |gap: &&Value| {
        let (start, length) = (&gap["start"], &gap["length"]);
        let from_ns = monotonic_ns_of(record, signed_number(&start["low_ns"]));
        from_ns <= stopped_ns && resumed_ns <= from_ns + signed_number(&length["high_ns"])
    };
    // A gap that certainly happened is preferred to one that may not have.
    let gap = gaps.iter().filter(holds).max_by_key(|gap| signed_number(&gap["length"]["low_ns"]));
    let gap = gap.unwrap_or_else(|| panic!("stop at {stopped_ns}, run at {resumed_ns}: {record:#}"));
    let silent_ns = signed_number(&gap["length"]["value_ns"]);
    assert!(silent_ns > resumed_ns - stopped_ns - 20_000_000, "{silent_ns}: {record:#}");
    gap
}

#[test]
fn the_guests_stop_lies_within_a_reachability_gap_seen_from_either_host() {
    let mut lab = shared_lab().unwrap();
    let guest = lab.guest().ipv4.to_string();
    // The emulated guest takes most of a millisecond to answer.
    let probe = ["--probe", &guest, "--probe-interval", "5ms"];
    let source = Recording::start(lab.guest_host(), &probe).unwrap();
    let destination = Recording::start(lab.other_host(), &probe).unwrap();
    let source_pid = lab.qemu().unwrap().pid();
    let migrated = lab.migrate(&Migration::default()).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed);
    let destination_pid = lab.qemu().unwrap().pid();
    for (recording, role, pid) in
        [(source, "source", source_pid), (destination, "destination", destination_pid)]
    {
        let recorded = recording.finish(GUEST_PATIENCE).unwrap();
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        let record = assert_replays(&recorded);
        assert_eq!(record["observers"][0]["role"], role);
        // On the destination, the guest's QEMU started after the recording.
        assert_eq!(echo_owners(&recorded).last(), Some(&(pid.into(), "mac".to_owned())));
        let echo = &record["echo"];
        assert_eq!(echo["target"], guest.as_str());
        assert_eq!(
            signed_number(&echo["sent"]),
            signed_number(&echo["answered"]) + signed_number(&echo["lost"])
        );
        assert!(signed_number(&echo["round_trip"]["p50_ns"]) > 0, "{echo:#}");

        let gap = gap_around_the_stop(&record, &migrated);
        assert_eq!(record["downtime"]["reachability"], gap["length"], "{record:#}");
        assert!(!not_measured(&record).contains("reachability"), "{}", not_measured(&record));

        let text = replay(&recorded, "text");
        let title = if signed_number(&gap["length"]["low_ns"]) > 0 { "Gaps (" } else { "Possible gaps (" };
        for wanted in [&format!("Echo requests to {guest}"), title, "Round trip"] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        println!("{role}: {text}");
    }
}

/// The VMs to which a recording attributed the echo requests, and how it found out.
fn echo_owners(recorded: &Recorded) -> Vec<(u64, String)> {
    let events = recorded.events().unwrap();
    let owners = events.iter().filter(|event| event["event"] == "echo_owner");
    owners
        .map(|event| (event["pid"].as_u64().unwrap(), event["method"].as_str().unwrap().to_owned()))
        .collect()
}

#[test]
fn with_two_vms_on_a_host_a_probe_is_attributed_to_the_vm_with_the_address() {
    let mut lab = shared_lab().unwrap();
    let [guest, host] = [lab.guest().ipv4.to_string(), lab.other_host().ipv4().to_string()];
    let guest_pid = u64::from(lab.qemu().unwrap().pid());
    let mut moves = BareQemu::start(lab.guest_host(), "moves").unwrap();
    let _there = BareQemu::incoming(lab.other_host(), "moves", MIGRATION_PORT).unwrap();
    let moves_pid = u64::from(moves.pid());
    let record =
        |more: &[&str]| Recording::start(lab.guest_host(), &[more, &PROBE_INTERVAL].concat()).unwrap();
    // The guest, found by its MAC; a machine that is no VM of this host, for the VM that --vm names; the guest, although --vm
    // names another VM.
    let recordings = [
        record(&["--probe", &guest]),
        record(&["--probe", &host, "--vm", "moves"]),
        record(&["--probe", &guest, "--vm", "moves"]),
    ];
    moves.migrate(lab.other_host().ipv4(), MIGRATION_PORT, FAST).unwrap();
    let [by_mac, named, contradicted] = recordings.map(|recording| {
        let recorded = recording.finish(GUEST_PATIENCE).unwrap();
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        let record = assert_replays(&recorded);
        assert_eq!(record["vm"]["name"], "moves");
        (recorded, record)
    });

    for (recorded, record) in [&by_mac, &contradicted] {
        assert_eq!(echo_owners(recorded), [(guest_pid, "mac".to_owned())]);
        let asked = format!("pinging {guest} of {} (pid {guest_pid})", lab.guest().name);
        assert!(recorded.stderr.contains(&asked), "{}", recorded.stderr);
        let why = not_measured(record);
        assert!(why.contains(&format!("the echo requests went to {guest}, which another VM has")), "{why}");
        assert!(record["echo"].is_null() && record["downtime"]["reachability"].is_null(), "{record:#}");
        assert_eq!(record["gaps"].as_array().unwrap().len(), 0);
    }
    let of_selected = |record| not_measured(record).contains("the answers of the selected VM");
    assert_eq!((of_selected(&by_mac.1), of_selected(&contradicted.1)), (false, true));
    let (recorded, record) = &named;
    assert_eq!(echo_owners(recorded), [(moves_pid, "selected".to_owned())]);
    assert!(signed_number(&record["echo"]["answered"]) > 0, "{record:#}");
}

#[test]
fn when_it_is_unknown_which_vm_has_the_address_the_user_must_name_it() {
    let lab = shared_lab().unwrap();
    let (host, other) = (lab.guest_host(), lab.other_host());
    let _second = BareQemu::start(host, "second").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("events.jsonl");
    std::fs::write(&log, "earlier").unwrap();
    // One address of another machine, and one behind a router: both lead to a MAC that no VM here has.
    let routed = "10.88.0.1";
    other.tool("ip", &["address", "add", &format!("{routed}/32"), "dev", Host::BRIDGE]).unwrap();
    let gateway = other.ipv4().to_string();
    host.tool("ip", &["route", "add", routed, "via", &gateway]).unwrap();
    for (target, words) in
        [(gateway.as_str(), "its MAC 02:77:00:00:00:0"), (routed, "is it behind a router?")]
    {
        let events = log.to_str().unwrap();
        let arguments = [&["record", "--probe", target, "--events", events], &PROBE_INTERVAL[..]].concat();
        let output = run(host, &arguments).unwrap();
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
        for words in [
            &format!("cannot find out which VM has {target}"),
            words,
            "--vm or --pid",
            "second",
            &lab.guest().name,
        ] {
            assert!(output.stderr.contains(words), "{words}: {output:?}");
        }
        assert!(!output.stderr.contains("ready"), "{output:?}");
    }
    host.tool("ip", &["route", "delete", routed]).unwrap();
    other.tool("ip", &["address", "delete", &format!("{routed}/32"), "dev", Host::BRIDGE]).unwrap();
    let files: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["events.jsonl"], "an earlier log is left alone");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "earlier");
}

#[test]
fn a_target_that_cannot_be_probed_is_refused_before_the_recording_begins() {
    let lab = shared_lab().unwrap();
    for (arguments, code, words) in [
        (&["--probe", "10.77.0.99"][..], 1, "ARP"),
        (&["--probe", "no-such-name.invalid"], 1, "cannot find the address of no-such-name.invalid"),
        (&["--probe", "10.77.0.99", "--probe-interval", "50us"], 2, "the shortest interval is 100us"),
        (&["--probe-interval", "1ms"], 2, "--probe"),
    ] {
        let output = run(lab.guest_host(), &[&["record"], arguments].concat()).unwrap();
        assert_eq!(output.code, Some(code), "{arguments:?}: {output:?}");
        assert!(
            output.stderr.contains(words) && !output.stderr.contains("ready"),
            "{arguments:?}: {output:?}"
        );
        assert_eq!(output.stdout, "", "{output:?}");
    }
}
