//! The logs of both hosts make one record, whatever their clocks show.
//!
//! Both logs of most folders under `merged/` were written on one machine, so the true difference of their clocks is 0, and
//! each stamp of the destination is what the source's clock showed at that instant. Those of `two-kernels-...` were written on
//! two machines, and `clock.json` has the true difference, as the test found it that wrote them.
//!
//! After a change that is meant: `UPDATE_GOLDEN=1 cargo test -p migtrace --test merge`, and read the difference.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::fs;

use common::merged::{
    DAY, Log, SECOND, all, bent, both, clock, folder, log, merge, merge_one, middle, names, restamp_host,
    restamped, width,
};
use migtrace::invariants;
use migtrace::record::{Mark, Record, Vantage};
use migtrace::report;
use migtrace::timeline::NotTogether;
use serde_json::{Value, json};

/// How well the other host's clock is known at worst, and by how much worse it may be known when that clock is bent.
fn tolerance(name: &str) -> (i64, i64) {
    let (true_low, true_high) = clock(name);
    match name {
        "precopy-7.2" => (50_000, 40_000),
        // Only some of the milestones are in the log.
        _ if true_low == true_high => (500_000, 40_000),
        // The other host is an emulated machine.
        _ => (3_000_000, 200_000),
    }
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
fn the_destinations_marks_are_where_the_clocks_of_both_hosts_really_show_them() {
    for name in moved() {
        let logs = both(&name);
        let record = merge_one(&logs);
        let (_, low, high) = alignment(&record);
        let (true_low, true_high) = clock(&name);
        let (widest, _) = tolerance(&name);
        assert!(low <= true_high && true_low <= high && high - low < widest, "{name}: {low} to {high}");
        let start = merge_one(&logs[..1]);
        let start = start.start.realtime_ns.unwrap() - logs[0][1]["offset_ns"].as_i64().unwrap();
        let resume = logs[1].iter().find(|line| line["name"] == "RESUME").unwrap();
        let resumed = resume["at_ns"].as_i64().unwrap() - start;
        let truth = resumed - true_high..=resumed - true_low;
        let is_resume = |mark: &&Mark| mark.role == Vantage::Destination && mark.name.as_str() == "resume";
        let mark = record.downtime.marks.iter().find(is_resume).unwrap();
        let error_ns = mark.error_ns.cast_signed();
        let is_true = mark.at_ns - error_ns <= *truth.end() && *truth.start() <= mark.at_ns + error_ns;
        assert!(is_true, "{name}: {mark:?}, not {truth:?}");
        assert!(mark.error_ns > 0 && mark.host == record.observers[1].host, "{name}: {mark:?}");
    }
}

#[test]
fn a_part_whose_ends_one_clock_has_stamped_is_known_as_well_as_they_are() {
    let mut checked = 0;
    for name in moved() {
        let logs = both(&name);
        let record = merge_one(&logs);
        let Some(part) = record.downtime.parts.iter().find(|part| part.name.as_str() == "await-resume")
        else {
            continue;
        };
        let number = |line: &Value, field: &str| line[field].as_i64().unwrap();
        let wall = logs[1].iter().find_map(|line| line["offset_ns"].as_i64()).unwrap();
        // When the kernel saw the event, and how long before QEMU may have made it. It stamps in whole microseconds.
        let event = |is_it: &dyn Fn(&Value) -> bool| {
            let line = logs[1].iter().find(|line| line["event"] == "qmp" && is_it(line)).unwrap();
            let at = number(line, "at_ns");
            (at, at + wall - number(line, "qemu_realtime_us") * 1_000)
        };
        let (done, before_done) = event(&|line| line["data"]["status"] == "completed");
        let (resumed, before_resumed) = event(&|line| line["name"] == "RESUME");
        let (truth, low, high) =
            (resumed - done, part.length.low_ns.cast_signed(), part.length.high_ns.unwrap().cast_signed());
        assert!((low..=high).contains(&truth), "{name}: {part:?}, not {truth}");
        let drift = truth * 2 * 1_200 / 1_000_000;
        assert!(high - low <= before_done + before_resumed + drift + 2_000, "{name}: {part:?}");
        checked += 1;
    }
    assert!(checked > 1);
}

#[test]
fn a_destination_alone_marks_the_end_of_the_streams_only_if_the_guest_may_have_come() {
    let names = |name| {
        let record = merge_one(&[log(name, "destination")]);
        record.downtime.marks.into_iter().map(|mark| mark.name.as_str().to_owned()).collect::<Vec<_>>()
    };
    for lost in ["destination-killed-7.2", "cancelled-7.2", "link-cut-7.2", "link-cut-at-switchover-7.2"] {
        assert_eq!(names(lost), Vec::<String>::new(), "{lost}");
    }
    assert!(names("precopy-7.2").contains(&"last-byte".to_owned()));
}

#[test]
fn what_is_not_known_of_the_bytes_and_the_end_of_a_stream_is_said_with_its_reason() {
    let why = |logs: &[Log], what: &str| {
        let record = merge_one(logs);
        let entry = record.not_measured.into_iter().find(|entry| entry.what.starts_with(what));
        entry.unwrap_or_else(|| panic!("nothing is said of {what}")).why
    };
    assert!(why(&both("tls-7.2"), "when the last byte crossed").contains("TLS"));
    assert!(why(&both("tls-7.2"), "the bytes of some parts").contains("own events"));
    // QEMU did not report its end.
    let killed = [log("destination-killed-7.2", "destination")];
    assert!(why(&killed, "the bytes of some phases").contains("no event reported"));
}

#[test]
fn a_source_that_says_so_late_leaves_what_it_had_sent_before_post_copy_unknown() {
    for name in ["postcopy-10.0", "postcopy-recovered-10.0"] {
        let [mut source, destination] = both(name);
        let is_active = |line: &Value| line["data"]["status"] == "postcopy-active";
        let at_ns = |line: &Value| line["at_ns"].as_i64().unwrap();
        let first =
            |is_it: &dyn Fn(&Value) -> bool| at_ns(destination.iter().find(|line| is_it(line)).unwrap());
        let (loads, resumed) = (first(&is_active), first(&|line| line["name"] == "RESUME"));
        let plain = merge_one(&[source.clone(), destination.clone()]).downtime;
        // As if it had been off its CPU between the last byte of the devices' state and this event.
        let late = source.iter_mut().find(|line| is_active(line)).unwrap();
        late["at_ns"] = json!(resumed + 1_000_000);
        source.sort_by_key(at_ns);
        let record = merge_one(&[source, destination]);
        let stop = record.downtime.stop.as_ref().unwrap();
        assert_eq!(stop.value_ns, plain.stop.unwrap().value_ns, "{name}");
        let [.., before, sent, load] = &record.downtime.parts[..] else { panic!("{name}: {record:#?}") };
        let bounds = load.length.low_ns.cast_signed()..=load.length.high_ns.unwrap().cast_signed();
        assert!(load.name.as_str() == "load" && bounds.contains(&(resumed - loads)), "{name}: {load:?}");
        assert_eq!((sent.name.as_str(), sent.wire_bytes), ("last-pass", None), "{name}");
        assert!(before.wire_bytes.is_some(), "{name}: {before:?}");
        let why = record.not_measured.iter().find(|entry| entry.what.starts_with("the bytes of some parts"));
        assert!(why.is_some_and(|entry| entry.why.contains("own events")), "{name}: {why:?}");
    }
}

#[test]
fn shifted_and_bent_clocks_change_no_figure_by_more_than_its_bounds() {
    for name in moved() {
        let [source, destination] = both(&name);
        let plain = merge_one(&[source.clone(), destination.clone()]);
        let (plain_offset, plain_low, plain_high) = alignment(&plain);
        let widest = plain_high - plain_low + tolerance(&name).1;
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
            let bend = (offset - plain_offset - shift).abs();
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
            // The best value of a part may lie anywhere within its bounds: those know that one clock measured both ends.
            for (before, after) in plain.downtime.parts.iter().zip(&record.downtime.parts) {
                let (one, other) = (&before.length, &after.length);
                let overlap = one.low_ns <= other.high_ns.unwrap() && other.low_ns <= one.high_ns.unwrap();
                assert!(before.name == after.name && overlap, "{case}: {before:?} {after:?}");
            }
            for (before, after) in plain.downtime.marks.iter().zip(&record.downtime.marks) {
                let error = before.error_ns + after.error_ns;
                assert!(before.at_ns.abs_diff(after.at_ns) <= error + 1, "{case}: {before:?} {after:?}");
            }
        }
    }
}

#[test]
fn a_clock_that_is_slewed_fast_is_allowed_for_because_its_log_says_so() {
    let [mut source, destination] = both("two-kernels-fast-slew-7.2");
    let method = |source: &Log| {
        let record = merge_one(&[source.clone(), destination.clone()]);
        record.observers[1].alignment.as_ref().unwrap().method.as_str().to_owned()
    };
    assert_eq!(method(&source), "tcp");
    source.retain(|line| line["event"] != "clock_slew");
    assert_ne!(method(&source), "tcp", "packets contradict each other");
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
