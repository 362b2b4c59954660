//! Migrations in which a QEMU is killed, or whose guest stays paused on the destination.

use crate::support::{FAST, MIGRATION_PORT, PATIENCE, SLOW_MIB_PER_S, assert_recorded, network};
use migtrace_lab::migtrace_command::Recording;
use migtrace_lab::record_checks::{mark_names, not_measured, phase_names};
use migtrace_lab::{BareQemu, Lab};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

#[test]
fn a_migration_whose_destination_is_killed_has_failed_on_both_hosts() {
    let lab = network();
    let (mut source, destination) = BareQemu::pair(&lab, "orphan", MIGRATION_PORT).unwrap();
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &[]).unwrap());
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let pid = destination.pid();
    drop(destination);
    let [source, destination] =
        recordings.map(|recording| assert_recorded(&recording.finish(PATIENCE).unwrap(), 3));
    for record in [&source, &destination] {
        assert_eq!(record["migration"]["outcome"], "failed");
        assert_eq!(phase_names(record).last().unwrap(), "failed");
    }
    let error = destination["migration"]["error"].as_str().unwrap();
    assert!(error.contains(&pid.to_string()), "{error}");
}

#[test]
fn a_migration_without_events_whose_destination_is_killed_has_failed() {
    let lab = network();
    let mut source = BareQemu::start(lab.source(), "mute").unwrap();
    let destination = BareQemu::incoming_without_events(lab.destination(), "mute", MIGRATION_PORT).unwrap();
    let recording = Recording::start(lab.destination(), &[]).unwrap();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(destination);
    let record = assert_recorded(&recording.finish(PATIENCE).unwrap(), 3);
    assert_eq!(record["migration"]["outcome"], "failed");
    assert_eq!(phase_names(&record), ["transfer"]);
}

/// Migrates to a destination whose guest stays paused, and waits until that reports the migration as completed.
fn arrive_paused(lab: &Lab, name: &str, destination: &mut BareQemu) -> BareQemu {
    let mut source = BareQemu::start(lab.source(), name).unwrap();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
    destination.wait_for_status("completed", PATIENCE).unwrap();
    source
}

#[test]
fn a_guest_that_resumes_seconds_after_its_arrival_is_waited_for() {
    const RESUMED_AFTER: Duration = Duration::from_secs(3);
    let lab = network();
    let mut destination = BareQemu::incoming_paused(lab.destination(), "late", MIGRATION_PORT).unwrap();
    let recording = Recording::start(lab.destination(), &[]).unwrap();
    let _source = arrive_paused(&lab, "late", &mut destination);
    std::thread::sleep(RESUMED_AFTER);
    destination.resume().unwrap();
    let resumed = Instant::now();
    let record = assert_recorded(&recording.finish(PATIENCE).unwrap(), 0);
    assert!(
        resumed.elapsed() < Duration::from_secs(4),
        "the recording ends soon after the resume: {:?}",
        resumed.elapsed()
    );
    assert_eq!(record["migration"]["outcome"], "completed");
    assert_eq!(record["observers"][0]["role"], "destination");
    let marks = record["downtime"]["marks"].as_array().unwrap();
    let at_ns = |name: &str| {
        let mark = marks.iter().find(|mark| mark["name"] == name);
        mark.unwrap_or_else(|| panic!("no {name}: {marks:?}"))["at_ns"].as_i64().unwrap()
    };
    let late_ns = at_ns("resume") - at_ns("completed");
    assert!((3_000_000_000..8_000_000_000).contains(&late_ns), "{late_ns}");
    // The destination sees that the guest runs again; only the source sees when it stopped.
    assert!(not_measured(&record).contains("the guest stops on the source"), "{}", not_measured(&record));
    assert!(!not_measured(&record).contains("did not run within"), "{}", not_measured(&record));
}

#[test]
fn a_destination_that_is_killed_before_its_guest_resumes_ends_the_wait_at_once() {
    let lab = network();
    let mut destination = BareQemu::incoming_paused(lab.destination(), "shot", MIGRATION_PORT).unwrap();
    let mut recording = Recording::start(lab.destination(), &[]).unwrap();
    let _source = arrive_paused(&lab, "shot", &mut destination);
    std::thread::sleep(Duration::from_secs(2));
    assert!(recording.try_wait().unwrap().is_none(), "it must wait for the guest");
    drop(destination);
    let killed = Instant::now();
    let record = assert_recorded(&recording.finish(PATIENCE).unwrap(), 0);
    assert!(killed.elapsed() < Duration::from_secs(4), "it took {:?} to be noticed", killed.elapsed());
    assert_eq!(record["migration"]["outcome"], "completed");
    assert!(!mark_names(&record).contains(&"resume".into()), "{record:#}");
}

#[test]
fn a_signal_ends_the_wait_for_a_paused_guest_and_the_record_says_that_it_did_not_run() {
    let lab = network();
    let mut destination = BareQemu::incoming_paused(lab.destination(), "paused", MIGRATION_PORT).unwrap();
    let mut recording = Recording::start(lab.destination(), &[]).unwrap();
    let _source = arrive_paused(&lab, "paused", &mut destination);
    std::thread::sleep(Duration::from_secs(2));
    assert!(recording.try_wait().unwrap().is_none(), "it must wait for the guest");
    recording.signal(Signal::SIGTERM).unwrap();
    let signalled = Instant::now();
    let record = assert_recorded(&recording.finish(PATIENCE).unwrap(), 0);
    assert!(signalled.elapsed() < Duration::from_secs(2), "{:?}", signalled.elapsed());
    assert_eq!(record["migration"]["outcome"], "completed");
    let why = not_measured(&record);
    assert!(why.contains("the guest did not run within 2."), "{why}");
}

#[test]
fn a_migration_whose_source_is_killed_has_failed() {
    let lab = network();
    let (mut source, _destination) = BareQemu::pair(&lab, "victim", MIGRATION_PORT).unwrap();
    let recording = Recording::start(lab.source(), &["--vm", "victim"]).unwrap();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(source);
    let started = Instant::now();
    let record = assert_recorded(&recording.finish(PATIENCE).unwrap(), 3);
    assert!(started.elapsed() < Duration::from_secs(5), "it took {:?} to be noticed", started.elapsed());
    assert_eq!(record["migration"]["outcome"], "failed");
    assert_eq!(record["vm"]["name"], "victim");
}
