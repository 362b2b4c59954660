//! What the tests over canned event logs share.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod browser;
pub(crate) mod clickhouse;
pub(crate) mod log_builder;
pub(crate) mod merged;
pub(crate) mod page;
pub(crate) mod page_numbers;
pub(crate) mod study;
pub(crate) mod trace_viewer;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::PathBuf;

use migtrace::event::{Event, LogError, LogReader};
use migtrace::record::{Phase, Record, Role};
use migtrace::report;
use migtrace::selection::Selection;
use migtrace::timeline::Timeline;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A value of a type that is `#[non_exhaustive]`: outside of the library only JSON makes one.
pub(crate) fn made<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).unwrap()
}

/// The folder of the canned logs.
pub(crate) fn logs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/logs")
}

/// Their names, in order.
pub(crate) fn log_names() -> Vec<String> {
    let paths = fs::read_dir(logs()).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .map(|path| path.file_stem().and_then(|stem| stem.to_str()).unwrap().to_owned())
        .collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

/// The events of a log up to the first bad line, and what is wrong with that.
pub(crate) fn events(name: &str) -> (Vec<Event>, Option<LogError>) {
    let file = File::open(logs().join(format!("{name}.jsonl"))).unwrap();
    let mut events = Vec::new();
    for item in LogReader::new(BufReader::new(file)) {
        match item {
            Ok(event) => events.push(event),
            Err(error) => return (events, Some(error)),
        }
    }
    (events, None)
}

/// The records that events give.
pub(crate) fn fold(events: &[Event]) -> Vec<Record> {
    let mut timeline = Timeline::new(Selection::default());
    events.iter().for_each(|event| timeline.push(event));
    timeline.finish()
}

/// The records of a log.
pub(crate) fn replay(name: &str) -> Vec<Record> {
    fold(&events(name).0)
}

/// The record of a log of one migration.
pub(crate) fn one(name: &str) -> Record {
    let mut records = replay(name);
    assert_eq!(records.len(), 1, "{name}");
    records.remove(0)
}

/// Why something was not measured.
pub(crate) fn why<'a>(record: &'a Record, what: &str) -> &'a str {
    let entry = record.not_measured.iter().find(|entry| entry.what.contains(what));
    &entry.unwrap_or_else(|| panic!("nothing about {what:?} in {:#?}", record.not_measured)).why
}

/// The record of the side with this role.
pub(crate) fn of_role(records: &[Record], role: Role) -> &Record {
    records.iter().find(|record| record.observers[0].role == role.into()).unwrap()
}

/// The first line of the report.
pub(crate) fn headline(record: &Record) -> String {
    report::text::render(record).lines().next().unwrap().to_owned()
}

/// Name, pass and length in milliseconds of each phase.
pub(crate) fn outline(record: &Record) -> Vec<(&str, Option<u64>, i64)> {
    let length_ms = |phase: &Phase| (phase.end_ns - phase.start_ns) / 1_000_000;
    record.phases.iter().map(|phase| (phase.name.as_str(), phase.pass, length_ms(phase))).collect()
}

/// Name and time in milliseconds of each mark.
pub(crate) fn marks(record: &Record) -> Vec<(&str, i64)> {
    record.downtime.marks.iter().map(|mark| (mark.name.as_str(), mark.at_ns / 1_000_000)).collect()
}

pub(crate) fn payload_tx(phase: &Phase) -> u64 {
    phase.traffic.unwrap().tx.payload_bytes
}

/// The record of the demo that the documentation shows, from all of its logs.
pub(crate) fn demo() -> Vec<Record> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/demo");
    let logs = ["local", "dst", "observer"].map(|host| {
        let file = File::open(folder.join(format!("{host}.jsonl"))).unwrap();
        let mut timeline = Timeline::new(Selection::default());
        LogReader::new(BufReader::new(file)).for_each(|event| timeline.push(&event.unwrap()));
        timeline
    });
    migtrace::timeline::merged(&logs).unwrap()
}
