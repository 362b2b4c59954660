//! What `migtrace record` does while it waits, and how it ends: migrations of QEMUs without an operating system.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

use migtrace_lab::migtrace_command::{self, Recorded, Recording};
use migtrace_lab::record_checks::{assert_consistent, assert_replays, not_measured, phase_names};
use migtrace_lab::{BareQemu, Lab, process_status};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(15);
const PORT: u16 = 49152;
/// The 16 MiB of a guest take two seconds at this rate: long enough to be in the middle of it.
const SLOW_MIB_PER_S: u64 = 8;
const FAST: u64 = 0;

fn network() -> Lab {
    Lab::builder().without_guests().start().unwrap()
}

/// Checks that a recording ended with this code, and that its log replays into its record.
fn check(recorded: &Recorded, code: i32) -> Value {
    assert_eq!(recorded.code, Some(code), "{}", recorded.stderr);
    let record = assert_replays(recorded);
    let last = recorded.events().unwrap().pop().unwrap();
    assert_eq!(last["event"], "log_end");
    record
}

#[test]
fn an_interrupted_wait_has_seen_nothing_and_says_so() {
    let lab = network();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let recording = Recording::start(lab.source(), &[]).unwrap();
        recording.signal(signal).unwrap();
        let recorded = recording.finish(PATIENCE).unwrap();
        assert_eq!(recorded.code, Some(1), "{}", recorded.stderr);
        assert!(
            recorded.stderr.contains("no migration was seen before the recording was interrupted"),
            "{recorded:?}"
        );
        assert_eq!(recorded.events().unwrap().pop().unwrap()["reason"], "interrupted");
        let files = std::fs::read_dir(recorded.directory()).unwrap().count();
        assert_eq!(files, 1, "only the event log is left");
    }
}

#[test]
fn a_wait_that_takes_too_long_has_seen_nothing_and_says_so() {
    let lab = network();
    let started = Instant::now();
    let recorded = Recording::start(lab.source(), &["--timeout", "1s"]).unwrap().finish(PATIENCE).unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(recorded.code, Some(1));
    assert!(recorded.stderr.contains("no migration was seen within the time of --timeout"), "{recorded:?}");
}

#[test]
fn while_nothing_happens_it_sleeps_and_keeps_little_memory() {
    const SECONDS: u64 = 5;
    let lab = network();
    let recording = Recording::start(lab.source(), &[]).unwrap();
    let slept = || process_status(recording.pid(), "voluntary_ctxt_switches").unwrap();
    let before = slept();
    std::thread::sleep(Duration::from_secs(SECONDS));
    // What is looked at every second takes two or three.
    let wake_ups = slept() - before;
    assert!(wake_ups <= 8 * SECONDS, "it woke up {wake_ups} times in {SECONDS} s");
    let own_kib = process_status(recording.pid(), "RssAnon").unwrap();
    assert!(own_kib <= 6 << 10, "it keeps {own_kib} KiB");
    recording.signal(Signal::SIGINT).unwrap();
    recording.finish(PATIENCE).unwrap();
}

#[test]
fn an_interrupted_recording_tells_what_it_has_seen() {
    let lab = network();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let (mut source, destination) = BareQemu::pair(&lab, "halfway", PORT).unwrap();
        let recording = Recording::start(lab.source(), &[]).unwrap();
        source.migrate(lab.destination().ipv4(), PORT, SLOW_MIB_PER_S).unwrap();
        source.wait_for_status("active", PATIENCE).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        recording.signal(signal).unwrap();
        let recorded = recording.finish(PATIENCE).unwrap();
        let record = check(&recorded, 3);
        assert_eq!(record["migration"]["outcome"], "interrupted");
        assert_eq!(phase_names(&record), ["setup", "active 1"]);
        let sent = record["traffic"]["total"]["tx"]["payload_bytes"].as_u64().unwrap();
        assert!((1 << 20..12 << 20).contains(&sent), "{sent}");
        drop((source, destination));
    }
}

#[test]
fn a_migration_that_outlasts_the_timeout_is_told_as_far_as_it_went() {
    let lab = network();
    let (mut source, _destination) = BareQemu::pair(&lab, "slow", PORT).unwrap();
    let recording = Recording::start(lab.source(), &["--timeout", "1s"]).unwrap();
    source.migrate(lab.destination().ipv4(), PORT, SLOW_MIB_PER_S).unwrap();
    let record = check(&recording.finish(PATIENCE).unwrap(), 3);
    assert_eq!(record["migration"]["outcome"], "interrupted");
}

