//! `migtrace record --probe` tells when the guest did not answer while it moved.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

use migtrace_lab::migtrace_command::{Recorded, Recording, run};
use migtrace_lab::record_checks::{assert_replays, not_measured, replay};
use migtrace_lab::{BareQemu, Host, Migration, Outcome, Side, shared};
use serde_json::Value;
use std::time::Duration;

/// From the end of a migration to the end of its recording: a guest that is silent then is waited for.
const PATIENCE: Duration = Duration::from_secs(50);

const PORT: u16 = 49152;
const FAST: u64 = 0;
/// Three probers share two CPUs with a guest that is interpreted.
const INTERVAL: [&str; 2] = ["--probe-interval", "20ms"];

/// The monotonic clock at a time of the record.
fn monotonic(record: &Value, at_ns: i64) -> i64 {
    let start = record["start"]["realtime_ns"].as_i64().unwrap();
    start - record["observers"][0]["clock"]["offset_ns"].as_i64().unwrap() + at_ns
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn the_guests_stop_lies_in_a_gap_of_its_answers_seen_from_either_host() {
    let mut lab = shared().unwrap();
    let guest = lab.guest().ipv4.to_string();
    // The interpreted guest needs most of a millisecond for an answer.
    let probe = ["--probe", &guest, "--probe-interval", "5ms"];
    let source = Recording::start(lab.guest_host(), &probe).unwrap();
    let destination = Recording::start(lab.other_host(), &probe).unwrap();
    let left_pid = lab.qemu().unwrap().pid();
    let migrated = lab.migrate(&Migration::default()).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed);
    let arrived_pid = lab.qemu().unwrap().pid();
    let stopped_ns = migrated.event(Side::Source, "STOP").unwrap().received_ns.cast_signed();
    let resume = migrated.event(Side::Destination, "RESUME").unwrap();

    for (recording, role, pid) in [(source, "source", left_pid), (destination, "destination", arrived_pid)] {
        let recorded = recording.finish(PATIENCE).unwrap();
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        let record = assert_replays(&recorded);
        assert_eq!(record["observers"][0]["role"], role);
        // At the destination the guest's QEMU has come since the recording began.
        assert_eq!(owners(&recorded).last(), Some(&(pid.into(), "mac".to_owned())));
        let echo = &record["echo"];
        assert_eq!(echo["target"], guest.as_str());
        assert_eq!(number(&echo["sent"]), number(&echo["answered"]) + number(&echo["lost"]));
        assert!(number(&echo["round_trip"]["p50_ns"]) > 0, "{echo:#}");

        // QEMU says that it has stopped the guest after it has, and that the guest runs before it does.
        let offset_ns = number(&record["observers"][0]["clock"]["offset_ns"]);
        let resumed_ns = resume.qemu_realtime_us.cast_signed() * 1_000 - offset_ns;
        let gaps = record["gaps"].as_array().unwrap();
        let holds = |gap: &&Value| {
            let (start, length) = (&gap["start"], &gap["length"]);
            let from_ns = monotonic(&record, number(&start["low_ns"]));
            from_ns <= stopped_ns && resumed_ns <= from_ns + number(&length["high_ns"])
        };
        // One that is sure comes before one that may have been none.
        let gap = gaps.iter().filter(holds).max_by_key(|gap| number(&gap["length"]["low_ns"]));
        let gap = gap.unwrap_or_else(|| panic!("stop at {stopped_ns}, run at {resumed_ns}: {record:#}"));
        assert_eq!(record["downtime"]["reachability"], gap["length"], "{record:#}");
        let silent_ns = number(&gap["length"]["value_ns"]);
        assert!(silent_ns > resumed_ns - stopped_ns - 20_000_000, "{silent_ns}: {record:#}");
        assert!(!not_measured(&record).contains("reachability"), "{}", not_measured(&record));

        let text = replay(&recorded, "text");
        let title =
            if number(&gap["length"]["low_ns"]) > 0 { "Gaps (" } else { "Silences that may have been (" };
        for wanted in [&format!("Echo requests to {guest}"), title, "Round trip"] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        println!("{role}: {text}");
    }
}

/// The owners that a recording has told of, with how they are known.
fn owners(recorded: &Recorded) -> Vec<(u64, String)> {
    let events = recorded.events().unwrap();
    let owners = events.iter().filter(|event| event["event"] == "echo_owner");
    owners
        .map(|event| (event["pid"].as_u64().unwrap(), event["method"].as_str().unwrap().to_owned()))
        .collect()
}

