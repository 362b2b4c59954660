//! Several migrations between the same hosts.

use super::{bare, shape};
use crate::support::merged::{BothRecordings, merge};
use crate::support::network;
use migtrace_lab::{BarePair, Migration, shared_lab};
use serde_json::Value;
use std::collections::BTreeSet;

#[test]
fn two_at_once_in_opposite_directions() {
    const NAMES: [&str; 2] = ["there", "back"];
    let lab = network();
    let migration = Migration { max_bandwidth_bytes_per_s: 8 << 20, ..Migration::default() };
    let ways = [(lab.source(), lab.destination()), (lab.destination(), lab.source())];
    let mut both: Vec<_> = NAMES
        .iter()
        .zip(ways)
        .map(|(name, (from, to))| {
            let pair = BarePair::start(from, to, &bare(name, 4), &migration).unwrap();
            (pair, BothRecordings::start(from, to, &["--vm", name]))
        })
        .collect();
    let migrated: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> =
            both.iter_mut().map(|(pair, _)| scope.spawn(|| pair.migrate(&migration).unwrap())).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let merged: Vec<_> = both
        .into_iter()
        .zip(migrated)
        .zip(NAMES)
        .map(|(((_, recordings), migrated), name)| recordings.finish_of(Some(name), migrated))
        .collect();
    merged[0].keep("opposite-directions-7.2");
    // Both are in each host's log, and neither has anything of the other.
    let logs = [merged[0].source.events_path(), merged[0].destination.events_path()];
    assert_eq!(merge(&[&logs[0], &logs[1]]).unwrap().lines().count(), 2);
    let mut connections = BTreeSet::new();
    for (one, name) in merged.iter().zip(NAMES) {
        assert_eq!(one.record["vm"]["name"], name);
        one.assert_stop();
        assert!(one.half_width_ns() < 1_000_000);
        let flows = one.record["traffic"]["flows"].as_array().unwrap();
        assert_eq!(flows.len(), 1, "{flows:#?}");
        connections.extend(flows.iter().map(|flow| flow["local"].to_string()));
    }
    assert_eq!(connections.len(), 2, "{connections:?}");
}

#[test]
fn there_and_back_ten_times() {
    let mut lab = shared_lab().unwrap();
    let all: Vec<_> = (0..10)
        .map(|_| {
            let (from, to) = (lab.guest_host().clone(), lab.other_host().clone());
            shape("there-and-back", &from, &to, || lab.migrate(&Migration::default()).unwrap())
        })
        .collect();
    let mut ids = BTreeSet::new();
    for shape in &all {
        shape.assert_moved(&["ram"]);
        ids.insert(shape.merged.record["migration"]["id"].to_string());
    }
    assert_eq!(ids.len(), 10, "{ids:?}");
    for (number, shape) in all.iter().enumerate() {
        for (other_number, other) in all.iter().enumerate().filter(|(other, _)| *other != number) {
            let logs = [shape.merged.source.events_path(), other.merged.destination.events_path()];
            let error = merge(&[&logs[0], &logs[1]]).expect_err("they are of different migrations");
            assert!(error.contains("does not belong"), "{number} and {other_number}: {error}");
        }
    }
    // All logs of both hosts at once.
    let logs: Vec<_> = all
        .iter()
        .flat_map(|s| [s.merged.source.events_path(), s.merged.destination.events_path()])
        .collect();
    let logs: Vec<_> = logs.iter().map(std::path::PathBuf::as_path).collect();
    let text = merge(&logs).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let together: Vec<_> = records.iter().map(|record| &record["migration"]["id"]).collect();
    let alone: Vec<_> = all.iter().map(|shape| &shape.merged.record["migration"]["id"]).collect();
    assert_eq!(together, alone);
}
