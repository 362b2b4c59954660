//! Which VM has the probed address. The figures follow from the logs' own stamps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::{one, replay, why};
use migtrace::event::{EchoGap, Event, Fact};
use migtrace::record::{Method, Record};
use migtrace::units::MonotonicNs;

#[test]
fn a_probe_concerns_only_the_vm_that_has_the_address() {
    let records = replay("probe-of-another-vm");
    let [web, db] = &records[..] else { panic!("{} records", records.len()) };
    // From the last reply before the gap, 200 µs after its request, to the first after it; each end is known to within
    // one interval.
    let reachability = web.downtime.reachability.as_ref().unwrap();
    assert_eq!((reachability.low_ns, reachability.high_ns), (598_350_000, Some(601_000_000)));
    assert_eq!((web.gaps.len(), web.echo.as_ref().unwrap().lost), (1, 400));
    assert_eq!((&db.gaps[..], &db.echo, &db.downtime.reachability), (&[][..], &None, &None));
    assert_eq!(db.downtime.stop, None, "a gap of another VM bounds nothing");
    assert!(why(db, "reachability").contains("192.0.2.50, which another VM has"));

    // A log of this version names the owner of the address.
    let (mut events, _) = common::events("probe-of-another-vm");
    let owner = r#"{"at_ns": 1000001200000, "event": "echo_owner", "pid": 5151, "method": "mac"}"#;
    events.insert(5, serde_json::from_str(owner).unwrap());
    let records = common::fold(&events);
    assert!(records[0].echo.is_none() && records[1].echo.is_some());
}

fn owner(pid: u32, method: &str) -> Event {
    let json =
        format!(r#"{{"at_ns": 1000001300000, "event": "echo_owner", "pid": {pid}, "method": "{method}"}}"#);
    serde_json::from_str(&json).unwrap()
}

/// The record of `db-1`, which migrates alone, with other owners of the probed address than its log names.
fn record_of_db(owners: &[Event], change: impl FnOnce(&mut Vec<Event>)) -> Record {
    let (mut events, _) = common::events("probe-of-a-vm-that-stays");
    events.retain(|event| !matches!(event.fact, Fact::EchoOwner { .. }));
    events.splice(5..5, owners.iter().cloned());
    change(&mut events);
    let mut records = common::fold(&events);
    assert_eq!(records.len(), 1);
    records.remove(0)
}

fn assert_not_probed(record: &Record, because: &str) {
    assert_eq!((&record.gaps[..], &record.echo, &record.downtime.reachability), (&[][..], &None, &None));
    assert_eq!(record.downtime.stop.as_ref().and_then(|stop| stop.high_ns), None, "no reply bounds it");
    assert!(why(record, "reachability").contains(because), "{}", why(record, "reachability"));
}

#[test]
fn a_probe_of_a_vm_that_stays_says_nothing_about_the_one_that_migrates() {
    assert_not_probed(&one("probe-of-a-vm-that-stays"), "192.0.2.50, which another VM has");
    let as_it_is = |_: &mut Vec<Event>| {};
    // Nobody says whose the address is, and there are two VMs.
    let doubtful = "it is not known which of them has the probed address 192.0.2.50";
    assert_not_probed(&record_of_db(&[], as_it_is), doubtful);
    // The network's word is worth more than that of the person who named a VM.
    let contradicting = [owner(5151, "selected"), owner(4242, "mac")];
    assert_not_probed(&record_of_db(&contradicting, as_it_is), "which another VM has");

    // The address is that of the VM that migrates.
    for method in ["mac", "selected"] {
        let record = record_of_db(&[owner(5151, method)], as_it_is);
        // It answered the request at 399 ms and not the next, which took 400 µs at most; the one at 419 ms it answered.
        let gap = &record.gaps[0];
        assert_eq!((gap.start.low_ns, gap.start.high_ns), (399_000_000, 400_400_000));
        assert_eq!((gap.length.low_ns, gap.length.high_ns), (17_600_000, Some(20_300_000)));
        assert_eq!(record.echo.as_ref().unwrap().lost, 19);
    }
}

#[test]
fn the_vm_that_stopped_as_the_address_fell_silent_has_the_address() {
    let fall_silent_at_the_stop = |gap: &mut EchoGap| {
        let around_stop = |at: i64| MonotonicNs((1_002_200_000_000 + at) as u64);
        gap.answered_request_ns = around_stop(-500_000);
        gap.last_reply_ns = around_stop(-250_000);
        gap.first_waiting_ns = around_stop(500_000);
        gap.before_resumed_ns = around_stop(40_000_000);
        gap.resuming_request_ns = around_stop(41_000_000);
        gap.resumed_ns = around_stop(41_250_000);
    };
    let record = record_of_db(&[], |events| {
        for event in events {
            if let Fact::EchoGap(gap) = &mut event.fact {
                fall_silent_at_the_stop(gap);
            }
        }
    });
    let reachability = record.downtime.reachability.as_ref().unwrap();
    assert_eq!((reachability.low_ns, reachability.high_ns), (39_100_000, Some(41_750_000)));

    // As much holds when it has not answered again.
    let record = record_of_db(&[], |events| {
        let gap = events.iter().position(|event| matches!(event.fact, Fact::EchoGap(_))).unwrap();
        let Fact::EchoGap(mut gap) = events.remove(gap).fact else { unreachable!() };
        fall_silent_at_the_stop(&mut gap);
        for event in events {
            if let Fact::EchoEnd(end) = &mut event.fact {
                end.open = Some(gap);
            }
        }
    });
    let reachability = record.downtime.reachability.as_ref().unwrap();
    assert_eq!((reachability.low_ns, reachability.high_ns), (39_100_000, None));
    assert_eq!(reachability.method, Method::Open);
}
