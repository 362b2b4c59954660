//! Migrations by `virsh migrate`, between two hosts with a libvirtd each: what migtrace records on both hosts, and makes of
//! both logs, agrees with the packets on the wire, with the events that libvirtd has received and with libvirt's statistics.
//!
//! Both hosts of the lab have the same clock, so the true difference of their clocks is 0.

mod checks;
mod figures;
mod remote_shell;
mod removal;
mod study;
mod study_template;

use crate::support::{GUEST_PATIENCE, number};
use checks::{
    assert_clocks, assert_counted, assert_identity, assert_marks, assert_phases, assert_stop, assert_times,
    assert_traffic, purposes,
};
use migtrace_lab::migtrace_command::{self, Recorded, Recording};
use migtrace_lab::record_checks::{assert_consistent, assert_replays, phase_names};
use migtrace_lab::{
    AbortPoint, Capture, Host, LibvirtLab, LibvirtMigration, MigratedByLibvirt, Side, Wiretap,
    shared_libvirt_lab,
};
use serde_json::Value;

/// As fast as QEMU can, with the source's libvirtd in charge.
const PLAIN: LibvirtMigration = LibvirtMigration {
    peer_to_peer: true,
    parallel: None,
    postcopy: false,
    tls: false,
    bandwidth_mib_per_s: None,
};

/// A migration as libvirt, QEMU and the wire showed it, and what migtrace made of it.
struct Moved {
    migrated: MigratedByLibvirt,
    /// What crossed the uplink of the source.
    capture: Capture,
    source: Recorded,
    destination: Recorded,
    /// Of both hosts' logs.
    record: Value,
}

/// Moves the guest to the other host while both record, and checks all that holds for every migration.
fn migrate(lab: &mut LibvirtLab, migration: &LibvirtMigration, options: &[&str]) -> Moved {
    let hosts = [lab.guest_host(), lab.other_host()].map(Host::role);
    let tap = Wiretap::start(lab.guest_host(), Host::UPLINK).unwrap();
    let source = Recording::start(lab.guest_host(), options).unwrap();
    let destination = Recording::start(lab.other_host(), options).unwrap();
    let migrated = lab.migrate(migration).unwrap();
    let [source, destination] = [source, destination].map(|recording| {
        let recorded = recording.finish(GUEST_PATIENCE).unwrap();
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        assert_replays(&recorded);
        recorded
    });
    let capture = tap.stop().unwrap();
    let record = merged(&source, &destination);
    lab.ping_guest().unwrap();

    let moved = Moved { migrated, capture, source, destination, record };
    assert_consistent(&moved.record);
    assert_identity(lab, &moved, hosts);
    assert_phases(&moved);
    assert_clocks(&moved);
    assert_times(&moved);
    assert_marks(&moved);
    assert_stop(&moved);
    assert_traffic(lab, &moved);
    moved
}

/// The record of both hosts' logs.
fn merged(source: &Recorded, destination: &Recorded) -> Value {
    let merged = migtrace_command::merge(&[&source.events_path(), &destination.events_path()]).unwrap();
    assert_eq!(merged.code, Some(0), "{}", merged.stderr);
    serde_json::from_str(&merged.stdout).unwrap()
}

#[test]
fn a_guest_and_its_disk_move_there_and_back() {
    let mut lab = shared_libvirt_lab().unwrap();
    // Driven by virsh itself, then by the source's libvirtd.
    for peer_to_peer in [false, true] {
        let moved = migrate(&mut lab, &LibvirtMigration { peer_to_peer, ..PLAIN }, &[]);
        assert_eq!(purposes(&moved.record), ["nbd", "ram"]);
        assert_eq!(moved.record["migration"]["mode"], "precopy");
        let names = phase_names(&moved.record).join(", ");
        assert!(names.ends_with("stop, pre-switchover, device, completed"), "{names}");
    }
}

#[test]
fn the_channels_of_a_parallel_migration_are_told_from_the_disk_copy() {
    let mut lab = shared_libvirt_lab().unwrap();
    let moved = migrate(&mut lab, &LibvirtMigration { parallel: Some(2), ..PLAIN }, &[]);
    assert_eq!(purposes(&moved.record), ["multifd", "multifd", "nbd", "ram"]);
}

#[test]
fn a_guest_that_libvirt_moves_by_postcopy_is_recorded_as_such() {
    let mut lab = shared_libvirt_lab().unwrap();
    // The guest dirties more in a pass than QEMU may send while it is stopped, so precopy does not end first.
    let migration = LibvirtMigration { postcopy: true, bandwidth_mib_per_s: Some(32), ..PLAIN };
    let moved = migrate(&mut lab, &migration, &[]);
    assert_eq!(purposes(&moved.record), ["nbd", "ram"]);
    assert_eq!(moved.record["migration"]["mode"], "postcopy");
    let names = phase_names(&moved.record).join(", ");
    assert!(names.ends_with("stop, pre-switchover, postcopy-active, completed"), "{names}");
}

