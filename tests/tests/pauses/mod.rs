//! A KVM guest that its driver stops and continues, and what `migtrace` tells of each stop.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

use migtrace::event::{Event, Fact, LogReader};
use migtrace::units::MonotonicNs;
use migtrace_lab::{BareQemu, Host, migtrace_command, monotonic_ns};
use nix::sys::signal::Signal;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
/// From its start to its first count: the firmware has other things to do first.
const BOOT: Duration = Duration::from_secs(60);
/// How long the first stop is, by how much each is longer than the one before, and after how many it is as short as the
/// first again.
const SHORTEST: Duration = Duration::from_millis(2);
const LONGER: Duration = Duration::from_millis(3);
const LENGTHS: u32 = 30;
/// Half a bound: the error of a figure in its middle.
const MEDIAN_ERROR: Duration = Duration::from_millis(1);
/// How many stops are recorded, and how often: a thread that is kept from the CPU on its way out of KVM widens what is
/// known of a stop, and nothing makes it narrower.
const STOPS: u32 = 120;
const ATTEMPTS: usize = 8;

/// One stop as its driver saw it.
#[derive(Clone, Copy, Debug)]
struct Driven {
    stop_sent_ns: u64,
    stop_answered_ns: u64,
    cont_sent_ns: u64,
    /// When the guest was seen to have run: QEMU answers `cont` before its vCPUs are in KVM.
    ran_ns: u64,
}

/// One stop as the event log tells of it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    vcpus: u32,
    first_left_ns: u64,
    last_left_ns: u64,
    /// The earliest run that may have ended it.
    earliest_run_ns: u64,
    run_ns: u64,
}

impl Seen {
    /// How well the length of the stop is known.
    const fn width(&self) -> Duration {
        Duration::from_nanos((self.run_ns - self.first_left_ns) - (self.earliest_run_ns - self.last_left_ns))
    }
}

/// A guest in KVM that counts.
pub(crate) fn guest(host: &Host, vcpus: u32) -> BareQemu {
    let mut guest = BareQemu::in_kvm(host, "paused", vcpus).unwrap();
    let deadline = Instant::now() + BOOT;
    while guest.count().unwrap() == 0 {
        assert!(Instant::now() < deadline, "the guest does not count");
        std::thread::sleep(Duration::from_millis(100));
    }
    guest
}

/// Checks stops of a guest that has so many vCPUs, and that half of them are known to a millisecond.
pub(crate) fn check_precision(host: &Host, guest: &mut BareQemu, vcpus: u32) {
    let is_precise = |_| {
        let width = check(host, guest, vcpus, STOPS);
        eprintln!("{vcpus} vCPUs: the median bound of a stop is {width:?} wide");
        width / 2 < MEDIAN_ERROR
    };
    assert!((0..ATTEMPTS).any(is_precise), "{vcpus} vCPUs: it was never narrow enough");
}

/// Checks that nothing is claimed of vCPUs whose runs cannot be seen on this kernel.
#[allow(dead_code, reason = "only a VM boots such a kernel")]
pub(crate) fn check_silence(host: &Host, guest: &mut BareQemu) {
    const TIMES: usize = 3;
    let (_, events) = record(host, guest, TIMES as u32);
    let of_vcpus: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.fact {
            Fact::Qmp(qmp) if qmp.name == "STOP" => Some(qmp.vcpus),
            Fact::GuestRun { .. } | Fact::GuestRunVoid { .. } => panic!("{event:?}"),
            _ => None,
        })
        .collect();
    assert_eq!(of_vcpus, [None; TIMES], "{events:#?}");
}

/// Stops and continues the guest so many times, and says what `migtrace` told of each stop.
fn trace(host: &Host, guest: &mut BareQemu, times: u32) -> Vec<(Driven, Seen)> {
    let (driven, events) = record(host, guest, times);
    let seen = stops(&events);
    assert_eq!(seen.len(), driven.len(), "{events:#?}");
    driven.into_iter().zip(seen).collect()
}