#[test]
fn a_migration_that_took_too_long_is_told_by_the_exit_code() {
    let lab = network();
    // Of the stop the source alone knows how long it was at least, of the reachability nothing: that meets no limit.
    let limits =
        [("--max-total", "1ms"), ("--max-total", "1m"), ("--max-stop", "1m"), ("--max-reachability", "1m")];
    for ((option, limit), code) in limits.into_iter().zip([4, 0, 4, 4]) {
        let (mut source, _destination) = BareQemu::pair(&lab, "limited", PORT).unwrap();
        let recording = Recording::start(lab.source(), &[option, limit]).unwrap();
        source.migrate(lab.destination().ipv4(), PORT, FAST).unwrap();
        let recorded = recording.finish(PATIENCE).unwrap();
        check(&recorded, code);
        assert_eq!(recorded.stderr.contains(option), code == 4, "{}", recorded.stderr);
    }
}

#[test]
fn a_migration_that_has_begun_before_is_picked_up_and_what_was_missed_is_said() {
    let lab = network();
    let (mut source, _destination) = BareQemu::pair(&lab, "underway", PORT).unwrap();
    source.migrate(lab.destination().ipv4(), PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &[]).unwrap());
    source.wait_for_status("completed", PATIENCE).unwrap();
    let [source, destination] = recordings.map(|recording| check(&recording.finish(PATIENCE).unwrap(), 0));
    for record in [&source, &destination] {
        assert_eq!(record["start"]["seen"], false);
        assert_eq!(record["traffic"]["flows"][0]["from_start"], false);
        assert_eq!(record["vm"]["name"], "underway");
        let why = not_measured(record);
        assert!(why.contains("had begun before the recording"), "{why}");
        assert!(why.contains("first bytes of"), "{why}");
    }
    assert_eq!(source["migration"]["outcome"], "completed");
    assert_eq!(phase_names(&source).last().unwrap(), "completed");
    // Since the recordings began, both hosts have seen the same, but for what crossed between their beginnings.
    let sent = |record: &Value| record["traffic"]["total"]["tx"]["payload_bytes"].as_u64().unwrap();
    assert!(
        sent(&source) < 20 << 20 && sent(&destination) <= sent(&source),
        "{} {}",
        sent(&source),
        sent(&destination)
    );
}

#[test]
fn a_qemu_that_starts_after_the_recording_is_traced_on_either_side() {
    let lab = network();
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &[]).unwrap());
    let (mut source, _destination) = BareQemu::pair(&lab, "late", PORT).unwrap();
    source.migrate(lab.destination().ipv4(), PORT, FAST).unwrap();
    let [source, destination] = recordings.map(|recording| check(&recording.finish(PATIENCE).unwrap(), 0));
    for (record, role) in [(&source, "source"), (&destination, "destination")] {
        assert_eq!(record["vm"]["name"], "late");
        // Asked of the binary when the first one was seen, beside the reading of the kernel's events.
        assert!(record["qemu"]["version"].is_string(), "{record:#}");
        assert_eq!(record["observers"][0]["role"], role);
        assert_eq!(record["start"]["seen"], true);
        assert_eq!(record["migration"]["outcome"], "completed", "{record:#}");
    }
}

#[test]
fn of_two_migrations_at_once_the_selected_one_is_told() {
    let lab = network();
    let mut web = BareQemu::start(lab.source(), "web").unwrap();
    let mut db = BareQemu::start(lab.source(), "db").unwrap();
    let _web = BareQemu::incoming(lab.destination(), "web", PORT).unwrap();
    let _db = BareQemu::incoming(lab.destination(), "db", PORT + 1).unwrap();
    let by_name = Recording::start(lab.source(), &["--vm", "db"]).unwrap();
    let by_pid = Recording::start(lab.source(), &["--pid", &web.pid().to_string()]).unwrap();
    db.migrate(lab.destination().ipv4(), PORT + 1, SLOW_MIB_PER_S).unwrap();
    web.migrate(lab.destination().ipv4(), PORT, FAST).unwrap();

    let [by_pid, by_name] = [by_pid, by_name].map(|recording| recording.finish(PATIENCE).unwrap());
    let [of_web, of_db] = [&by_pid, &by_name].map(|recorded| {
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        let record = recorded.record().unwrap();
        assert_consistent(&record);
        record
    });
    for (record, name, port) in [(&of_web, "web", PORT), (&of_db, "db", PORT + 1)] {
        assert_eq!(record["vm"]["name"], name);
        let flows = record["traffic"]["flows"].as_array().unwrap();
        assert_eq!(flows.len(), 1, "{flows:?}");
        assert!(flows[0]["remote"].as_str().unwrap().ends_with(&format!(":{port}")), "{flows:?}");
        let sent = record["traffic"]["total"]["tx"]["payload_bytes"].as_u64().unwrap();
        assert!((16 << 20..20 << 20).contains(&sent), "{sent}");
    }
    // The log holds the other one too.
    let log = by_name.events_path();
    let report = |vm: &str| {
        let mut report = migtrace_command::command(&["report", "--format", "json", "--vm", vm]).unwrap();
        String::from_utf8(report.arg(&log).output().unwrap().stdout).unwrap()
    };
    assert_eq!(report("db"), by_name.json);
    assert!(report("web").contains("\"web\""));
}

