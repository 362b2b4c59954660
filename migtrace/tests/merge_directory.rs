//! `migtrace merge --directory`: every log finds its other half, whatever its name and wherever it lies.
//!
//! The truth is the record beside each pair of `merged/`, which comes of merging that pair alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::merged::{folder, names};
use migtrace::terminal::clean_lines;
use serde_json::Value;

/// The records that a run has written to standard output.
fn records(output: &Output) -> Vec<Value> {
    values(&output.stdout)
}

fn values(json: &[u8]) -> Vec<Value> {
    serde_json::Deserializer::from_slice(json).into_iter().map(Result::unwrap).collect()
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked") && clean_lines(&text) == text, "{text}");
    text
}

fn merge(directory: &Path, more: &[&str]) -> Output {
    merge_by(directory, more, "2")
}

fn merge_by(directory: &Path, more: &[&str], threads: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_migtrace"));
    command.args(["merge", "--directory"]).arg(directory).args(more).stdin(Stdio::null());
    command.env("RAYON_NUM_THREADS", threads).env_remove("RUST_BACKTRACE").output().unwrap()
}

/// The records of all pairs, as each pair alone gives them.
fn expected() -> Vec<Value> {
    let of_pair = |name: String| values(&fs::read(folder().join(name).join("record.json")).unwrap());
    sorted(names().into_iter().flat_map(of_pair).collect())
}

fn sorted(mut records: Vec<Value>) -> Vec<Value> {
    records.sort_by_key(Value::to_string);
    records
}

/// A directory with the logs of these hosts of all pairs: each host's in a folder of its own, under names that say nothing.
fn scattered(hosts: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    hosts.iter().for_each(|host| add(directory.path(), host));
    directory
}

fn add(directory: &Path, host: &str) {
    fs::create_dir(directory.join(host)).unwrap();
    for (number, name) in names().iter().enumerate() {
        let log = folder().join(name).join(format!("{host}.jsonl"));
        if log.exists() {
            // Both hosts count their logs from another number.
            let number = (number * 7 + host.len()) % 100;
            fs::copy(log, directory.join(host).join(format!("{number:02}"))).unwrap();
        }
    }
}

const ALL_HOSTS: [&str; 3] = ["source", "destination", "observer"];

