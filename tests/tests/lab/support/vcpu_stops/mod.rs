//! A KVM guest that a test stops and continues, and what migtrace recorded of each stop.

mod across_sleeps;

use super::PATIENCE;
use migtrace::event::{Event, Fact, LogReader, Vcpus};
use migtrace::units::MonotonicNs;
use migtrace_lab::migtrace_command::Recording;
use migtrace_lab::{BareQemu, Host, monotonic_ns};
use nix::sys::signal::Signal;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::time::{Duration, Instant};

pub(crate) use across_sleeps::assert_stops_are_known_across_sleeps;

/// From the start of the guest to its first count: the firmware comes first.
const BOOT_PATIENCE: Duration = Duration::from_secs(60);
/// The stops take this long, and each longer than the one before by `LONGER`. After `LENGTHS` stops this begins again.
const SHORTEST: Duration = Duration::from_millis(2);
const LONGER: Duration = Duration::from_millis(3);
const LENGTHS: u32 = 30;
/// What half the width of the bounds must stay within for the median stop: the largest error of a value in the middle.
const MEDIAN_ERROR: Duration = Duration::from_millis(1);
/// How many stops are recorded, and how often this is tried: a thread that does not get a CPU on its way out of KVM widens
/// the bounds of a stop, and nothing narrows them.
const STOPS: u32 = 120;
const ATTEMPTS: usize = 8;

/// One stop, stamped by the test that caused it.
#[derive(Clone, Copy, Debug)]
struct CausedStop {
    stop_sent_ns: u64,
    stop_answered_ns: u64,
    cont_sent_ns: u64,
    /// When the guest had run again: QEMU answers `cont` before its vCPUs are in KVM.
    ran_ns: u64,
}

/// One stop as migtrace recorded it.
#[derive(Clone, Copy, Debug)]
struct RecordedStop {
    vcpus: u32,
    first_left_ns: u64,
    last_left_ns: u64,
    /// The earliest run that may have ended it.
    earliest_run_ns: u64,
    run_ns: u64,
}

impl RecordedStop {
    /// The width of the bounds of its length.
    const fn width(&self) -> Duration {
        Duration::from_nanos((self.run_ns - self.first_left_ns) - (self.earliest_run_ns - self.last_left_ns))
    }
}

/// Starts a guest in KVM and waits until it counts.
pub(crate) fn start_counting_guest(host: &Host, vcpus: u32) -> BareQemu {
    let mut guest = BareQemu::in_kvm(host, "paused", vcpus).unwrap();
    let deadline = Instant::now() + BOOT_PATIENCE;
    while guest.count().unwrap() == 0 {
        assert!(Instant::now() < deadline, "the guest does not count");
        std::thread::sleep(Duration::from_millis(100));
    }
    guest
}

/// Checks stops of a guest with this many vCPUs, and that half of them have an error of less than a millisecond.
pub(crate) fn assert_stops_are_precise(host: &Host, guest: &mut BareQemu, vcpus: u32) {
    let is_precise = |_| {
        let width = assert_stops_lie_between_stamps(host, guest, vcpus, STOPS);
        eprintln!("{vcpus} vCPUs: the median width of the bounds of a stop is {width:?}");
        width / 2 < MEDIAN_ERROR
    };
    assert!((0..ATTEMPTS).any(is_precise), "{vcpus} vCPUs: the bounds were never narrow enough");
}

/// Checks that nothing is claimed about vCPUs on a kernel where their runs cannot be observed.
pub(crate) fn assert_nothing_is_claimed(host: &Host, guest: &mut BareQemu) {
    const TIMES: usize = 3;
    let (_, events) = record(host, guest, TIMES as u32);
    let is_run = |event: &Event| matches!(event.fact, Fact::GuestRun { .. } | Fact::GuestRunVoid { .. });
    assert!(!events.iter().any(is_run), "{events:#?}");
    let of_vcpus: Vec<_> = reported_stops(&events).map(|(_, vcpus)| vcpus).collect();
    assert_eq!(of_vcpus, [None; TIMES], "{events:#?}");
}

/// Stops and continues the guest this many times; each stop as it was caused, and as migtrace recorded it.
fn trace(host: &Host, guest: &mut BareQemu, times: u32) -> Vec<(CausedStop, RecordedStop)> {
    let (caused, events) = record(host, guest, times);
    let recorded = recorded_stops(&events);
    assert_eq!(recorded.len(), caused.len(), "{events:#?}");
    caused.into_iter().zip(recorded).collect()
}

/// Stops and continues the guest this many times during a recording.
fn record(host: &Host, guest: &mut BareQemu, times: u32) -> (Vec<CausedStop>, Vec<Event>) {
    let recording = Recording::start(host, &["--vm", "paused"]).unwrap();
    let caused = (0..times).map(|time| cause_stop(guest, SHORTEST + LONGER * (time % LENGTHS))).collect();
    (caused, interrupt(recording))
}