/// Stops and continues the guest so many times while it is recorded.
fn record(host: &Host, guest: &mut BareQemu, times: u32) -> (Vec<Driven>, Vec<Event>) {
    let recording = migtrace_command::Recording::start(host, &["--vm", "paused"]).unwrap();
    let driven = (0..times).map(|time| drive(guest, SHORTEST + LONGER * (time % LENGTHS))).collect();
    recording.signal(Signal::SIGINT).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    let log = File::open(recorded.events_path()).unwrap();
    (driven, LogReader::new(BufReader::new(log)).map(Result::unwrap).collect())
}

fn drive(guest: &mut BareQemu, stop: Duration) -> Driven {
    let stop_sent_ns = monotonic_ns();
    guest.qmp().execute("stop", json!({})).unwrap();
    let stop_answered_ns = monotonic_ns();
    std::thread::sleep(stop);
    let count = guest.count().unwrap();
    let cont_sent_ns = monotonic_ns();
    guest.qmp().execute("cont", json!({})).unwrap();
    while guest.count().unwrap() == count {}
    Driven { stop_sent_ns, stop_answered_ns, cont_sent_ns, ran_ns: monotonic_ns() }
}

/// Checks that none of so many stops falls outside of the driver's stamps, and that each is that of all vCPUs; returns the
/// median of the bounds' widths.
pub(crate) fn check(host: &Host, guest: &mut BareQemu, vcpus: u32, times: u32) -> Duration {
    let stops = trace(host, guest, times);
    for (driven, seen) in &stops {
        assert_eq!(seen.vcpus, vcpus, "{seen:?}");
        let order = [
            driven.stop_sent_ns,
            seen.last_left_ns,
            driven.stop_answered_ns,
            driven.cont_sent_ns,
            seen.earliest_run_ns,
            seen.run_ns,
            driven.ran_ns,
        ];
        assert!(order.is_sorted(), "{driven:?} {seen:?}");
        // One of several may have left for another reason, and not have come back before the stop.
        assert!(seen.first_left_ns <= seen.last_left_ns, "{driven:?} {seen:?}");
    }
    let mut widths: Vec<Duration> = stops.iter().map(|(_, seen)| seen.width()).collect();
    *widths.select_nth_unstable(stops.len() / 2).1
}

/// Every STOP with the run that ended it.
fn stops(events: &[Event]) -> Vec<Seen> {
    let stops = events.iter().filter_map(|event| match &event.fact {
        Fact::Qmp(qmp) if qmp.name == "STOP" => Some((event.at_ns, qmp.vcpus.unwrap())),
        _ => None,
    });
    stops
        .map(|(stop, vcpus)| {
            assert_eq!(vcpus.inside, 0, "QEMU says STOP when all have stopped");
            let (earliest, run) = run_after(events, stop);
            Seen {
                vcpus: vcpus.known,
                first_left_ns: vcpus.first_left_ns.unwrap().0,
                last_left_ns: vcpus.last_left_ns.unwrap().0,
                earliest_run_ns: earliest.0,
                run_ns: run.0,
            }
        })
        .collect()
}

/// The first run after a stop that may have been one, and the first that certainly was. Two vCPUs can be stamped in one
/// order and reach the log in the other.
fn run_after(events: &[Event], stop: MonotonicNs) -> (MonotonicNs, MonotonicNs) {
    let void = |at: MonotonicNs| {
        events.iter().find_map(|event| match event.fact {
            Fact::GuestRunVoid { entered_ns, certain, .. } if entered_ns == at => Some(certain),
            _ => None,
        })
    };
    let is_run = |event: &&Event| matches!(event.fact, Fact::GuestRun { .. }) && event.at_ns > stop;
    let runs: BTreeSet<_> = events.iter().filter(is_run).map(|event| event.at_ns).collect();
    let run = runs.iter().find(|at| void(**at).is_none()).unwrap();
    (*runs.iter().find(|at| void(**at) != Some(true)).unwrap(), *run)
}