#[test]
fn every_log_finds_its_other_half_and_its_observer() {
    let directory = scattered(&ALL_HOSTS);
    let output = merge(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let records = records(&output);
    let starts: Vec<_> = records.iter().map(|record| record["start"]["realtime_ns"].as_i64()).collect();
    assert!(starts.is_sorted(), "{starts:?}");
    let (got, expected) = (sorted(records), expected());
    for (got, expected) in got.iter().zip(&expected) {
        assert_eq!(got, expected);
    }
    assert_eq!(got.len(), expected.len());
}

#[test]
fn an_observer_of_whom_nobody_knows_is_found_by_the_guest_that_it_has_pinged() {
    let directory = tempfile::tempdir().unwrap();
    let mut together = Command::new(env!("CARGO_BIN_EXE_migtrace"));
    together.args(["merge", "--format", "json"]);
    for host in ALL_HOSTS {
        let log = fs::read_to_string(folder().join("observed-7.2").join(format!("{host}.jsonl"))).unwrap();
        let unknown: String = log.split_inclusive('\n').filter(|line| !line.contains("peer_clock")).collect();
        fs::write(directory.path().join(host), unknown).unwrap();
        together.arg(directory.path().join(host));
    }
    let expected = values(&together.output().unwrap().stdout);
    assert_eq!(expected[0]["observers"].as_array().unwrap().len(), 3);
    for host in ["source", "destination"] {
        add_log(directory.path(), "precopy-7.2", host);
    }
    let output = merge(directory.path(), &[]);
    let records = records(&output);
    assert!(records.contains(&expected[0]), "{}", said(&output));
    // Another guest's migration has nothing of it.
    assert_eq!(records.iter().map(|record| record["observers"].as_array().unwrap().len()).sum::<usize>(), 5);
}

fn add_log(directory: &Path, name: &str, host: &str) {
    fs::copy(folder().join(name).join(format!("{host}.jsonl")), directory.join(format!("{name} {host}")))
        .unwrap();
}

/// A log of `name`, whose QEMU also has the connection by which its guest has arrived: that of `earlier`.
fn with_connection_of(name: &str, earlier: &str) -> String {
    let read = |name: &str, host: &str| fs::read_to_string(folder().join(name).join(host)).unwrap();
    let arrival = read(earlier, "destination.jsonl");
    let mut seen: Value =
        serde_json::from_str(arrival.lines().find(|line| line.contains("\"flow_seen\"")).unwrap()).unwrap();
    let log = read(name, "source.jsonl");
    let (before, end) = log.trim_end().rsplit_once('\n').unwrap();
    seen["at_ns"] = serde_json::from_str::<Value>(end).unwrap()["at_ns"].clone();
    let other = serde_json::json!({
        "at_ns": seen["at_ns"], "event": "flow_purpose", "flow": seen["flow"], "purpose": "other"
    });
    format!("{before}\n{seen}\n{other}\n{end}\n")
}

#[test]
fn a_guest_that_arrives_and_leaves_again_has_two_migrations_and_neither_log_is_a_copy() {
    let directory = tempfile::tempdir().unwrap();
    let (earlier, later) = ("precopy-7.2", "multifd-2-7.2");
    for host in ["source", "destination"] {
        add_log(directory.path(), earlier, host);
        add_log(directory.path(), later, host);
    }
    let alone = merge(directory.path(), &[]);
    fs::write(directory.path().join(format!("{later} source")), with_connection_of(later, earlier)).unwrap();
    // A watch has left this.
    fs::write(directory.path().join(".migtrace-host-a.lock"), "4711\n").unwrap();
    let output = merge(directory.path(), &[]);
    assert_eq!((output.status.code(), records(&output).len()), (Some(0), 2), "{}", said(&output));
    assert_eq!(records(&output), records(&alone));
    // Also where the logs are named.
    let mut together = Command::new(env!("CARGO_BIN_EXE_migtrace"));
    together.args(["merge", "--format", "json"]);
    together.args(
        fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.to_string_lossy().ends_with(".lock")),
    );
    let together = together.output().unwrap();
    assert_eq!(values(&together.stdout), records(&alone), "{}", said(&together));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let directory = scattered(&ALL_HOSTS);
    let one = merge_by(directory.path(), &[], "1");
    for threads in ["2", "3", "8"] {
        assert_eq!(merge_by(directory.path(), &[], threads).stdout, one.stdout, "{threads} threads");
    }
}

/// What is in a folder: the content and the inode of each file.
fn files(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u64)> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    files
        .map(|file| (file.path(), (fs::read(file.path()).unwrap(), file.metadata().unwrap().ino())))
        .collect()
}

#[test]
fn files_are_written_once_and_replaced_only_when_their_records_change() {
    let directory = scattered(&["destination"]);
    let out = directory.path().join("records");
    let into_out = ["--output-directory", out.to_str().unwrap()];
    let alone = merge(directory.path(), &into_out);
    assert_eq!(alone.status.code(), Some(0), "{}", said(&alone));
    let before = files(&out);
    assert!(
        said(&alone).contains(&format!("{} new, 0 replaced, 0 as they were", before.len())),
        "{}",
        said(&alone)
    );

    // Again: nothing is touched. The records beside the logs are no logs.
    let again = merge(directory.path(), &into_out);
    assert!(
        said(&again).contains(&format!("0 new, 0 replaced, {} as they were", before.len())),
        "{}",
        said(&again)
    );
    assert_eq!(files(&out), before);

    // The other hosts' logs come: the records of one host become those of two, and none is there twice. Where addresses are
    // translated on the way, the destination alone had another id.
    add(directory.path(), "source");
    add(directory.path(), "observer");
    let all = merge(directory.path(), &into_out);
    assert_eq!(all.status.code(), Some(0), "{}", said(&all));
    let after = files(&out);
    let records = after.values().flat_map(|(content, _)| values(content)).collect();
    assert_eq!(sorted(records), expected(), "{}", said(&all));
    assert!(after.keys().all(|path| path.extension().unwrap() == "json"), "{after:?}");
}

