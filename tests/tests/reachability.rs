//! `migtrace record --probe` tells when the guest did not answer while it moved.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

use lab::consistency::{assert_replays, not_measured, replay};
use lab::tracing::{Recording, run};
use lab::{Migration, Outcome, Side, shared};
use serde_json::Value;
use std::time::Duration;

/// From the end of a migration to the end of its recording: a guest that is silent then is waited for.
const PATIENCE: Duration = Duration::from_secs(50);

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
    let migrated = lab.migrate(&Migration::default()).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed);
    let stopped_ns = migrated.event(Side::Source, "STOP").unwrap().received_ns.cast_signed();
    let resume = migrated.event(Side::Destination, "RESUME").unwrap();

    for (recording, role) in [(source, "source"), (destination, "destination")] {
        let recorded = recording.finish(PATIENCE).unwrap();
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        let record = assert_replays(&recorded);
        assert_eq!(record["observers"][0]["role"], role);
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
