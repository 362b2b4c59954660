//! Stops of a guest whose beginning or end migtrace sleeps through, and those that it is awake for between them.

use super::{cont, interrupt, is_first_run, reported_stops, run_after, stop};
use crate::support::MIGRATION_PORT;
use crate::support::sleeping::Sleeper;
use migtrace::event::Event;
use migtrace::units::MonotonicNs;
use migtrace_lab::{BareQemu, Host};

/// A change that the test has caused: when it began, when it had happened, and whether migtrace slept.
#[derive(Clone, Copy, Debug)]
struct Change {
    began_ns: u64,
    over_ns: u64,
    is_asleep: bool,
}

#[derive(Debug)]
struct Stop {
    begins: Change,
    ends: Change,
}

const fn change((began_ns, over_ns): (u64, u64), is_asleep: bool) -> Change {
    Change { began_ns, over_ns, is_asleep }
}

/// Checks that each beginning and each end of a stop is known as exactly as ever if migtrace was awake, and that nothing is
/// claimed of the others: neither of those, nor of later ones that a vCPU's state from before a sleep would distort.
pub(crate) fn assert_stops_are_known_across_sleeps(host: &Host, guest: &mut BareQemu, vcpus: u32) {
    let sleeper = Sleeper::start(host, &["--vm", "paused"]);
    let mut stops = Vec::new();
    let mut ended = |begins: Change, ends: Change| stops.push(Stop { begins, ends });
    // It has stopped when migtrace falls asleep. Meanwhile it goes on, stops and goes on.
    let begins = change(stop(guest), false);
    sleeper.fall_asleep();
    ended(begins, change(cont(guest), true));
    ended(change(stop(guest), true), change(cont(guest), true));
    // One vCPU runs in KVM when migtrace wakes up, all others are halted there, and none of them leaves.
    sleeper.wake_up(MIGRATION_PORT);
    ended(change(stop(guest), false), change(cont(guest), false));
    // Likewise when it falls asleep.
    sleeper.fall_asleep();
    let begins = change(stop(guest), true);
    // All are outside of KVM.
    sleeper.wake_up(MIGRATION_PORT);
    ended(begins, change(cont(guest), false));
    ended(change(stop(guest), false), change(cont(guest), false));
    let events = interrupt(sleeper.recording);
    assert_known(&stops, &events, vcpus);
}

fn assert_known(stops: &[Stop], events: &[Event], vcpus: u32) {
    let reported: Vec<_> = reported_stops(events).collect();
    assert_eq!(reported.len(), stops.len(), "{events:#?}");
    let nexts = stops.iter().skip(1).map(|next| next.begins.began_ns).chain([u64::MAX]);
    for ((Stop { begins, ends }, (stop, seen)), next_ns) in stops.iter().zip(reported).zip(nexts) {
        if begins.is_asleep {
            assert_eq!(seen, None, "{begins:?}");
        } else {
            let seen = seen.unwrap();
            assert_eq!((seen.known, seen.inside), (vcpus, 0), "{begins:?}");
            let [first, last] = [seen.first_left_ns, seen.last_left_ns].map(|left| left.unwrap().0);
            assert!(first <= last, "{seen:?}");
            assert!((begins.began_ns..=begins.over_ns).contains(&last), "{begins:?} {seen:?}");
        }
        // One that is later is no run that has ended this stop.
        let run = run_after(events, stop).filter(|(_, MonotonicNs(run))| *run < next_ns);
        if ends.is_asleep {
            assert_eq!(run, None, "{ends:?}");
        } else {
            let (MonotonicNs(earliest), MonotonicNs(run)) = run.unwrap();
            let is_known = is_first_run((earliest, run), (ends.began_ns, ends.over_ns));
            assert!(is_known, "{ends:?}: {earliest} {run}");
        }
    }
}