#[test]
fn the_first_migration_that_ends_is_the_one_that_was_waited_for_and_the_log_keeps_all() {
    let lab = network();
    let (mut source, destination) = BareQemu::pair(&lab, "again", PORT).unwrap();
    let recording = Recording::start(lab.source(), &["--timeout", "30s"]).unwrap();
    source.migrate(lab.destination().ipv4(), PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    source.qmp().execute("migrate_cancel", json!({})).unwrap();
    source.wait_for_status("cancelled", PATIENCE).unwrap();
    let record = check(&recording.finish(PATIENCE).unwrap(), 3);
    assert_eq!(record["migration"]["outcome"], "cancelled");
    drop(destination);

    // A recording that is begun now is about the second.
    let _destination = BareQemu::incoming(lab.destination(), "again", PORT).unwrap();
    let recording = Recording::start(lab.source(), &[]).unwrap();
    source.migrate(lab.destination().ipv4(), PORT, FAST).unwrap();
    let record = check(&recording.finish(PATIENCE).unwrap(), 0);
    assert_eq!(record["migration"]["outcome"], "completed");
    assert_eq!(record["start"]["seen"], true);
}

#[test]
fn a_destination_that_is_killed_makes_the_migration_fail() {
    let lab = network();
    let (mut source, destination) = BareQemu::pair(&lab, "orphan", PORT).unwrap();
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &[]).unwrap());
    source.migrate(lab.destination().ipv4(), PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let pid = destination.pid();
    drop(destination);
    let [source, destination] = recordings.map(|recording| check(&recording.finish(PATIENCE).unwrap(), 3));
    for record in [&source, &destination] {
        assert_eq!(record["migration"]["outcome"], "failed");
        assert_eq!(phase_names(record).last().unwrap(), "failed");
    }
    let error = destination["migration"]["error"].as_str().unwrap();
    assert!(error.contains(&pid.to_string()), "{error}");
}