#[test]
fn encrypted_migrations_are_recorded_like_any_other() {
    let mut lab = shared_libvirt_lab().unwrap();
    let moved = migrate(&mut lab, &LibvirtMigration { tls: true, ..PLAIN }, &[]);
    // NBD begins in the clear, so a disk copy is known even then.
    assert_eq!(purposes(&moved.record), ["nbd", "tls"]);
    let both = LibvirtMigration { tls: true, parallel: Some(2), ..PLAIN };
    let moved = migrate(&mut lab, &both, &[]);
    assert_eq!(purposes(&moved.record), ["nbd", "tls", "tls", "tls"]);
}

#[test]
fn a_migration_that_virsh_aborts_ends_in_the_record_as_in_qemus_events() {
    let mut lab = shared_libvirt_lab().unwrap();
    let recordings = [lab.guest_host(), lab.other_host()].map(|host| Recording::start(host, &[]).unwrap());
    // At this rate the first pass takes seconds.
    let events =
        lab.abort(&LibvirtMigration { bandwidth_mib_per_s: Some(16), ..PLAIN }, AbortPoint::Memory).unwrap();
    let [source, destination] = recordings.map(|recording| recording.finish(GUEST_PATIENCE).unwrap());
    // On a busy machine the source's QEMU may see that its stream is closed before it sees that it was cancelled.
    let last =
        events.iter().rfind(|seen| seen.side == Side::Source && seen.event.name == "MIGRATION").unwrap();
    let outcome = last.event.data["status"].as_str().unwrap();
    assert!(["cancelled", "failed"].contains(&outcome), "{events:#?}");
    for (recorded, outcome) in [(&source, outcome), (&destination, "failed")] {
        assert_eq!(recorded.code, Some(3), "{}", recorded.stderr);
        assert_eq!(assert_replays(recorded)["migration"]["outcome"], outcome, "{events:#?}");
    }
    // The source knows better than the destination how it ended.
    let record = merged(&source, &destination);
    assert_eq!(record["migration"]["outcome"], outcome);
    assert_eq!(purposes(&record), ["nbd", "ram"]);
    assert!(!events.iter().any(|seen| seen.event.name == "STOP"), "{events:#?}");
    assert_eq!(record["downtime"]["stopped"], false);
    lab.ping_guest().unwrap();
}

#[test]
fn a_migration_that_virsh_aborts_while_the_disk_is_copied_is_recorded_as_given_up() {
    let mut lab = shared_libvirt_lab().unwrap();
    let tap = Wiretap::start(lab.guest_host(), Host::UPLINK).unwrap();
    let recordings = [lab.guest_host(), lab.other_host()].map(|host| Recording::start(host, &[]).unwrap());
    let slow = LibvirtMigration { bandwidth_mib_per_s: Some(8), ..PLAIN };
    let copied = 8 << 20;
    let events = lab.abort(&slow, AbortPoint::Disk { bytes: copied }).unwrap();
    // The source's recording ends by itself, too, although no event ever says that a migration has begun.
    let [source, destination] = recordings.map(|recording| recording.finish(GUEST_PATIENCE).unwrap());
    let capture = tap.stop().unwrap();
    let of_source = |name| events.iter().find(|seen| seen.side == Side::Source && seen.event.name == name);
    assert!(of_source("MIGRATION").is_none(), "{events:#?}");
    let given_up_ns = of_source("BLOCK_JOB_CANCELLED").unwrap().event.received_ns;
    let ended_ns = number(&source.events().unwrap().last().unwrap()["at_ns"]);
    assert!(ended_ns < given_up_ns + 5_000_000_000, "{given_up_ns} {ended_ns}");

    for (recorded, outcome) in [(&source, "cancelled"), (&destination, "failed")] {
        assert_eq!(recorded.code, Some(3), "{}", recorded.stderr);
        assert_eq!(assert_replays(recorded)["migration"]["outcome"], outcome);
    }
    let doubts = |record: &Value| {
        let lacking = record["not_measured"].as_array().unwrap();
        lacking.iter().any(|entry| entry["what"] == "whether this is a migration")
    };
    assert!(doubts(&source.record().unwrap()), "{}", source.json);
    let record = merged(&source, &destination);
    assert!(!doubts(&record), "{record:#}");
    assert_eq!(record["migration"]["outcome"], "cancelled");
    assert_eq!(purposes(&record), ["nbd"]);
    assert_counted(&record["traffic"]["flows"][0], &capture);
    for record in [&source.record().unwrap(), &record] {
        assert_consistent(record);
        assert_eq!(phase_names(record), ["disk-sync", "cancelled"]);
        let sent = number(&record["phases"][0]["traffic"]["tx"]["payload_bytes"]);
        let total = number(&record["traffic"]["total"]["tx"]["payload_bytes"]);
        // QEMU says good-bye on the connection after it has given up the copy.
        assert!((copied..=total).contains(&sent) && total - sent < 1000, "{sent} of {total}");
        assert_eq!(record["downtime"]["stopped"], false);
    }
    lab.ping_guest().unwrap();
}

#[test]
fn a_guest_of_libvirts_is_selected_by_its_name() {
    let mut lab = shared_libvirt_lab().unwrap();
    let name = lab.guest().name.clone();
    let moved = migrate(&mut lab, &PLAIN, &["--vm", &name]);
    for recorded in [&moved.source, &moved.destination] {
        assert_eq!(recorded.record().unwrap()["vm"]["name"], name);
    }
}
