//! `migtrace watch`: every migration of a host, against what it has not produced: the driver's stamps, and a packet socket's
//! counts of the connections.

mod endings;
mod faults;
mod journeys;

use crate::support::PATIENCE;
use migtrace_lab::migtrace_command;
use migtrace_lab::record_checks::assert_consistent;
use migtrace_lab::watch_command::{Pair, wait_for_pairs};
use std::path::Path;

/// What `migtrace report` makes of the log of a pair, and its exit code.
fn replayed(pair: &Pair) -> (String, Option<i32>) {
    let mut report = migtrace_command::command(&["report", "--format", "json"]).unwrap();
    let output = report.arg(&pair.log).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

/// Waits for so many pairs, and checks that each log replays into its record, byte for byte, and ended properly.
fn whole_pairs(directory: &Path, count: usize) -> Vec<Pair> {
    let pairs = wait_for_pairs(directory, count, PATIENCE).unwrap();
    for pair in &pairs {
        assert_consistent(&pair.record);
        assert_eq!(replayed(pair), (pair.json.clone(), Some(0)), "{}", pair.name);
        let log = std::fs::read_to_string(&pair.log).unwrap();
        assert!(log.lines().last().unwrap().contains("log_end"), "{}", pair.name);
    }
    pairs
}

/// A directory for a host.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