#[test]
fn a_destination_that_is_killed_before_its_guest_ran_has_failed_without_events_too() {
    let lab = network();
    let mut source = BareQemu::start(lab.source(), "mute").unwrap();
    let destination = BareQemu::incoming_silently(lab.destination(), "mute", PORT).unwrap();
    let recording = Recording::start(lab.destination(), &[]).unwrap();
    source.migrate(lab.destination().ipv4(), PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(destination);
    let record = check(&recording.finish(PATIENCE).unwrap(), 3);
    assert_eq!(record["migration"]["outcome"], "failed");
    assert_eq!(phase_names(&record), ["transfer"]);
}

/// A migration to a guest that is not let run, until its destination has said that it is complete.
fn arrive_paused(lab: &Lab, name: &str, destination: &mut BareQemu) -> BareQemu {
    let mut source = BareQemu::start(lab.source(), name).unwrap();
    source.migrate(lab.destination().ipv4(), PORT, FAST).unwrap();
    destination.wait_for_status("completed", PATIENCE).unwrap();
    source
}

fn marks(record: &Value) -> Vec<&str> {
    record["downtime"]["marks"].as_array().unwrap().iter().filter_map(|mark| mark["name"].as_str()).collect()
}

#[test]
fn a_guest_that_is_let_run_seconds_after_its_arrival_is_waited_for() {
    const LATE: Duration = Duration::from_secs(3);
    let lab = network();
    let mut destination = BareQemu::incoming_paused(lab.destination(), "late", PORT).unwrap();
    let recording = Recording::start(lab.destination(), &[]).unwrap();
    let _source = arrive_paused(&lab, "late", &mut destination);
    std::thread::sleep(LATE);
    destination.resume().unwrap();
    let resumed = Instant::now();
    let record = check(&recording.finish(PATIENCE).unwrap(), 0);
    assert!(resumed.elapsed() < Duration::from_secs(4), "it settles as any other: {:?}", resumed.elapsed());
    assert_eq!(record["migration"]["outcome"], "completed");
    assert_eq!(record["observers"][0]["role"], "destination");
    let marks = record["downtime"]["marks"].as_array().unwrap();
    let at_ns = |name: &str| {
        let mark = marks.iter().find(|mark| mark["name"] == name);
        mark.unwrap_or_else(|| panic!("no {name}: {marks:?}"))["at_ns"].as_i64().unwrap()
    };
    let late_ns = at_ns("resume") - at_ns("completed");
    assert!((3_000_000_000..8_000_000_000).contains(&late_ns), "{late_ns}");
    // This is the side where the guest runs again; when it stopped, the source knows.
    assert!(not_measured(&record).contains("the guest stops on the source"), "{}", not_measured(&record));
    assert!(!not_measured(&record).contains("did not run within"), "{}", not_measured(&record));
}

#[test]
fn a_destination_that_is_killed_before_its_guest_is_let_run_ends_the_wait_at_once() {
    let lab = network();
    let mut destination = BareQemu::incoming_paused(lab.destination(), "shot", PORT).unwrap();
    let mut recording = Recording::start(lab.destination(), &[]).unwrap();
    let _source = arrive_paused(&lab, "shot", &mut destination);
    std::thread::sleep(Duration::from_secs(2));
    assert!(recording.try_wait().unwrap().is_none(), "it waits for the guest");
    drop(destination);
    let killed = Instant::now();
    let record = check(&recording.finish(PATIENCE).unwrap(), 0);
    assert!(killed.elapsed() < Duration::from_secs(4), "it takes {:?} to be noticed", killed.elapsed());
    assert_eq!(record["migration"]["outcome"], "completed");
    assert!(!marks(&record).contains(&"resume"), "{record:#}");
}

#[test]
fn a_signal_ends_the_wait_for_a_guest_at_once_and_the_record_says_that_it_did_not_run() {
    let lab = network();
    let mut destination = BareQemu::incoming_paused(lab.destination(), "paused", PORT).unwrap();
    let mut recording = Recording::start(lab.destination(), &[]).unwrap();
    let _source = arrive_paused(&lab, "paused", &mut destination);
    std::thread::sleep(Duration::from_secs(2));
    assert!(recording.try_wait().unwrap().is_none(), "it waits for the guest");
    recording.signal(Signal::SIGTERM).unwrap();
    let signalled = Instant::now();
    let record = check(&recording.finish(PATIENCE).unwrap(), 0);
    assert!(signalled.elapsed() < Duration::from_secs(2), "{:?}", signalled.elapsed());
    assert_eq!(record["migration"]["outcome"], "completed");
    let why = not_measured(&record);
    assert!(why.contains("the guest did not run within 2."), "{why}");
}

#[test]
fn a_source_that_is_killed_has_failed() {
    let lab = network();
    let (mut source, _destination) = BareQemu::pair(&lab, "victim", PORT).unwrap();
    let recording = Recording::start(lab.source(), &["--vm", "victim"]).unwrap();
    source.migrate(lab.destination().ipv4(), PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(source);
    let started = Instant::now();
    let record = check(&recording.finish(PATIENCE).unwrap(), 3);
    assert!(started.elapsed() < Duration::from_secs(5), "it takes {:?} to be noticed", started.elapsed());
    assert_eq!(record["migration"]["outcome"], "failed");
    assert_eq!(record["vm"]["name"], "victim");
}

#[test]
fn what_qemu_claims_stands_beside_what_was_measured() {
    let lab = network();
    let (mut source, _destination) = BareQemu::pair(&lab, "asked", PORT).unwrap();
    let spare = source.spare_qmp_socket();
    let recording = Recording::start(lab.source(), &["--qmp", spare.to_str().unwrap()]).unwrap();
    source.migrate(lab.destination().ipv4(), PORT, FAST).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    let record = check(&recorded, 0);
    let claimed = &record["qemu"]["stats"];
    assert_eq!(claimed["status"], "completed");
    let transferred = claimed["ram"]["transferred"].as_u64().unwrap();
    let sent = record["traffic"]["total"]["tx"]["payload_bytes"].as_u64().unwrap();
    assert!(transferred > 16 << 20 && sent >= transferred, "{sent} {transferred}");
    let downtime_ms = claimed["downtime"].as_u64().unwrap();
    assert_eq!(record["downtime"]["qemu_reported_ns"], downtime_ms * 1_000_000);
    // Both monitors are told of the stop.
    let stops = record["downtime"]["marks"].as_array().unwrap().iter().filter(|mark| mark["name"] == "stop");
    assert_eq!(stops.count(), 1, "{record:#}");
    assert_eq!(record["downtime"]["budget_ns"], 300_000_000, "{record:#}");
}

#[test]
fn a_monitor_that_is_taken_is_refused_at_once() {
    let lab = network();
    let source = BareQemu::start(lab.source(), "busy").unwrap();
    let socket = source.qmp_socket();
    let started = Instant::now();
    let said = migtrace_command::run(lab.source(), &["record", "--qmp", socket.to_str().unwrap()]).unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("in use by another client"), "{said:?}");
    assert!(said.stderr.contains(socket.to_str().unwrap()), "{said:?}");
    assert!(!said.stderr.contains("ready"), "{said:?}");
}
