//! Checks that hold for every record, and what several tests read from one.

use crate::migtrace_command::{self, Recorded};
use serde_json::Value;

const COUNTERS: [&str; 4] = ["wire_bytes", "payload_bytes", "segments", "skbs"];

/// The bounds of what the clock of the second host showed less that of the first, when the guest moved: (low, high). Checks
/// that 0 lies within them: the hosts of a lab have the same clock.
///
/// # Panics
///
/// When it does not, or packets have not aligned the clocks of two hosts.
#[must_use]
pub fn clock_bounds(record: &Value) -> (i64, i64) {
    let observers = list(&record["observers"]);
    assert_eq!(observers.len(), 2, "{observers:#?}");
    assert!(observers[0]["alignment"].is_null(), "{observers:#?}");
    let alignment = &observers[1]["alignment"];
    assert_eq!(alignment["method"], "tcp", "{alignment}");
    let [low, high] = ["low_ns", "high_ns"].map(|bound| alignment[bound].as_i64().expect("a number"));
    assert!(low <= 0 && 0 <= high, "the clocks are the same, so 0 is the truth: {alignment}");
    (low, high)
}

/// Checks that a record is consistent: its phases are contiguous, its bytes add up, its estimates lie within their bounds.
///
/// # Panics
///
/// When it is not. The message has the record.
pub fn assert_consistent(record: &Value) {
    let phases = list(&record["phases"]);
    assert!(!phases.is_empty(), "no phases: {record:#}");
    for pair in phases.windows(2) {
        assert_eq!(pair[0]["end_ns"], pair[1]["start_ns"], "phases are not contiguous: {record:#}");
    }
    for phase in phases {
        assert!(
            phase["end_ns"].as_i64() >= phase["start_ns"].as_i64(),
            "a phase ends before it starts: {phase:#}"
        );
    }
    let traffic = &record["traffic"];
    if !traffic["total"].is_null() {
        let flows: Vec<_> = list(&traffic["flows"]).iter().map(|flow| &flow["counters"]).collect();
        assert_sum(&flows, &traffic["total"], record);
        let parts: Vec<_> = phases.iter().map(|phase| &phase["traffic"]).collect();
        if parts.iter().all(|part| !part.is_null()) {
            assert_sum(&parts, &traffic["total"], record);
        }
    }
    for pair in list(&traffic["samples"]).windows(2) {
        assert!(pair[0]["at_ns"].as_i64() < pair[1]["at_ns"].as_i64(), "{pair:?}");
        for side in ["tx", "rx"] {
            let bytes = |sample: &Value| sample["wire_bytes"][side].as_u64();
            assert!(bytes(&pair[0]) <= bytes(&pair[1]), "a counter shrinks: {pair:?}");
        }
    }
    for estimate in [&record["total_time"], &record["setup_time"], &record["downtime"]["stop"]] {
        if !estimate.is_null() {
            let value = estimate["value_ns"].as_u64();
            assert!(estimate["low_ns"].as_u64() <= value, "{estimate:#}");
            assert!(estimate["high_ns"].is_null() || estimate["high_ns"].as_u64() >= value, "{estimate:#}");
        }
    }
    assert_eq!(record["lost"], serde_json::json!({ "ring_buffer": 0, "flows": 0, "hook_calls": 0 }));
}

/// Checks that a recording's record is consistent, and that its event log replays into the same record, byte for byte.
/// Returns the record.
///
/// # Panics
///
/// When one of them is not so. The message has the first line that differs.
pub fn assert_replays(recorded: &Recorded) -> Value {
    let record = recorded.record().unwrap_or_else(|error| panic!("{error:#}"));
    assert_consistent(&record);
    let replayed = replay(recorded, "json");
    let (mut left, mut right) = (recorded.json.lines(), replayed.lines());
    for number in 1.. {
        let pair = (left.next(), right.next());
        assert_eq!(pair.0, pair.1, "line {number} of the record and of its replay: {record:#}\n{replayed}");
        if pair == (None, None) {
            break;
        }
    }
    assert_eq!(recorded.json, replayed);
    record
}

/// The report that `migtrace report` makes of a recording's event log.
///
/// # Panics
///
/// When it fails.
#[must_use]
pub fn replay(recorded: &Recorded, format: &str) -> String {
    let report = migtrace_command::command(&["report", "--format", format]);
    let output = report.and_then(|mut report| Ok(report.arg(recorded.events_path()).output()?));
    let output = output.unwrap_or_else(|error| panic!("{error:#}"));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The names of a record's marks, in their order.
#[must_use]
pub fn mark_names(record: &Value) -> Vec<String> {
    list(&record["downtime"]["marks"]).iter().map(|mark| text(&mark["name"]).to_owned()).collect()
}

/// The names of a record's phases, each with its pass where it has one: `active 2`.
#[must_use]
pub fn phase_names(record: &Value) -> Vec<String> {
    let name = |phase: &Value| {
        let name = phase["name"].as_str().unwrap_or("?");
        phase["pass"].as_u64().map_or_else(|| name.to_owned(), |pass| format!("{name} {pass}"))
    };
    list(&record["phases"]).iter().map(name).collect()
}

/// What a record lists as not measured and why, one per line.
#[must_use]
pub fn not_measured(record: &Value) -> String {
    let line = |entry: &Value| format!("{}: {}\n", text(&entry["what"]), text(&entry["why"]));
    list(&record["not_measured"]).iter().map(line).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn assert_sum(parts: &[&Value], total: &Value, record: &Value) {
    for side in ["tx", "rx"] {
        for counter in COUNTERS {
            let sum: u64 = parts.iter().filter_map(|part| part[side][counter].as_u64()).sum();
            assert_eq!(Some(sum), total[side][counter].as_u64(), "{side} {counter}: {record:#}");
        }
    }
}
