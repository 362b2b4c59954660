//! The logs of both hosts make one record, whatever their clocks show.
//!
//! Both logs of each folder under `merged/` were written on one machine, so the true difference of their clocks is 0, and
//! each stamp of the destination is what the source's clock showed at that instant.
//!
//! After a change that is meant: `UPDATE_GOLDEN=1 cargo test -p migtrace --test merge`, and read the difference.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

use std::fs;
use std::path::PathBuf;

use migtrace::event::Event;
use migtrace::invariants;
use migtrace::record::{Estimate, Mark, Record, Vantage};
use migtrace::report;
use migtrace::selection::Selection;
use migtrace::timeline::{NotTogether, Timeline, merged};
use serde_json::{Value, json};

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;

/// How well the other host's clock is known at worst, in a log of all milestones and in those that have only some.
const WIDEST_NS: i64 = 50_000;
const WIDEST_OF_SOME_NS: i64 = 500_000;
/// By how much worse it may be known when that clock is bent.
const WIDER_NS: i64 = 40_000;

/// The lines of a log.
type Log = Vec<Value>;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/merged")
}

fn names() -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

fn log(name: &str, host: &str) -> Log {
    let text = fs::read_to_string(folder().join(name).join(format!("{host}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn both(name: &str) -> [Log; 2] {
    ["source", "destination"].map(|host| log(name, host))
}

/// The logs of all hosts: with that of an observer, if there was one.
fn all(name: &str) -> Vec<Log> {
    let observed = folder().join(name).join("observer.jsonl").exists();
    both(name).into_iter().chain(observed.then(|| log(name, "observer"))).collect()
}

fn merge(logs: &[Log]) -> Result<Vec<Record>, NotTogether> {
    let folded = logs.iter().map(|log| {
        let mut timeline = Timeline::new(Selection::default());
        for line in log {
            timeline.push(&serde_json::from_value::<Event>(line.clone()).unwrap());
        }
        timeline
    });
    merged(&folded.collect::<Vec<_>>())
}

fn merge_one(logs: &[Log]) -> Record {
    let mut records = merge(logs).unwrap();
    assert_eq!(records.len(), 1);
    invariants::record(&records[0]).unwrap();
    records.remove(0)
}

/// A log as another clock would have stamped it. `clock` gives what that clock shows when the log's clock shows an
/// instant. The wall clock is slewed together with it, and is not set.
fn restamped(log: &Log, clock: &dyn Fn(i64) -> i64, shift: i64) -> Log {
    fn stamps(value: &mut Value, clock: &dyn Fn(i64) -> i64, shift: i64, wall: i64, key: &str) {
        let is_stamp = key.ends_with("_ns")
            && ![
                "offset_ns",
                "error_ns",
                "min_gap_ns",
                "p50_ns",
                "p99_ns",
                "max_ns",
                "worst_since_last_gap_ns",
            ]
            .contains(&key)
            && !key.contains("round_trip")
            && !key.contains("interval");
        match value {
            Value::Object(fields) => {
                for (name, field) in fields.iter_mut() {
                    // The two directions of a stamp have its name.
                    let name = if ["tx", "rx"].contains(&name.as_str()) { key } else { name };
                    stamps(field, clock, shift, wall, name);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| stamps(item, clock, shift, wall, key)),
            Value::Number(number) if is_stamp => *value = json!(clock(number.as_i64().unwrap())),
            Value::Number(number) if key == "offset_ns" => *value = json!(number.as_i64().unwrap() - shift),
            Value::Number(number) if key == "qemu_realtime_us" => {
                let at = number.as_i64().unwrap() * 1_000 - wall;
                *value = json!((clock(at) - shift + wall) / 1_000);
            }
            _ => {}
        }
    }
    let wall = log.iter().find_map(|line| line["offset_ns"].as_i64()).unwrap();
    let mut log = log.clone();
    log.iter_mut().for_each(|line| stamps(line, clock, shift, wall, ""));
    log
}

/// The stamps of a host's own clock that are in its log, and those that others have read of it, as another clock would have
/// shown them.
fn restamp_host(logs: &mut [Log], host: usize, clock: &dyn Fn(i64) -> i64, shift: i64) {
    let name = logs[host][0]["host"].clone();
    let untouched = logs[host].clone();
    logs[host] = restamped(&logs[host], clock, shift);
    for (line, before) in
        logs[host].iter_mut().zip(&untouched).filter(|(line, _)| line["event"] == "peer_clock")
    {
        line["showed_ns"] = before["showed_ns"].clone();
        line["peer"] = before["peer"].clone();
    }
    let others = logs.iter_mut().enumerate().filter(|(index, _)| *index != host);
    for line in others.flat_map(|(_, log)| log).filter(|line| line["peer"]["host"] == name) {
        line["showed_ns"] = clock(line["showed_ns"].as_i64().unwrap()).into();
        line["peer"]["since_ns"] = clock(line["peer"]["since_ns"].as_i64().unwrap()).into();
    }
}

/// A clock that is shifted, and bent by `ppm` from an instant on.
fn bent(shift: i64, ppm: i64, from: i64) -> impl Fn(i64) -> i64 {
    move |at| at + shift + (at - from).max(0) * ppm / 1_000_000
}

/// The middle of a log.
fn middle(log: &Log) -> i64 {
    let stamps = || log.iter().map(|line| line["at_ns"].as_i64().unwrap());
    stamps().min().unwrap().midpoint(stamps().max().unwrap())
}

fn width(estimate: &Estimate) -> u64 {
    estimate.high_ns.map_or(u64::MAX, |high| high - estimate.low_ns)
}

fn alignment(record: &Record) -> (i64, i64, i64) {
    let alignment = record.observers[1].alignment.as_ref().expect("the second host has another clock");
    assert_eq!(alignment.method.as_str(), "tcp");
    (alignment.offset_ns.unwrap(), alignment.low_ns.unwrap(), alignment.high_ns.unwrap())
}

/// The pairs of one migration whose clocks its packets align, and whose guest came to run at the destination.
fn moved() -> Vec<String> {
    let is_one = |name: &String| {
        let records = merge(&both(name)).unwrap();
        let [record] = &records[..] else { return false };
        let aligned = record.observers[1].alignment.as_ref();
        aligned.is_some_and(|found| found.method.as_str() == "tcp") && resumes_there(name)
    };
    let names: Vec<_> = names().into_iter().filter(is_one).collect();
    assert!(names.len() > 1, "{names:?}");
    names
}

fn resumes_there(name: &str) -> bool {
    log(name, "destination").iter().any(|line| line["name"] == "RESUME")
}

#[test]
fn every_pair_of_logs_gives_the_record_and_the_report_beside_it() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut differ = Vec::new();
    for name in names() {
        let mut logs = all(&name);
        let records = merge(&logs).unwrap();
        records.iter().for_each(|record| invariants::record(record).unwrap());
        let json = |records: &[Record]| -> String {
            records.iter().map(|record| report::json(record).unwrap()).collect()
        };
        logs.reverse();
        let swapped = merge(&logs).unwrap();
        assert_eq!(json(&swapped), json(&records), "{name}: the order of the logs matters");
        let texts: Vec<_> = records.iter().map(report::text::render).collect();
        for (file, got) in [
            ("record.json", json(&records)),
            (
                "report.txt",
                texts.join(
                    "
",
                ),
            ),
        ] {
            let path = folder().join(&name).join(file);
            if update {
                fs::write(&path, got).unwrap();
            } else if fs::read_to_string(&path).unwrap_or_default() != got {
                differ.push(path);
            }
        }
    }
    assert!(
        differ.is_empty(),
        "these differ from what the logs give now: {differ:#?}\nif that is meant: UPDATE_GOLDEN=1 cargo test -p \
         migtrace --test merge, and read the difference"
    );
}

#[test]
fn the_destinations_marks_are_where_the_one_clock_of_both_hosts_shows_them() {
    for name in moved() {
        let logs = both(&name);
        let record = merge_one(&logs);
        let (_, low, high) = alignment(&record);
        let widest = if name == "precopy-7.2" { WIDEST_NS } else { WIDEST_OF_SOME_NS };
        assert!(low <= 0 && 0 <= high && high - low < widest, "{name}: {low} to {high}");
        let start = merge_one(&logs[..1]);
        let start = start.start.realtime_ns.unwrap() - logs[0][1]["offset_ns"].as_i64().unwrap();
        let resume = logs[1].iter().find(|line| line["name"] == "RESUME").unwrap();
        let truth = resume["at_ns"].as_i64().unwrap() - start;
        let is_resume = |mark: &&Mark| mark.role == Vantage::Destination && mark.name.as_str() == "resume";
        let mark = record.downtime.marks.iter().find(is_resume).unwrap();
        assert!(mark.at_ns.abs_diff(truth) <= mark.error_ns, "{name}: {mark:?}, not {truth}");
        assert!(mark.error_ns > 0 && mark.host == record.observers[1].host, "{name}: {mark:?}");
    }
}

#[test]
fn shifted_and_bent_clocks_change_no_figure_by_more_than_its_bounds() {
    for name in moved() {
        let [source, destination] = both(&name);
        let plain = merge_one(&[source.clone(), destination.clone()]);
        let (_, plain_low, plain_high) = alignment(&plain);
        let widest = plain_high - plain_low + WIDER_NS;
        let middle = middle(&destination);
        let begin = destination[0]["at_ns"].as_i64().unwrap();
        // A log begins soon after its boot.
        let shifts = [0, 5 * SECOND, -5 * SECOND, 3 * DAY];
        let bends = [(0, begin), (50, begin), (-50, begin), (500, middle), (-500, middle)];
        for (shift, (ppm, from)) in shifts.into_iter().flat_map(|shift| bends.map(|bend| (shift, bend))) {
            let mut logs = [source.clone(), destination.clone()];
            restamp_host(&mut logs, 1, &bent(shift, ppm, from), shift);
            let record = merge_one(&logs);
            let case = format!("{name}, {shift} ns, {ppm} ppm");
            let (offset, low, high) = alignment(&record);
            assert!(low <= offset && offset <= high && high - low < widest, "{case}: {low} to {high}");
            let bend = (offset - shift).abs();
            assert!(bend < 5_000_000, "{case}: {offset}");
            let lengths = |record: &Record| {
                let Record { downtime, .. } = record.clone();
                assert!(downtime.stop.is_some(), "both hosts were seen");
                [downtime.stop, downtime.network]
            };
            let both = lengths(&plain).into_iter().zip(lengths(&record));
            for (before, after) in both.filter_map(|(before, after)| before.zip(after)) {
                assert!(after.low_ns <= before.value_ns, "{case}: {before:?} {after:?}");
                assert!(
                    after.high_ns.is_none_or(|high| before.value_ns <= high),
                    "{case}: {before:?} {after:?}"
                );
                let moved = before.value_ns.abs_diff(after.value_ns);
                assert!(moved <= width(&after).min(width(&before)), "{case}: {before:?} {after:?}");
            }
            for (before, after) in plain.downtime.marks.iter().zip(&record.downtime.marks) {
                let error = before.error_ns + after.error_ns;
                assert!(before.at_ns.abs_diff(after.at_ns) <= error + 1, "{case}: {before:?} {after:?}");
            }
        }
    }
}

#[test]
fn the_source_behind_translated_addresses_is_still_recognised() {
    let [source, mut destination] = both("precopy-7.2");
    let outside = "198.51.100.7:40000";
    for line in &mut destination {
        if line["flow"]["remote"].is_string() {
            line["flow"]["remote"] = outside.into();
        }
    }
    let record = merge_one(&[source.clone(), destination]);
    let plain = merge_one(&[source, log("precopy-7.2", "destination")]);
    assert_eq!(alignment(&record), alignment(&plain));
    assert_eq!(record.downtime.stop, plain.downtime.stop);
}

#[test]
fn without_the_connections_beginnings_the_hosts_stay_apart_and_the_record_says_so() {
    let [source, mut destination] = both("precopy-7.2");
    for line in &mut destination {
        if let Some(fields) = line.as_object_mut() {
            fields.remove("initial_sequences");
        }
    }
    let record = merge_one(&[source.clone(), destination]);
    let alone = merge_one(&[source]);
    assert_eq!(record.downtime.stop, alone.downtime.stop);
    let alignment = record.observers[1].alignment.as_ref().unwrap();
    assert_eq!((alignment.low_ns, alignment.high_ns), (None, None));
    assert_eq!(alignment.method.as_str(), "wall-clock");
    assert!(alignment.offset_ns.is_some_and(|offset| offset.abs() < SECOND), "{alignment:?}");
    assert!(record.not_measured.iter().any(|entry| entry.what.contains("the clock of host-b")));
}

#[test]
fn packets_that_contradict_each_other_align_nothing() {
    let [source, mut destination] = both("precopy-7.2");
    let mut of_one_second = 0;
    for line in destination.iter_mut().filter(|line| line["event"] == "milestones") {
        for crossing in line["crossings"].as_array_mut().unwrap() {
            if crossing["way"] == "rx" && of_one_second < 3 {
                of_one_second += 1;
                crossing["at_ns"] = (crossing["at_ns"].as_u64().unwrap() - 10_000_000).into();
            }
        }
    }
    let record = merge_one(&[source, destination]);
    assert_eq!(record.observers[1].alignment.as_ref().unwrap().method.as_str(), "wall-clock");
    assert!(record.not_measured.iter().any(|entry| entry.why.contains("arrived before they were sent")));
}

#[test]
fn a_guest_that_comes_again_within_seconds_is_not_taken_for_the_same_migration() {
    let [source, destination] = both("precopy-7.2");
    // By another connection: the source's port and the numbers of the SYNs are others.
    let mut again = restamped(&destination, &|at| at + 3 * SECOND, 0);
    let mut back = again.clone();
    for line in &mut again {
        if line["flow"]["remote"].is_string() {
            line["flow"]["remote"] = "10.77.0.1:48144".into();
        }
    }
    // To the host from which it came.
    for line in &mut back {
        if line["flow"]["remote"].is_string() {
            line["flow"] = json!({ "local": "10.77.0.1:49152", "remote": "10.77.0.2:48144" });
        }
    }
    for mut other in [again, back] {
        for line in other.iter_mut().filter(|line| line["initial_sequences"].is_object()) {
            line["initial_sequences"] = json!({ "tx": 1, "rx": 2 });
        }
        let NotTogether { why, .. } = merge(&[source.clone(), other.clone()]).unwrap_err();
        assert!(why.contains("no migration in it has a connection in common"), "{why}");
        // Through a program that passes the bytes on, each host has a connection of its own.
        for line in &mut other {
            if line["flow"]["local"].is_string() {
                line["flow"]["local"] = "192.0.2.9:49152".into();
            }
        }
        assert_eq!(merge(&[source.clone(), other]).unwrap().len(), 1);
    }
}

#[test]
fn logs_that_do_not_belong_together_are_refused_with_the_reason() {
    let [source, destination] = both("precopy-7.2");
    let why = |logs: &[Log]| {
        let NotTogether { host, why, .. } = merge(logs).unwrap_err();
        (host, why)
    };
    let (host, copy) = why(&[source.clone(), destination.clone(), source.clone()]);
    assert_eq!(
        (host, copy.as_str()),
        (2, "it was recorded on the same host, at the same time, as another of the logs")
    );
    let (_, copy_alone) = why(&[source.clone(), source.clone()]);
    assert_eq!(copy_alone, copy);
    let mut empty: Log =
        source.iter().filter(|line| line["event"] != "qmp" && line["flow"].is_null()).cloned().collect();
    empty[0]["host"] = "host-c".into();
    assert_eq!(
        why(&[source.clone(), empty]),
        (1, "it holds neither a migration nor echo requests".to_owned())
    );
    // Another VM, a day later.
    let mut other = restamped(&destination, &|at| at + DAY, 0);
    for line in &mut other {
        if line["event"] == "qemu_seen" {
            line["uuid"] = "11111111-2222-4333-8444-555555555555".into();
        }
        if let Some(numbers) = line.get_mut("initial_sequences").filter(|numbers| numbers.is_object()) {
            *numbers = json!({ "tx": 1, "rx": 2 });
        }
    }
    let (host, stranger) = why(&[source, other]);
    assert_eq!(host, 0, "{stranger}");
    assert!(stranger.contains("no migration in it has a connection in common"), "{stranger}");
}

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
