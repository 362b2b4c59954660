//! What goes wrong beside the migrations: full disks, killed watches, directories that are in use or gone.

use super::{SmallDisk, directory, replayed, wait_for, whole_pairs};
use crate::support::{FAST, MIGRATION_PORT, PATIENCE, network};
use migtrace_lab::watch_command::{Watch, file_names, pairs, wait_for_pairs};
use migtrace_lab::{BareQemu, Lab, migtrace_command};
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// QEMU's bandwidth limit for a migration during which a watch is killed and the next one begins.
const VERY_SLOW_MIB_PER_S: u64 = 2;

/// A log of a migration.
const LOG: &str = include_str!("../../../../migtrace/tests/logs/destination-10.0.jsonl");

/// Two QEMUs of a VM, the first of which has begun to migrate to the second.
fn migrating(lab: &Lab, name: &str, port: u16, mib_per_s: u64) -> (BareQemu, BareQemu) {
    let destination = BareQemu::incoming(lab.destination(), name, port).unwrap();
    let mut source = BareQemu::start(lab.source(), name).unwrap();
    source.migrate(lab.destination().ipv4(), port, mib_per_s).unwrap();
    (source, destination)
}

fn logs_with(directory: &Path, text: &str) -> usize {
    let names = file_names(directory).unwrap_or_default();
    let has = |name: &&String| fs::read_to_string(directory.join(name)).is_ok_and(|log| log.contains(text));
    names.iter().filter(|name| name.ends_with(".partial")).filter(has).count()
}

#[test]
fn a_killed_watch_loses_nothing_that_was_seen_and_the_next_one_says_so() {
    let lab = network();
    let folder = directory();
    let path = folder.path();
    let watch = Watch::start(lab.source(), path, &[]).unwrap();
    let mut guests = [("one", 0), ("two", 1)]
        .map(|(name, number)| migrating(&lab, name, MIGRATION_PORT + number, VERY_SLOW_MIB_PER_S));
    wait_for("both logs have counters", || logs_with(path, "\"flow_counters\"") == 2);
    watch.signal(Signal::SIGKILL).unwrap();
    assert_eq!(watch.finish(PATIENCE).unwrap().code, None);
    let left: Vec<_> =
        file_names(path).unwrap().into_iter().filter(|name| name.ends_with(".partial")).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    let contents: Vec<_> = left.iter().map(|name| fs::read_to_string(path.join(name)).unwrap()).collect();

    let mut command = migtrace_command::command(&["watch", "--directory"]).unwrap();
    command.arg(path);
    let mut next = Watch::begin(lab.source(), command).unwrap();
    next.wait_until_said("ready", PATIENCE).unwrap();
    for _ in &left {
        next.wait_until_said("a killed run left it", PATIENCE).unwrap();
    }
    let found = wait_for_pairs(path, 2, Duration::ZERO);
    let is_partial = |name: &String| name.ends_with(".partial");
    // The migrations go on, and the next watch may have begun their logs by now.
    let found = found.or_else(|error| file_names(path)?.iter().any(is_partial).then(Vec::new).ok_or(error));
    for pair in found.unwrap() {
        assert!(contents.contains(&fs::read_to_string(&pair.log).unwrap()), "the log is as it was");
        assert_eq!(pair.record["migration"]["outcome"], "interrupted");
        assert_eq!(replayed(&pair).0, pair.json);
    }
    for (source, _) in &mut guests {
        source.wait_for_status("completed", PATIENCE).unwrap();
    }
    let pairs = wait_for_pairs(path, 4, PATIENCE).unwrap();
    let outcome =
        |outcome: &str| pairs.iter().filter(|pair| pair.record["migration"]["outcome"] == outcome).count();
    assert_eq!((outcome("interrupted"), outcome("completed")), (2, 2));
    for pair in pairs.iter().filter(|pair| pair.record["migration"]["outcome"] == "completed") {
        assert_eq!(pair.record["start"]["seen"], false, "the rest of it: {}", pair.name);
    }
    assert_eq!(next.stop(PATIENCE).unwrap().code, Some(0));
}

