//! Signals.

use super::{directory, replayed, wait_for, whole_pairs};
use crate::support::{FAST, MIGRATION_PORT, PATIENCE, SLOW_MIB_PER_S, network};
use migtrace_lab::watch_command::{Watch, file_names, wait_for_pairs};
use migtrace_lab::{BareQemu, Lab, migtrace_command};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a file for node_exporter says while a migration leaves.
const RUNNING: &str = "migtrace_running_migrations{role=\"source\"} 1\n";

fn migrating(lab: &Lab, name: &str, mib_per_s: u64) -> (BareQemu, BareQemu) {
    let destination = BareQemu::incoming(lab.destination(), name, MIGRATION_PORT).unwrap();
    let mut source = BareQemu::start(lab.source(), name).unwrap();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, mib_per_s).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    (source, destination)
}

fn wait_for_log(directory: &Path) {
    wait_for("a log", || file_names(directory).unwrap().iter().any(|name| name.ends_with(".partial")));
}

#[test]
fn a_migration_that_is_under_way_is_waited_for() {
    let lab = network();
    let folder = directory();
    let mut watch = Watch::start(lab.source(), folder.path(), &[]).unwrap();
    let (mut source, _destination) = migrating(&lab, "awaited", SLOW_MIB_PER_S);
    wait_for_log(folder.path());
    watch.signal(Signal::SIGTERM).unwrap();
    watch.wait_until_said("waiting up to 30 s for 1 migration that is under way", PATIENCE).unwrap();
    source.wait_for_status("completed", PATIENCE).unwrap();
    let watched = watch.finish(PATIENCE).unwrap();
    assert_eq!((watched.code, watched.lines.len()), (Some(0), 1), "{}", watched.stderr);
    assert_eq!(whole_pairs(folder.path(), 1)[0].record["migration"]["outcome"], "completed");
}

#[test]
fn the_grace_or_another_signal_ends_the_wait() {
    for (grace, signals) in [("1s", 1), ("60s", 2)] {
        let lab = network();
        let folder = directory();
        let metrics = directory();
        let textfile = metrics.path().join("migtrace.prom");
        let options = ["--grace", grace, "--textfile", textfile.to_str().unwrap()];
        let mut watch = Watch::start(lab.source(), folder.path(), &options).unwrap();
        // It is written again, although nothing has happened.
        let says = |text: &str| fs::read_to_string(&textfile).unwrap().contains(text);
        wait_for("another textfile", || says("\nmigtrace_textfile_writes_total 1\n"));
        let (_source, _destination) = migrating(&lab, "cut", 1);
        wait_for("the migration in the textfile", || says(RUNNING));
        let begun = Instant::now();
        watch.signal(Signal::SIGINT).unwrap();
        watch.wait_until_said("under way; another signal ends the wait", PATIENCE).unwrap();
        for _ in 1..signals {
            watch.signal(Signal::SIGTERM).unwrap();
        }
        let watched = watch.finish(Duration::from_secs(10)).unwrap();
        assert_eq!(watched.code, Some(0), "{}", watched.stderr);
        assert!(begun.elapsed() < Duration::from_secs(8));
        let pairs = wait_for_pairs(folder.path(), 1, Duration::ZERO).unwrap();
        assert_eq!(pairs[0].record["migration"]["outcome"], "interrupted");
        assert_eq!(replayed(&pairs[0]), (pairs[0].json.clone(), Some(0)));
        assert!(watched.stderr.ends_with("1 migration (1 interrupted)\n"), "{}", watched.stderr);
        let left = fs::read_to_string(&textfile).unwrap();
        assert!(!left.contains(RUNNING) && !left.contains("migtrace_live_"), "{left}");
    }
}

#[test]
fn a_rotated_file_is_opened_anew() {
    let lab = network();
    let folder = directory();
    let (lines, rotated) = (folder.path().join("lines"), folder.path().join("lines.1"));
    let records = folder.path().join("records");
    fs::write(&lines, "earlier\n").unwrap();
    let watch = Watch::start(lab.source(), &records, &["--output", lines.to_str().unwrap()]).unwrap();
    for (number, name) in ["before", "after"].into_iter().enumerate() {
        let (mut source, _destination) = migrating(&lab, name, FAST);
        source.wait_for_status("completed", PATIENCE).unwrap();
        whole_pairs(&records, number + 1);
        if number == 0 {
            fs::rename(&lines, &rotated).unwrap();
            watch.signal(Signal::SIGHUP).unwrap();
        }
    }
    let watched = watch.stop(PATIENCE).unwrap();
    assert_eq!((watched.code, watched.lines.len()), (Some(0), 0), "{}", watched.stderr);
    let [old, new] = [&rotated, &lines].map(|path| fs::read_to_string(path).unwrap());
    assert!(old.starts_with("earlier\n") && old.contains("before") && old.lines().count() == 2, "{old}");
    assert!(new.contains("after") && new.lines().count() == 1, "{new}");
}

#[test]
fn old_pairs_are_removed_and_other_files_are_not() {
    let lab = network();
    let folder = directory();
    let old = "20200101T000000.000Z-6f1c2a34-8a51-5a0f-9d6c-0c2b6f1f2d11-source";
    for name in [&format!("{old}.json"), &format!("{old}.jsonl"), "notes.json"] {
        fs::write(folder.path().join(name), "{}").unwrap();
    }
    let watch = Watch::start(lab.source(), folder.path(), &["--keep", "14d,1GiB"]).unwrap();
    let (mut source, _destination) = migrating(&lab, "kept", FAST);
    source.wait_for_status("completed", PATIENCE).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let names = || file_names(folder.path()).unwrap();
    while names().iter().any(|name| name.starts_with(old) || name.ends_with(".partial")) {
        assert!(Instant::now() < deadline, "{:?}", names());
        std::thread::sleep(Duration::from_millis(50));
    }
    let watched = watch.stop(PATIENCE).unwrap();
    assert!(watched.stderr.contains("old pairs removed: 1"), "{}", watched.stderr);
    assert!(names().contains(&"notes.json".to_owned()), "{:?}", names());
    assert_eq!(names().len(), 4, "{:?}", names());
}

#[test]
fn a_service_manager_is_told_when_it_is_ready_and_when_it_ends() {
    let lab = network();
    let folder = directory();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = migtrace_command::command(&["watch"]).unwrap();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    let watch = Watch::begin(lab.source(), command).unwrap();
    let next = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(next().trim(), "READY=1");
    assert_eq!(next().trim(), "WATCHDOG=1");
    assert_eq!(next().trim(), "WATCHDOG=1");
    watch.signal(Signal::SIGTERM).unwrap();
    while next().trim() != "STOPPING=1" {}
    assert_eq!(watch.finish(PATIENCE).unwrap().code, Some(0));
}
