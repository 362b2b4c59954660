//! Memory is copied while the guest runs.

use super::{BARE, BYTES_OF_PARTS, REACHABILITY, Shape, VCPUS, address, list, move_bare, move_guest};
use crate::support::number;
use migtrace_lab::record_checks::phase_names;
use migtrace_lab::{Migration, Outcome, TlsKey, shared_lab};

/// Checks what holds when the guest of the lab, which answers and is not pinged, was moved.
fn assert_answering(shape: &Shape, purposes: &[&str]) {
    assert_eq!(shape.merged.migrated.outcome, Outcome::Completed);
    shape.assert_moved(purposes);
    shape.assert_not_measured(&[VCPUS, REACHABILITY]);
    assert_eq!(shape.merged.record["downtime"]["network"]["method"], "frames-at-taps");
}

#[test]
fn with_a_pause_before_the_switchover() {
    let mut lab = shared_lab().unwrap();
    let shape = move_guest("pause-before-switchover-7.2", &mut lab, &Migration::like_libvirt());
    assert_answering(&shape, &["ram"]);
    let phases = phase_names(&shape.merged.record);
    assert!(phases.contains(&"pre-switchover".into()), "{phases:?}");
}

#[test]
fn with_a_guest_that_is_slowed_down() {
    let mut lab = shared_lab().unwrap();
    let migration = Migration {
        auto_converge_percent: Some(99),
        max_bandwidth_bytes_per_s: 36 << 20,
        downtime_limit_ms: 100,
        ..Migration::default()
    };
    let shape = move_guest("auto-converge-7.2", &mut lab, &migration);
    assert_answering(&shape, &["ram"]);
}

/// A migration of a guest without an operating system, which is over in a moment.
fn assert_bare(name: &str, migration: &Migration, purposes: &[&str]) -> Shape {
    assert_bare_without(&[], name, migration, purposes)
}

/// The same, where these are not measured either.
fn assert_bare_without(lacking: &[&str], name: &str, migration: &Migration, purposes: &[&str]) -> Shape {
    let shape = move_bare(name, 4, migration);
    shape.assert_moved(purposes);
    shape.assert_not_measured(&[lacking, &BARE].concat());
    shape
}

#[test]
fn with_the_return_path() {
    let migration = Migration { return_path: true, ..Migration::default() };
    let shape = assert_bare("return-path-7.2", &migration, &["ram"]);
    let back = &shape.merged.record["traffic"]["total"]["rx"]["payload_bytes"];
    assert!(number(back) > 0, "the destination answers");
}

#[test]
fn over_ipv6() {
    let migration = Migration { ipv6: true, ..Migration::default() };
    let shape = assert_bare("ipv6-7.2", &migration, &["ram"]);
    let flow = &shape.merged.record["traffic"]["flows"][0];
    assert!(address(&flow["remote"]).is_ipv6(), "{flow:#}");
}

#[test]
fn over_tls() {
    let migration = Migration { tls: Some(TlsKey::new().unwrap()), ..Migration::default() };
    let lacking = ["when the last byte crossed", BYTES_OF_PARTS];
    assert_bare_without(&lacking, "tls-7.2", &migration, &["tls"]);
}

#[test]
fn over_two_channels() {
    let migration = Migration { multifd: Some(2), ..Migration::default() };
    assert_bare("multifd-2-7.2", &migration, &["multifd", "multifd", "ram"]);
}

#[test]
fn over_eight_channels() {
    let migration = Migration { multifd: Some(8), ..Migration::default() };
    assert_bare("multifd-8-7.2", &migration, &[&["multifd"; 8][..], &["ram"]].concat());
}

#[test]
fn without_events() {
    let migration = Migration { events: false, ..Migration::default() };
    let shape = move_bare("without-events-7.2", 4, &migration);
    // Nothing that QEMU says unasked tells how it ended, or what it did while the guest did not run.
    shape.assert_well("unknown", &["ram"]);
    shape.merged.assert_stop();
    shape.assert_clock(1_000_000);
    assert!(list(&shape.merged.record["downtime"]["parts"]).is_empty());
    shape.assert_not_measured(&[&["phases"], &BARE[..]].concat());
}
