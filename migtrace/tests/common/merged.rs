//! The logs of several hosts that recorded the same migration, in the folders of `merged/`.

use std::fs;
use std::path::PathBuf;

use migtrace::event::Event;
use migtrace::invariants;
use migtrace::record::{Estimate, Record};
use migtrace::selection::Selection;
use migtrace::timeline::{NotTogether, Timeline, merged};
use serde_json::{Value, json};

pub(crate) const SECOND: i64 = 1_000_000_000;
pub(crate) const DAY: i64 = 86_400 * SECOND;

/// The lines of a log.
pub(crate) type Log = Vec<Value>;

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/merged")
}

pub(crate) fn names() -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

pub(crate) fn log(name: &str, host: &str) -> Log {
    let text = fs::read_to_string(folder().join(name).join(format!("{host}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn both(name: &str) -> [Log; 2] {
    ["source", "destination"].map(|host| log(name, host))
}

/// What the destination's clock really showed less the source's when the guest moved, between two bounds. Both are one clock
/// unless the folder says otherwise.
pub(crate) fn clock(name: &str) -> (i64, i64) {
    let Ok(text) = fs::read_to_string(folder().join(name).join("clock.json")) else { return (0, 0) };
    let truth: Value = serde_json::from_str(&text).unwrap();
    (truth["low_ns"].as_i64().unwrap(), truth["high_ns"].as_i64().unwrap())
}

/// The logs of all hosts: with that of an observer, if there was one.
pub(crate) fn all(name: &str) -> Vec<Log> {
    let observed = folder().join(name).join("observer.jsonl").exists();
    both(name).into_iter().chain(observed.then(|| log(name, "observer"))).collect()
}

pub(crate) fn merge(logs: &[Log]) -> Result<Vec<Record>, NotTogether> {
    let folded = logs.iter().map(|log| {
        let mut timeline = Timeline::new(Selection::default());
        for line in log {
            timeline.push(&serde_json::from_value::<Event>(line.clone()).unwrap());
        }
        timeline
    });
    merged(&folded.collect::<Vec<_>>())
}

pub(crate) fn merge_one(logs: &[Log]) -> Record {
    let mut records = merge(logs).unwrap();
    assert_eq!(records.len(), 1);
    invariants::record(&records[0]).unwrap();
    records.remove(0)
}

/// A log as another clock would have stamped it. `clock` gives what that clock shows when the log's clock shows an
/// instant. The wall clock is slewed together with it, and is not set.
pub(crate) fn restamped(log: &Log, clock: &dyn Fn(i64) -> i64, shift: i64) -> Log {
    fn stamps(value: &mut Value, clock: &dyn Fn(i64) -> i64, shift: i64, wall: i64, key: &str) {
        let is_stamp = key.ends_with("_ns")
            && ![
                "offset_ns",
                "error_ns",
                "min_gap_ns",
                "p50_ns",
                "p99_ns",
                "max_ns",
                "worst_since_last_gap_ns",
            ]
            .contains(&key)
            && !key.contains("round_trip")
            && !key.contains("interval");
        match value {
            Value::Object(fields) => {
                for (name, field) in fields.iter_mut() {
                    // The two directions of a stamp have its name.
                    let name = if ["tx", "rx"].contains(&name.as_str()) { key } else { name };
                    stamps(field, clock, shift, wall, name);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| stamps(item, clock, shift, wall, key)),
            Value::Number(number) if is_stamp => *value = json!(clock(number.as_i64().unwrap())),
            Value::Number(number) if key == "offset_ns" => *value = json!(number.as_i64().unwrap() - shift),
            Value::Number(number) if key == "qemu_realtime_us" => {
                let at = number.as_i64().unwrap() * 1_000 - wall;
                *value = json!((clock(at) - shift + wall) / 1_000);
            }
            _ => {}
        }
    }
    let wall = log.iter().find_map(|line| line["offset_ns"].as_i64()).unwrap();
    let mut log = log.clone();
    log.iter_mut().for_each(|line| stamps(line, clock, shift, wall, ""));
    log
}

/// The stamps of a host's own clock that are in its log, and those that others have read of it, as another clock would have
/// shown them.
pub(crate) fn restamp_host(logs: &mut [Log], host: usize, clock: &dyn Fn(i64) -> i64, shift: i64) {
    let name = logs[host][0]["host"].clone();
    let untouched = logs[host].clone();
    logs[host] = restamped(&logs[host], clock, shift);
    for (line, before) in
        logs[host].iter_mut().zip(&untouched).filter(|(line, _)| line["event"] == "peer_clock")
    {
        line["showed_ns"] = before["showed_ns"].clone();
        line["peer"] = before["peer"].clone();
    }
    let others = logs.iter_mut().enumerate().filter(|(index, _)| *index != host);
    for line in others.flat_map(|(_, log)| log).filter(|line| line["peer"]["host"] == name) {
        line["showed_ns"] = clock(line["showed_ns"].as_i64().unwrap()).into();
        line["peer"]["since_ns"] = clock(line["peer"]["since_ns"].as_i64().unwrap()).into();
    }
}

/// A clock that is shifted, and bent by `ppm` from an instant on.
pub(crate) fn bent(shift: i64, ppm: i64, from: i64) -> impl Fn(i64) -> i64 {
    move |at| at + shift + (at - from).max(0) * ppm / 1_000_000
}

/// The middle of a log.
pub(crate) fn middle(log: &Log) -> i64 {
    let stamps = || log.iter().map(|line| line["at_ns"].as_i64().unwrap());
    stamps().min().unwrap().midpoint(stamps().max().unwrap())
}

pub(crate) fn width(estimate: &Estimate) -> u64 {
    estimate.high_ns.map_or(u64::MAX, |high| high - estimate.low_ns)
}