#[test]
fn what_cannot_be_merged_is_said_once_for_each_kind_and_stops_nothing() {
    let directory = scattered(&["source", "destination"]);
    let path = directory.path();
    let log = fs::read(folder().join("precopy-7.2/source.jsonl")).unwrap();
    // Both are also copies of what their host has recorded.
    fs::write(path.join("zz-damaged"), &log[..log.len() - 10]).unwrap();
    fs::write(path.join("zz-copy"), &log).unwrap();
    for (name, content) in
        [("empty", ""), ("empty too", ""), ("notes.txt", "buy milk\n"), ("page.html", "<html>")]
    {
        fs::write(path.join(name), content).unwrap();
    }
    fs::write(path.join("20261128T000000Z_x_source.jsonl.partial"), &log).unwrap();
    let later = String::from_utf8_lossy(&log).replace("migtrace.events/1", "migtrace.events/2");
    fs::write(path.join("later.jsonl"), later).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path.join("link")).unwrap();
    // Nobody writes into it: opening it would wait for ever.
    nix::unistd::mkfifo(&path.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::copy(folder().join("precopy-7.2/record.json"), path.join("record.json")).unwrap();

    let output = merge(path, &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    let faults = [
        "2 files are empty, the first: ",
        "3 files are no event logs that this migtrace reads, the first: ",
        "1 file is still being written, and left out: ",
        "1 event log is damaged; what precedes the damage is merged: ",
        "2 event logs are left out: their hosts have others of the same connections, the first: ",
        "2 entries are links, pipes or devices, and not followed, the first: ",
    ];
    for fault in faults {
        assert_eq!(said.matches(fault).count(), 1, "{fault}: {said}");
    }
    assert_eq!(said.lines().count(), faults.len() + 1, "{said}");
    let observed = |record: &Value| record["observers"].as_array().unwrap().len() > 2;
    let without_observer: Vec<_> = expected().into_iter().filter(|record| !observed(record)).collect();
    let got: Vec<_> = sorted(records(&output));
    assert!(without_observer.iter().all(|record| got.contains(record)));
    assert_eq!(got.len(), expected().len());
}

#[test]
fn a_log_that_is_still_being_written_is_left_out_and_is_no_mistake() {
    let directory = scattered(&["source", "destination"]);
    fs::write(directory.path().join("later.jsonl.partial"), "{").unwrap();
    let output = merge(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("1 file is still being written, and left out: "), "{}", said(&output));
}

#[test]
fn a_log_of_which_a_part_is_lost_gives_what_precedes_the_damage() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = fs::read_to_string(folder().join("precopy-7.2/source.jsonl")).unwrap();
    let end = log.len() * 3 / 4;
    log.insert_str(log[..end].rfind('\n').unwrap() + 1, "garbage\n");
    fs::write(directory.path().join("a"), log).unwrap();
    let output = merge(directory.path(), &[]);
    assert_eq!((output.status.code(), records(&output).len()), (Some(1), 1), "{}", said(&output));
    assert!(said(&output).contains("not an event"), "{}", said(&output));
}

#[test]
fn only_the_migrations_of_a_vm_that_is_asked_for_are_written() {
    let directory = scattered(&ALL_HOSTS);
    let record = &values(&fs::read(folder().join("precopy-7.2/record.json")).unwrap())[0];
    for vm in ["name", "uuid"] {
        let output = merge(directory.path(), &["--vm", record["vm"][vm].as_str().unwrap()]);
        assert_eq!(records(&output), std::slice::from_ref(record), "{}", said(&output));
    }
    let output = merge(directory.path(), &["--vm", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("no migration of nobody in the "), "{}", said(&output));
}

#[test]
fn a_directory_without_logs_is_an_error_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    for (path, why) in [
        (directory.path().to_owned(), "no event log in"),
        (PathBuf::from("/no/such"), "cannot read /no/such"),
    ] {
        let output = merge(&path, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(why), "{}", said(&output));
    }
    let output = merge(directory.path(), &["--format", "html"]);
    assert!(said(&output).contains("--directory writes JSON or text"), "{}", said(&output));
    // Nothing would be sent.
    let output = merge(directory.path(), &["--otlp"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}
