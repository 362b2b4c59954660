//! Hosts that have no part in a migration, and have pinged its guest, in the record of all hosts' logs.
//!
//! The logs under `merged/observed-7.2` were written on one machine, so the true differences of their clocks are 0.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::merged::{DAY, Log, SECOND, all, bent, merge, merge_one, middle, restamp_host, restamped, width};
use migtrace::record::{Mark, Record, Vantage};
use migtrace::timeline::NotTogether;
use serde_json::{Value, json};

#[test]
fn an_observers_clock_is_known_by_its_readings_whatever_it_shows() {
    let logs = all("observed-7.2");
    let plain = merge_one(&logs);
    let reply = |record: &Record| {
        let is_reply = |mark: &&Mark| mark.name.as_str() == "first-reply";
        let mark = record.downtime.marks.iter().find(is_reply).expect("the guest answered again");
        assert_eq!((mark.role, mark.host.as_str()), (Vantage::Observer, "host-c"));
        mark.clone()
    };
    let begin = logs[2][0]["at_ns"].as_i64().unwrap();
    let middle = middle(&logs[0]);
    let shifts = [0, 5 * SECOND, -5 * SECOND, 3 * DAY];
    let bends = [(0, begin), (50, begin), (-50, begin), (500, middle), (-500, middle)];
    for (host, shift, (ppm, from)) in [2, 1, 0]
        .into_iter()
        .flat_map(|host| shifts.into_iter().flat_map(move |shift| bends.map(|bend| (host, shift, bend))))
    {
        let case = format!("host {host}, {shift} ns, {ppm} ppm");
        let mut logs = logs.clone();
        restamp_host(&mut logs, host, &bent(shift, ppm, from), shift);
        let record = merge_one(&logs);
        let alignment = record.observers[2].alignment.as_ref().unwrap();
        assert_eq!(alignment.method.as_str(), "control-connection", "{case}");
        let (low, high) = (alignment.low_ns.unwrap(), alignment.high_ns.unwrap());
        assert!(high - low < 2_000_000, "{case}: {alignment:?}");
        let [before, after] = [reply(&plain), reply(&record)];
        let error = before.error_ns + after.error_ns;
        assert!(before.at_ns.abs_diff(after.at_ns) <= error + 1, "{case}: {before:?} {after:?}");
        let lengths = |record: &Record| record.downtime.reachability.clone().expect("the observer probed");
        let [before, after] = [lengths(&plain), lengths(&record)];
        let moved = before.value_ns.abs_diff(after.value_ns);
        assert!(moved <= width(&after).min(width(&before)), "{case}: {before:?} {after:?}");
    }
}

#[test]
fn where_packets_contradict_each_other_readings_stand_in_and_the_record_says_so() {
    let mut logs = all("observed-7.2");
    let plain = merge_one(&logs);
    let by_packets = "packets, which bound it best";
    let is_said = |record: &Record| record.not_measured.iter().any(|entry| entry.what.contains(by_packets));
    assert!(!is_said(&plain));
    let mut crossings = logs[1].iter_mut().filter(|line| line["event"] == "milestones");
    let crossing = &mut crossings.next().unwrap()["crossings"][0];
    assert_eq!(crossing["way"], "rx");
    // It seems to have arrived before it was sent.
    crossing["at_ns"] = (crossing["at_ns"].as_u64().unwrap() - 10_000_000).into();
    let record = merge_one(&logs);
    let alignment = record.observers[1].alignment.as_ref().unwrap();
    assert_eq!(alignment.method.as_str(), "control-connection");
    assert!(alignment.low_ns < Some(0) && Some(0) < alignment.high_ns, "{alignment:?}");
    assert!(is_said(&record), "{:?}", record.not_measured);
}

