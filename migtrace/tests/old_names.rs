//! Logs and records of earlier versions can be read: what was once called `probes` there has other names now.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::one;
use migtrace::event::{Event, Fact};
use migtrace::record::Record;
use serde_json::{Value, json};

/// Reads a value after renaming `new` to `old` in the object at `place`.
fn read_with_old_name<T: serde::de::DeserializeOwned>(
    mut value: Value,
    place: &str,
    new: &str,
    old: &str,
) -> T {
    let object = value.pointer_mut(place).unwrap().as_object_mut().unwrap();
    let renamed = object.remove(new).unwrap_or_else(|| panic!("`{new}` is not written: {object:?}"));
    object.insert(old.to_owned(), renamed);
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_log_that_calls_its_instruments_probes_is_read() {
    let start = common::events("no-owner").0.remove(0);
    assert!(matches!(&start.fact, Fact::LogStart(observation) if !observation.instruments.is_empty()));
    let written = serde_json::to_value(&start).unwrap();
    assert_eq!(read_with_old_name::<Event>(written, "", "instruments", "probes"), start);
}

#[test]
fn a_log_that_counts_lost_probes_is_read() {
    let lost: Event = common::made(json!({
        "at_ns": 7, "event": "lost", "ring_buffer": 1, "flows": 2, "hook_calls": 3
    }));
    let written = serde_json::to_value(&lost).unwrap();
    assert_eq!(read_with_old_name::<Event>(written, "", "hook_calls", "probes"), lost);
}

#[test]
fn a_record_that_counts_lost_probes_is_read() {
    let record = one("no-owner");
    assert_eq!(record.lost.hook_calls, 1);
    let written = serde_json::to_value(&record).unwrap();
    assert_eq!(read_with_old_name::<Record>(written, "/lost", "hook_calls", "probes"), record);
}
