//! What `migtrace record` does while it waits for a migration, and how signals, timeouts and limits end it.

use crate::support::{
    FAST, MIGRATION_PORT, PATIENCE, SLOW_MIB_PER_S, assert_recorded, network, sent_payload_bytes,
};
use migtrace_lab::migtrace_command::Recording;
use migtrace_lab::record_checks::phase_names;
use migtrace_lab::{BareQemu, process_status};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

#[test]
fn an_interrupted_wait_reports_that_no_migration_was_seen() {
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
        assert_eq!(files, 1, "only the event log remains");
    }
}

#[test]
fn a_wait_past_the_timeout_reports_that_no_migration_was_seen() {
    let lab = network();
    let started = Instant::now();
    let recorded = Recording::start(lab.source(), &["--timeout", "1s"]).unwrap().finish(PATIENCE).unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(recorded.code, Some(1));
    assert!(recorded.stderr.contains("no migration was seen within the time of --timeout"), "{recorded:?}");
}

#[test]
fn a_waiting_recording_rarely_wakes_up_and_holds_little_memory() {
    const SECONDS: u64 = 5;
    let lab = network();
    let recording = Recording::start(lab.source(), &[]).unwrap();
    let wake_ups_so_far = || process_status(recording.pid(), "voluntary_ctxt_switches").unwrap();
    let before = wake_ups_so_far();
    std::thread::sleep(Duration::from_secs(SECONDS));
    // The checks of each second take two or three.
    let wake_ups = wake_ups_so_far() - before;
    assert!(wake_ups <= 8 * SECONDS, "it woke up {wake_ups} times in {SECONDS} s");
    let own_kib = process_status(recording.pid(), "RssAnon").unwrap();
    assert!(own_kib <= 6 << 10, "it holds {own_kib} KiB");
    recording.signal(Signal::SIGINT).unwrap();
    recording.finish(PATIENCE).unwrap();
}

#[test]
fn an_interrupted_recording_reports_the_migration_so_far() {
    let lab = network();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let (mut source, destination) = BareQemu::pair(&lab, "halfway", MIGRATION_PORT).unwrap();
        let recording = Recording::start(lab.source(), &[]).unwrap();
        source.migrate(lab.destination().ipv4(), MIGRATION_PORT, SLOW_MIB_PER_S).unwrap();
        source.wait_for_status("active", PATIENCE).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        recording.signal(signal).unwrap();
        let recorded = recording.finish(PATIENCE).unwrap();
        let record = assert_recorded(&recorded, 3);
        assert_eq!(record["migration"]["outcome"], "interrupted");
        assert_eq!(phase_names(&record), ["setup", "active 1"]);
        let sent = sent_payload_bytes(&record);
        assert!((1 << 20..12 << 20).contains(&sent), "{sent}");
        drop((source, destination));
    }
}

#[test]
fn a_migration_that_outlasts_the_timeout_is_reported_as_interrupted() {
    let lab = network();
    let (mut source, _destination) = BareQemu::pair(&lab, "slow", MIGRATION_PORT).unwrap();
    let recording = Recording::start(lab.source(), &["--timeout", "1s"]).unwrap();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, SLOW_MIB_PER_S).unwrap();
    let record = assert_recorded(&recording.finish(PATIENCE).unwrap(), 3);
    assert_eq!(record["migration"]["outcome"], "interrupted");
}

#[test]
fn a_migration_that_exceeds_a_limit_has_an_exit_code_of_its_own() {
    let lab = network();
    // The source alone knows only a lower bound of the stop, and nothing of the reachability: neither can meet a limit.
    let limits =
        [("--max-total", "1ms"), ("--max-total", "1m"), ("--max-stop", "1m"), ("--max-reachability", "1m")];
    for ((option, limit), code) in limits.into_iter().zip([4, 0, 4, 4]) {
        let (mut source, _destination) = BareQemu::pair(&lab, "limited", MIGRATION_PORT).unwrap();
        let recording = Recording::start(lab.source(), &[option, limit]).unwrap();
        source.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
        let recorded = recording.finish(PATIENCE).unwrap();
        assert_recorded(&recorded, code);
        assert_eq!(recorded.stderr.contains(option), code == 4, "{}", recorded.stderr);
    }
}