#[test]
fn a_destination_that_records_with_its_peers_relates_the_observer_to_the_source() {
    // What the source has read of the observer's clock, as if the destination had read it: both had the same clock.
    let mut logs = all("observed-7.2");
    let is_reading = |line: &Value| line["event"] == "peer_clock";
    let source_began = logs[0][0]["at_ns"].clone();
    let (readings, rest): (Log, Log) = logs[0].iter().cloned().partition(is_reading);
    logs[0] = rest;
    for mut reading in readings {
        if reading["peer"]["host"] == "host-b" {
            reading["peer"] = json!({ "host": "host-a", "since_ns": source_began });
        }
        logs[1].push(reading);
    }
    let record = merge_one(&logs);
    let plain = merge_one(&all("observed-7.2"));
    let of = |record: &Record| record.observers[2].alignment.clone().unwrap();
    let (through, direct) = (of(&record), of(&plain));
    assert_eq!(through.method.as_str(), "control-connection");
    let (low, high) = (through.low_ns.unwrap(), through.high_ns.unwrap());
    assert!(low <= 0 && 0 <= high, "both have the same clock: {through:?}");
    assert!(high - low > direct.high_ns.unwrap() - direct.low_ns.unwrap(), "{through:?} {direct:?}");
}

#[test]
fn without_readings_an_observers_gap_is_taken_only_if_no_other_could_be_meant() {
    let mut logs = all("observed-7.2");
    logs[0].retain(|line| line["event"] != "peer_clock");
    let record = merge_one(&logs);
    let alignment = record.observers[2].alignment.as_ref().unwrap();
    assert_eq!((alignment.method.as_str(), alignment.low_ns), ("wall-clock", None));
    assert_eq!(record.downtime.reachability, None);
    let why = "there were several gaps, and only wall clocks say which of them the migration caused";
    assert!(record.not_measured.iter().any(|entry| entry.why == why), "{:#?}", record.not_measured);

    let longest = logs[2].iter().filter(|line| line["event"] == "echo_gap");
    let longest = longest
        .max_by_key(|line| line["resumed_ns"].as_u64().unwrap() - line["last_reply_ns"].as_u64().unwrap());
    let longest = longest.unwrap().clone();
    logs[2].retain(|line| line["event"] != "echo_gap" || *line == longest);
    let record = merge_one(&logs);
    let with_readings = merge_one(&all("observed-7.2"));
    assert_eq!(record.downtime.reachability, with_readings.downtime.reachability);
    // Nothing but its length is known of it.
    let is_of_observer = |mark: &Mark| mark.role == Vantage::Observer;
    assert!(!record.downtime.marks.iter().any(is_of_observer), "{:#?}", record.downtime.marks);

    // An hour earlier, another guest may have been there.
    logs[2] = restamped(&logs[2], &|at| at - 3_600 * SECOND, 0);
    let NotTogether { host, why, .. } = merge(&logs).unwrap_err();
    assert_eq!(
        (host, why.as_str()),
        (2, "its echo requests were sent at another time than the migrations in the other logs")
    );
}

#[test]
fn echo_requests_to_another_vm_are_not_taken_for_those_of_the_guest() {
    let begins = |line: &&mut Value| line["event"] == "echo_start";
    let reachability = |logs: &[Log]| {
        let record = merge_one(logs);
        let lacks = record.not_measured.into_iter().find(|entry| entry.what.starts_with("reachability"));
        (record.downtime.reachability.is_some(), lacks.map(|entry| entry.why))
    };
    let logs = all("observed-7.2");
    assert_eq!(reachability(&logs), (true, None));
    let qemu = logs[0].iter().find(|line| line["event"] == "qemu_seen").unwrap().clone();

    // Another VM runs beside it, and has the MAC to which the requests went.
    let mut other = qemu.clone();
    other["pid"] = 99.into();
    other["uuid"] = "11111111-2222-4333-8444-555555555555".into();
    other["macs"] = json!(["52:54:00:99:99:99"]);
    let mut with_other = logs.clone();
    with_other[1].push(other);
    assert_eq!(reachability(&with_other), (true, None));
    with_other[2].iter_mut().find(begins).unwrap()["mac"] = "52:54:00:99:99:99".into();
    let (known, why) = reachability(&with_other);
    assert!(!known && why.unwrap().contains("which another VM has"));
    // Behind a router, nothing shows which of the two it is, unless a person has named it.
    with_other[2].iter_mut().find(begins).unwrap().as_object_mut().unwrap().remove("mac");
    let (known, why) = reachability(&with_other);
    assert!(!known && why.unwrap().contains("it is not known which of them"));
    with_other[2].iter_mut().find(begins).unwrap()["vm"] = qemu["name"].clone();
    assert_eq!(reachability(&with_other), (true, None));
}
