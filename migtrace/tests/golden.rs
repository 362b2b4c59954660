//! Each event log under `logs/` gives the record and the report beside it, byte for byte.
//!
//! After a change that is meant: `UPDATE_GOLDEN=1 cargo test -p migtrace --test golden`, and read the difference.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::fs;
use std::path::Path;

use migtrace::record::Record;
use migtrace::report;
use migtrace::units::Flow;

#[test]
fn every_log_gives_the_record_and_the_report_beside_it() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut differing = Vec::new();
    for name in common::log_names() {
        let records = common::replay(&name);
        let json: String = records.iter().map(|r| report::json(r).unwrap()).collect();
        let text: Vec<String> = records.iter().map(report::text::render).collect();
        for (suffix, got) in [("record.json", json), ("txt", text.join("\n\n"))] {
            let path = common::logs().join(format!("{name}.{suffix}"));
            if update {
                fs::write(&path, got).unwrap();
            } else if fs::read_to_string(&path).unwrap_or_default() != got {
                differing.push(path);
            }
        }
    }
    assert!(
        differing.is_empty(),
        "these differ from what the logs give now: {differing:#?}\n\
         if that is meant: UPDATE_GOLDEN=1 cargo test -p migtrace --test golden, and read the difference"
    );
}

#[test]
fn no_golden_file_is_without_its_log() {
    let names = common::log_names();
    for entry in fs::read_dir(common::logs()).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().and_then(|f| f.to_str()).unwrap();
        let suffixes = [".jsonl", ".record.json", ".txt"];
        let name = suffixes.iter().find_map(|suffix| file.strip_suffix(suffix)).unwrap_or(file);
        assert!(names.iter().any(|n| n == name), "{} belongs to no log", Path::new(file).display());
    }
}

fn check_lines(name: &str, record: &Record) {
    for line in report::text::render(record).lines() {
        let columns = line.chars().count();
        assert!(columns <= usize::from(report::text::WIDTH), "{name}: {columns} columns: {line}");
        assert!(!line.chars().any(char::is_control), "{name}: {line:?}");
    }
}

#[test]
fn reports_fit_their_width_and_hold_no_control_characters() {
    for name in common::log_names() {
        for record in common::replay(&name) {
            check_lines(&name, &record);
        }
    }
}

#[test]
fn no_name_from_outside_breaks_the_report() {
    let mut record = common::replay("precopy-7.2").remove(0);
    let hostile = "\u{1b}[31mred\u{7}\r".to_owned() + &"x".repeat(300);
    record.vm.name = Some(hostile.clone());
    record.migration.error = Some(hostile.clone());
    record.phases[1].name = hostile.as_str().into();
    record.observers[0].host = hostile.clone();
    record.traffic.flows[0].interface = hostile;
    record.traffic.flows[0].flow = Flow {
        local: "[2001:db8:1111:2222:3333:4444:5555:6666]:40000".parse().unwrap(),
        remote: "[2001:db8:1111:2222:3333:4444:5555:7777]:49152".parse().unwrap(),
    };
    check_lines("a hostile name", &record);
}
