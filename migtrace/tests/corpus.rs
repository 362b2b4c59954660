//! Runs the corpus of the fuzz targets, and every canned log, through the checks of those targets.
//!
//! `cargo xtask fuzz` searches for more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use migtrace::event::{Event, Fact};
use migtrace::invariants::{self, inputs};
use migtrace_fuzz::{events, frame};

/// The inputs of a target: their names and their bytes.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Fails with everything that is wrong.
fn all_hold(checked: impl IntoIterator<Item = (PathBuf, Result<(), String>)>) {
    let wrong: Vec<String> = checked
        .into_iter()
        .filter_map(|(path, checked)| Some(format!("{}:\n{}", path.display(), checked.err()?)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn replay(target: &str, check: fn(&[u8]) -> Result<(), String>) {
    all_hold(corpus(target).into_iter().map(|(path, bytes)| (path, check(&bytes))));
}

#[test]
fn every_frame_of_the_corpus_is_walked_as_expected() {
    replay("frame", frame::check);
}

#[test]
fn every_qmp_line_of_the_corpus_is_read_soundly() {
    replay("qmp_line", inputs::qmp_line);
}

#[test]
fn every_event_log_of_the_corpus_gives_sound_records() {
    replay("event_log", inputs::event_log);
}

#[test]
fn every_record_of_the_corpus_can_be_shown() {
    replay("record", inputs::record_file);
}

#[test]
fn events_in_any_order_give_sound_records() {
    replay("fold", |bytes| inputs::fold(&events::from_bytes(bytes)));
}

#[test]
fn every_canned_log_folds_into_sound_records() {
    let checked = common::log_names().into_iter().map(|name| {
        let events = common::events(&name).0;
        let records = common::fold(&events);
        let sound = records.iter().try_for_each(invariants::record);
        (PathBuf::from(&name), inputs::fold(&events).and(sound))
    });
    all_hold(checked);
}

/// Otherwise the target would prove nothing.
#[test]
fn the_corpus_has_events_of_every_kind_and_gives_records() {
    let logs: Vec<_> = corpus("fold").iter().map(|(_, bytes)| events::from_bytes(bytes)).collect();
    let kinds: BTreeSet<String> = logs.iter().flatten().map(kind).collect();
    let schema = serde_json::to_value(schemars::schema_for!(Fact)).unwrap();
    let all = schema["oneOf"].as_array().unwrap().iter();
    let all = all.map(|kind| kind["properties"]["event"]["const"].as_str().unwrap().to_owned());
    // Only a reader makes the last one.
    assert_eq!(kinds, all.filter(|kind| kind != "not_understood").collect());
    let records: usize = logs.iter().map(|events| common::fold(events).len()).sum();
    assert!(records >= logs.len(), "{records} of {} logs", logs.len());
}

fn kind(event: &Event) -> String {
    serde_json::to_value(event).unwrap()["event"].as_str().unwrap().to_owned()
}