#[test]
fn of_two_vms_on_a_host_a_probe_is_of_the_one_that_has_the_address() {
    let mut lab = shared().unwrap();
    let [guest, host] = [lab.guest().ipv4.to_string(), lab.other_host().ipv4().to_string()];
    let guest_pid = u64::from(lab.qemu().unwrap().pid());
    let mut moves = BareQemu::start(lab.guest_host(), "moves").unwrap();
    let _there = BareQemu::incoming(lab.other_host(), "moves", PORT).unwrap();
    let moves_pid = u64::from(moves.pid());
    let record = |more: &[&str]| Recording::start(lab.guest_host(), &[more, &INTERVAL].concat()).unwrap();
    // The guest, by its MAC; a machine that is no VM of this host, for the VM that the person names; the guest, for another.
    let recordings = [
        record(&["--probe", &guest]),
        record(&["--probe", &host, "--vm", "moves"]),
        record(&["--probe", &guest, "--vm", "moves"]),
    ];
    moves.migrate(lab.other_host().ipv4(), PORT, FAST).unwrap();
    let [by_mac, named, contradicted] = recordings.map(|recording| {
        let recorded = recording.finish(PATIENCE).unwrap();
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        let record = assert_replays(&recorded);
        assert_eq!(record["vm"]["name"], "moves");
        (recorded, record)
    });

    for (recorded, record) in [&by_mac, &contradicted] {
        assert_eq!(owners(recorded), [(guest_pid, "mac".to_owned())]);
        let asked = format!("asking {guest} of {} (pid {guest_pid})", lab.guest().name);
        assert!(recorded.stderr.contains(&asked), "{}", recorded.stderr);
        let why = not_measured(record);
        assert!(why.contains(&format!("the echo requests went to {guest}, which another VM has")), "{why}");
        assert!(record["echo"].is_null() && record["downtime"]["reachability"].is_null(), "{record:#}");
        assert_eq!(record["gaps"].as_array().unwrap().len(), 0);
    }
    let of_selected = |record| not_measured(record).contains("the answers of the selected VM");
    assert_eq!((of_selected(&by_mac.1), of_selected(&contradicted.1)), (false, true));
    let (recorded, record) = &named;
    assert_eq!(owners(recorded), [(moves_pid, "selected".to_owned())]);
    assert!(number(&record["echo"]["answered"]) > 0, "{record:#}");
}

#[test]
fn where_the_network_does_not_tell_which_vm_is_asked_the_person_is() {
    let lab = shared().unwrap();
    let (host, other) = (lab.guest_host(), lab.other_host());
    let _second = BareQemu::start(host, "second").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("events.jsonl");
    std::fs::write(&log, "earlier").unwrap();
    // Of another machine, which has a MAC; and behind a router, which has one.
    let routed = "10.88.0.1";
    other.tool("ip", &["address", "add", &format!("{routed}/32"), "dev", Host::BRIDGE]).unwrap();
    let gateway = other.ipv4().to_string();
    host.tool("ip", &["route", "add", routed, "via", &gateway]).unwrap();
    for (target, words) in
        [(gateway.as_str(), "its MAC 02:77:00:00:00:0"), (routed, "is it behind a router?")]
    {
        let events = log.to_str().unwrap();
        let arguments = [&["record", "--probe", target, "--events", events], &INTERVAL[..]].concat();
        let said = run(host, &arguments).unwrap();
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
        for words in [
            &format!("which VM has {target} is not known"),
            words,
            "--vm or --pid",
            "second",
            &lab.guest().name,
        ] {
            assert!(said.stderr.contains(words), "{words}: {said:?}");
        }
        assert!(!said.stderr.contains("ready"), "{said:?}");
    }
    host.tool("ip", &["route", "delete", routed]).unwrap();
    other.tool("ip", &["address", "delete", &format!("{routed}/32"), "dev", Host::BRIDGE]).unwrap();
    let files: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["events.jsonl"], "an earlier log stays what it was");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "earlier");
}

#[test]
fn a_guest_that_cannot_be_asked_is_said_before_the_recording_begins() {
    let lab = shared().unwrap();
    for (arguments, code, words) in [
        (&["--probe", "10.77.0.99"][..], 1, "ARP"),
        (&["--probe", "no-such-name.invalid"], 1, "cannot find the address of no-such-name.invalid"),
        (&["--probe", "10.77.0.99", "--probe-interval", "50us"], 2, "the shortest interval is 100us"),
        (&["--probe-interval", "1ms"], 2, "--probe"),
    ] {
        let said = run(lab.guest_host(), &[&["record"], arguments].concat()).unwrap();
        assert_eq!(said.code, Some(code), "{arguments:?}: {said:?}");
        assert!(said.stderr.contains(words) && !said.stderr.contains("ready"), "{arguments:?}: {said:?}");
        assert_eq!(said.stdout, "", "{said:?}");
    }
}
