//! What libvirt says of a migration is beside what was measured, of that migration only.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::merged::{Log, both, merge_one};
use common::{events, fold, made, one};
use migtrace::record::{Record, Role};
use migtrace::report;
use migtrace::vocabulary::LIBVIRT_FIGURES;
use serde_json::{Value, json};

/// Both hosts have asked their libvirt, and `virsh domjobinfo` has said the same to the lab.
const PAIR: &str = "domjobinfo-7.2";

fn is_figures(line: &Value) -> bool {
    line["event"] == "domjobinfo"
}

/// The log of a host whose libvirt could not say anything.
fn in_vain(mut log: Log) -> Log {
    let line = log.iter_mut().find(|line| is_figures(line)).unwrap();
    *line = json!({ "at_ns": line["at_ns"], "event": "not_measured", "what": LIBVIRT_FIGURES, "why": "virsh failed" });
    log
}

/// The log of a host whose wall clock is this much ahead of what it was.
fn ahead(mut log: Log, ms: i64) -> Log {
    for line in &mut log {
        for (name, unit) in [("offset_ns", 1_000_000), ("qemu_realtime_us", 1_000)] {
            if let Some(value) = line[name].as_i64() {
                line[name] = (value + ms * unit).into();
            }
        }
    }
    log
}

fn lacks_figures(record: &Record) -> bool {
    record.not_measured.iter().any(|entry| entry.what.starts_with(LIBVIRT_FIGURES))
}

/// The report, with its lines joined.
fn text(record: &Record) -> String {
    report::text::render(record).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn what_libvirt_says_at_the_source_comes_first() {
    let record = merge_one(&both(PAIR));
    let libvirt = record.libvirt.as_ref().unwrap();
    assert_eq!((libvirt.host.as_str(), libvirt.role), ("host-a", Role::Source));
    // As virsh has printed it to the lab: 6615 ms, 713 ms, 144.113 MiB, 24.000 MiB.
    let stat = |name: &str| libvirt.stats[name];
    assert_eq!((stat("time_elapsed"), stat("downtime")), (6615, 713));
    assert_eq!((stat("memory_processed"), stat("disk_processed")), (151_113_382, 24 << 20));
    let report = text(&record);
    assert!(report.contains("From host-a (source)"), "{report}");
    assert!(!report.contains("--qmp"), "libvirt keeps the only monitor of its guests: {report}");
}

#[test]
fn what_one_host_could_not_say_is_missing_only_if_nobody_said_it() {
    let [source, destination] = both(PAIR);
    let record = merge_one(&[source.clone(), in_vain(destination.clone())]);
    assert_eq!(record.libvirt.as_ref().unwrap().role, Role::Source);
    assert!(!lacks_figures(&record));
    // As after `virsh migrate --undefinesource`.
    let record = merge_one(&[in_vain(source.clone()), destination.clone()]);
    assert_eq!(record.libvirt.as_ref().unwrap().host, "host-b");
    assert!(!lacks_figures(&record));
    let report = text(&record);
    assert!(report.contains("From host-b (destination)") && !report.contains("File processed"), "{report}");
    let record = merge_one(&[in_vain(source), in_vain(destination)]);
    assert!(record.libvirt.is_none() && lacks_figures(&record));
    assert!(!text(&record).contains("Time elapsed"));
}

#[test]
fn the_report_says_by_how_much_the_wall_clocks_spoil_libvirts_downtime() {
    let [source, destination] = both(PAIR);
    let report_of = |ms| text(&merge_one(&[source.clone(), ahead(destination.clone(), ms)]));
    for (ms, said) in [
        (0, "the wall clocks of the two hosts, which it relies on, agreed to within"),
        (25, "it is too long by 25.0 ms ±"),
        (-3, "it is too short by 3.0 ms ±"),
    ] {
        let report = report_of(ms);
        assert!(report.contains(said), "{ms}: {report}");
    }
    let alone = text(&one("domjobinfo"));
    assert!(alone.contains("by as much as the wall clocks of the two hosts differ, it is wrong"), "{alone}");
}

#[test]
fn the_figures_are_those_of_the_migration_before_them() {
    let (mut events, _) = events("cancelled-then-completed");
    let last = events.len() - 1;
    let figures = json!({ "at_ns": 1_004_100_500_000_u64, "event": "domjobinfo", "pid": 4242, "figures": { "downtime": 44 } });
    events.insert(last, made(figures));
    let records = fold(&events);
    let downtimes: Vec<_> = records.iter().map(|r| r.libvirt.as_ref().map(|l| l.stats["downtime"])).collect();
    assert_eq!(downtimes, [None, Some(44)]);
}