/// Ends a recording, and returns its events.
fn interrupt(recording: Recording) -> Vec<Event> {
    recording.signal(Signal::SIGINT).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    let log = File::open(recorded.events_path()).unwrap();
    LogReader::new(BufReader::new(log)).map(Result::unwrap).collect()
}

fn cause_stop(guest: &mut BareQemu, length: Duration) -> CausedStop {
    let (stop_sent_ns, stop_answered_ns) = stop(guest);
    std::thread::sleep(length);
    let (cont_sent_ns, ran_ns) = cont(guest);
    CausedStop { stop_sent_ns, stop_answered_ns, cont_sent_ns, ran_ns }
}

/// Stops the guest. Returns when that began, and when it had stopped.
fn stop(guest: &mut BareQemu) -> (u64, u64) {
    let sent_ns = monotonic_ns();
    guest.qmp().execute("stop", json!({})).unwrap();
    (sent_ns, monotonic_ns())
}

/// Lets the guest run again. Returns when that began, and when it had run.
fn cont(guest: &mut BareQemu) -> (u64, u64) {
    let count = guest.count().unwrap();
    let sent_ns = monotonic_ns();
    guest.qmp().execute("cont", json!({})).unwrap();
    while guest.count().unwrap() == count {}
    (sent_ns, monotonic_ns())
}

/// Checks that each of this many stops lies between the test's stamps and is of all vCPUs. Returns the median width of the
/// bounds.
pub(crate) fn assert_stops_lie_between_stamps(
    host: &Host,
    guest: &mut BareQemu,
    vcpus: u32,
    times: u32,
) -> Duration {
    let stops = trace(host, guest, times);
    for (caused, recorded) in &stops {
        assert_eq!(recorded.vcpus, vcpus, "{recorded:?}");
        let order = [caused.stop_sent_ns, recorded.last_left_ns, caused.stop_answered_ns];
        assert!(order.is_sorted(), "{caused:?} {recorded:?}");
        let runs = (recorded.earliest_run_ns, recorded.run_ns);
        assert!(is_first_run(runs, (caused.cont_sent_ns, caused.ran_ns)), "{caused:?} {recorded:?}");
        // One of several vCPUs may have left earlier, for another reason, and not have come back before the stop.
        assert!(recorded.first_left_ns <= recorded.last_left_ns, "{caused:?} {recorded:?}");
    }
    let mut widths: Vec<Duration> = stops.iter().map(|(_, recorded)| recorded.width()).collect();
    *widths.select_nth_unstable(stops.len() / 2).1
}

/// When QEMU said STOP, each time, and what was known of its vCPUs then.
fn reported_stops(events: &[Event]) -> impl Iterator<Item = (MonotonicNs, Option<Vcpus>)> {
    events.iter().filter_map(|event| match &event.fact {
        Fact::Qmp(qmp) if qmp.name == "STOP" => Some((event.at_ns, qmp.vcpus)),
        _ => None,
    })
}

/// Every STOP with the run that ended it.
fn recorded_stops(events: &[Event]) -> Vec<RecordedStop> {
    reported_stops(events)
        .map(|(stop, vcpus)| {
            let vcpus = vcpus.unwrap();
            assert_eq!(vcpus.inside, 0, "QEMU emits STOP when all vCPUs have stopped");
            let (earliest, run) = run_after(events, stop).unwrap();
            RecordedStop {
                vcpus: vcpus.known,
                first_left_ns: vcpus.first_left_ns.unwrap().0,
                last_left_ns: vcpus.last_left_ns.unwrap().0,
                earliest_run_ns: earliest.0,
                run_ns: run.0,
            }
        })
        .collect()
}

/// Whether a guest that went on between these two stamps can have run first within what is known of that: at the earliest in
/// the run that may have been one, at the latest in the one that certainly was. If these are two runs, the test may have seen
/// that the guest ran before the later one began: to look at the guest's memory, QEMU makes the vCPUs leave KVM, and a run that
/// ends so after a moment may have been one.
const fn is_first_run((earliest_ns, certain_ns): (u64, u64), (began_ns, ran_ns): (u64, u64)) -> bool {
    began_ns <= earliest_ns && earliest_ns <= ran_ns && earliest_ns <= certain_ns
}

/// After a stop, the first run that may have happened, and the first that certainly did. Two vCPUs can be stamped in one
/// order and reach the log in the other.
fn run_after(events: &[Event], stop: MonotonicNs) -> Option<(MonotonicNs, MonotonicNs)> {
    let void = |at: MonotonicNs| {
        events.iter().find_map(|event| match event.fact {
            Fact::GuestRunVoid { entered_ns, certain, .. } if entered_ns == at => Some(certain),
            _ => None,
        })
    };
    let is_run = |event: &&Event| matches!(event.fact, Fact::GuestRun { .. }) && event.at_ns > stop;
    let runs: BTreeSet<_> = events.iter().filter(is_run).map(|event| event.at_ns).collect();
    let run = runs.iter().find(|at| void(**at).is_none())?;
    Some((*runs.iter().find(|at| void(**at) != Some(true))?, *run))
}
