//! Canned logs, and whatever the fuzzer's generator makes, dealt out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::{Dealt, Watch, fold};
use crate::event::{Event, Fact, LogReader};
use crate::record::Record;
use crate::selection::Selection;
use crate::timeline::Timeline;

fn dealt(events: &[Event], closes: bool) -> Dealt {
    let mut watch = Watch::new(Selection::default(), closes);
    let is_end = |event: &Event| matches!(event.fact, Fact::LogEnd { .. });
    let end = events.iter().position(is_end).unwrap_or(events.len());
    watch.deal(&events[..end]);
    watch.finish(&events[end..])
}

fn read(path: &Path) -> Vec<Event> {
    let file = BufReader::new(File::open(path).unwrap());
    // Some of these logs are damaged at their end.
    LogReader::new(file).map_while(Result::ok).collect()
}

/// All canned logs, in order.
fn canned() -> Vec<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut folders = vec![tests.join("logs")];
    folders.extend(fs::read_dir(tests.join("merged")).unwrap().map(|entry| entry.unwrap().path()));
    let in_folder = |folder: &PathBuf| {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect::<Vec<_>>()
    };
    let mut logs: Vec<_> = folders.iter().flat_map(in_folder).collect();
    logs.sort();
    logs
}

/// What a watch does not see: it pings nobody.
const fn is_of_probe(event: &Event) -> bool {
    matches!(event.fact, Fact::EchoStart(_) | Fact::EchoOwner { .. } | Fact::EchoGap(_) | Fact::EchoEnd(_))
}

#[test]
fn every_canned_log_gives_the_same_records_when_it_is_dealt_out() {
    let mut differing = Vec::new();
    for path in canned() {
        let mut events = read(&path);
        events.retain(|event| !is_of_probe(event));
        let expected = fold(&events);
        let mut dealt = dealt(&events, false).records;
        dealt.sort_by_key(|record| record.start.realtime_ns);
        if dealt != expected {
            let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string();
            differing.push((name, difference(&expected, &dealt)));
        }
    }
    assert!(differing.is_empty(), "{differing:#?}");
}

fn difference(expected: &[Record], got: &[Record]) -> String {
    if expected.len() != got.len() {
        return format!("{} records instead of {}", got.len(), expected.len());
    }
    let lines = |records: &[Record]| -> Vec<String> {
        serde_json::to_string_pretty(records).unwrap().lines().map(str::to_owned).collect()
    };
    let pairs = lines(expected).into_iter().zip(lines(got));
    let differing: Vec<_> =
        pairs.filter(|(a, b)| a != b).take(4).map(|(a, b)| format!("{a} / {b}")).collect();
    differing.join("; ")
}

/// The two canned logs of one migration, dealt out, merge into the same record.
#[test]
fn the_logs_of_both_hosts_merge_as_before() {
    let merged = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/merged");
    for entry in fs::read_dir(merged).unwrap() {
        let folder = entry.unwrap().path();
        let logs = ["source.jsonl", "destination.jsonl"].map(|file| {
            let mut events = read(&folder.join(file));
            events.retain(|event| !is_of_probe(event));
            events
        });
        let merge = |logs: &[Vec<Event>]| {
            let folded = logs.iter().map(|log| {
                let mut timeline = Timeline::new(Selection::default());
                log.iter().for_each(|event| timeline.push(event));
                timeline
            });
            crate::timeline::merged(&folded.collect::<Vec<_>>()).unwrap()
        };
        let mut by_vm: BTreeMap<Option<String>, Vec<Vec<Event>>> = BTreeMap::new();
        for log in logs.iter().flat_map(|log| dealt(log, false).logs.into_values()) {
            by_vm.entry(fold(&log)[0].vm.uuid.clone()).or_default().push(log);
        }
        let mut merged: Vec<_> = by_vm.values().flat_map(|logs| merge(logs)).collect();
        merged.sort_by_key(|record| record.start.realtime_ns);
        assert_eq!(merged, merge(&logs), "{}", folder.display());
    }
}

#[test]
fn whatever_the_events_are_each_record_is_the_fold_of_its_log_and_nothing_is_left() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/fold");
    let found = fs::read_dir(corpus).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let mut random = fastrand::Rng::with_seed(7);
    let made = (0..100).map(|_| (0..2_000).map(|_| random.u8(..)).collect::<Vec<_>>());
    for bytes in found.chain(made.collect::<Vec<_>>()) {
        // The generator's events are those of the library as others see it. Some have times that no log has.
        let events: Vec<Event> = migtrace_fuzz::events::from_bytes(&bytes)
            .iter()
            .filter_map(|event| serde_json::from_value(serde_json::to_value(event).unwrap()).ok())
            .collect();
        let mut watch = Watch::new(Selection::default(), true);
        watch.deal(&events);
        watch.finish(&[]);
    }
}