/// A log that takes a second or more to read.
fn write_long_log(path: &Path) {
    let mut log = LOG.to_owned();
    for number in 0..400_000_u64 {
        let at_ns = 1_002_800_000_000 + number;
        writeln!(log, r#"{{"at_ns":{at_ns},"event":"clock","offset_ns":1800000000000000000,"error_ns":60}}"#)
            .unwrap();
    }
    fs::write(path, log).unwrap();
}

#[test]
fn a_long_log_of_a_killed_watch_holds_up_neither_the_start_nor_the_end() {
    let lab = network();
    let folder = directory();
    let name = "20200101T000000.000Z-6f1c2a34-8a51-5a0f-9d6c-0c2b6f1f2d11-destination.jsonl";
    let path = folder.path().join(name);
    write_long_log(&path);
    let length = fs::metadata(&path).unwrap().len();
    let watch = Watch::start(lab.source(), folder.path(), &["--keep", "14d"]).unwrap();
    let watched = watch.stop(PATIENCE).unwrap();
    assert_eq!(watched.code, Some(0), "{}", watched.stderr);
    let left = "1 log that a killed run left is still to be read: the next watch into this directory does it";
    assert!(watched.stderr.contains(left), "{}", watched.stderr);
    // Though it is old, it stays, as it was.
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    assert!(!path.with_extension("json").exists());
    let mut next = Watch::start(lab.source(), folder.path(), &[]).unwrap();
    let said = next.wait_until_said("a killed run left it; it is ", PATIENCE).unwrap();
    assert!(said.ends_with("-destination now"), "{said}");
    assert_eq!(pairs(folder.path()).unwrap().len(), 1);
    assert_eq!(next.stop(PATIENCE).unwrap().code, Some(0));
}

#[test]
fn a_second_watch_on_a_directory_is_refused_and_one_on_another_is_not() {
    let lab = network();
    let (folder, other) = (directory(), directory());
    let first = Watch::start(lab.source(), folder.path(), &[]).unwrap();
    let path = folder.path().to_str().unwrap();
    let refused = migtrace_command::run(lab.source(), &["watch", "--directory", path]).unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let expected = format!("another migtrace (pid {}) watches into ", first.pid());
    assert!(refused.stderr.contains(&expected) && refused.stderr.lines().count() == 1, "{refused:?}");
    let second = Watch::start(lab.source(), other.path(), &[]).unwrap();
    let (mut source, _destination) = migrating(&lab, "both", MIGRATION_PORT, FAST);
    source.wait_for_status("completed", PATIENCE).unwrap();
    for (watch, folder) in [(first, folder), (second, other)] {
        whole_pairs(folder.path(), 1);
        assert_eq!(watch.stop(PATIENCE).unwrap().code, Some(0));
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_before_anything_is_attached() {
    let lab = network();
    let folder = directory();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for bad in [file, folder.path().join("no/such"), Path::new("/proc").to_owned()] {
        let refused =
            migtrace_command::run(lab.source(), &["watch", "--directory", bad.to_str().unwrap()]).unwrap();
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(
            refused.stderr.contains(bad.to_str().unwrap()) && !refused.stderr.contains("counting"),
            "{refused:?}"
        );
    }
}

#[test]
fn a_full_disk_costs_files_and_never_a_line() {
    let lab = network();
    let disk = SmallDisk::mount(512);
    let path = disk.path();
    let textfile = path.join("migtrace.prom");
    let mut watch = Watch::start(lab.source(), path, &["--textfile", textfile.to_str().unwrap()]).unwrap();
    let has_begun = |text: &str| text.contains("\nmigtrace_textfile_writes_total 1\n");
    wait_for("the textfile", || has_begun(&fs::read_to_string(&textfile).unwrap()));
    let before = fs::read_to_string(&textfile).unwrap();
    let filler = path.join("filler");
    let _ = fs::write(&filler, vec![0; 1 << 20]);
    for number in 0..2 {
        let (mut source, _destination) = migrating(&lab, "full", MIGRATION_PORT, FAST);
        source.wait_for_status("completed", PATIENCE).unwrap();
        assert!(watch.next_line(PATIENCE).unwrap().contains("completed"), "{number}");
    }
    watch.wait_until_said("No space left on device", PATIENCE).unwrap();
    assert_eq!(fs::read_to_string(&textfile).unwrap(), before, "an earlier file stays");
    fs::remove_file(&filler).unwrap();
    let (mut source, _destination) = migrating(&lab, "room", MIGRATION_PORT, FAST);
    source.wait_for_status("completed", PATIENCE).unwrap();
    assert!(watch.next_line(PATIENCE).unwrap().contains("completed"));
    wait_for("the pair of the third", || {
        let names = file_names(path).unwrap();
        names.iter().filter(|name| name.ends_with(".json") || name.ends_with(".jsonl")).count() == 2
    });
    // What could not be written is counted where it can be written again.
    let failures = |what: &str| {
        let text = fs::read_to_string(&textfile).unwrap();
        let start = format!("migtrace_failures_total{{what=\"{what}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok())
    };
    wait_for("the textfile", || failures("record") == Some(2) && failures("textfile") >= Some(2));
    let watched = watch.stop(PATIENCE).unwrap();
    assert_eq!(watched.code, Some(0), "{}", watched.stderr);
    let summary = watched.stderr.lines().last().unwrap();
    assert!(summary.starts_with("3 migrations (3 completed)"), "{summary}");
    assert!(summary.contains("records not written: 2"), "{summary}");
    let said = watched.stderr.matches("No space left on device").count();
    assert!(said <= 4, "each cause once: {}", watched.stderr);
}

#[test]
fn a_directory_that_is_removed_ends_nothing() {
    let lab = network();
    let folder = directory();
    let path = folder.path().join("records");
    let mut watch = Watch::start(lab.source(), &path, &[]).unwrap();
    fs::remove_dir_all(&path).unwrap();
    let (mut source, _destination) = migrating(&lab, "gone", MIGRATION_PORT, FAST);
    source.wait_for_status("completed", PATIENCE).unwrap();
    assert!(watch.next_line(PATIENCE).unwrap().contains("completed"));
    watch.wait_until_said("No such file or directory", PATIENCE).unwrap();
    // Somebody makes it anew.
    fs::create_dir(&path).unwrap();
    watch.signal(Signal::SIGHUP).unwrap();
    let (mut source, _destination) = migrating(&lab, "there", MIGRATION_PORT + 1, FAST);
    source.wait_for_status("completed", PATIENCE).unwrap();
    assert_eq!(whole_pairs(&path, 1)[0].record["vm"]["name"], "there");
    assert_eq!(watch.stop(PATIENCE).unwrap().code, Some(0));
}
