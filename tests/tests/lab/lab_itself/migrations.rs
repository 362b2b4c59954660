//! Migrations of the lab's guest, in every mode.

use super::{remains_of, start_with_guest};
use crate::support::one_at_a_time;
use migtrace_lab::{Action, Lab, Migrated, Migration, Outcome, Progress, QemuChoice, Qmp, Side};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// Migrates, and checks that the guest then runs on the other host and answers ping.
fn migrate(lab: &mut Lab, migration: &Migration) -> Migrated {
    let target = lab.other_host().role();
    let migrated = lab.migrate(migration).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed, "{}", migrated.source);
    assert_eq!(lab.guest_host().role(), target);
    lab.ping_guest().unwrap();
    let console = lab.qemu().unwrap().console();
    assert!(!console.contains("panic"), "{console}");
    migrated
}

#[test]
fn a_guest_moves_to_the_other_host_and_back_again() {
    let _lock = one_at_a_time();
    let mut lab = start_with_guest(Lab::builder());
    let there = migrate(&mut lab, &Migration::default());
    assert_eq!(lab.guest_host().role(), "dst");
    assert_eq!(there.states(Side::Source), ["setup", "active", "completed"]);
    assert_eq!(there.states(Side::Destination), ["setup", "active", "completed"]);
    assert!(there.passes() >= 2);
    assert!(there.source["ram"]["transferred"].as_u64().unwrap() > 64 << 20, "{}", there.source);
    assert!(there.started_ns < there.event(Side::Source, "STOP").unwrap().received_ns);
    assert!(there.stop_to_resume_ns().unwrap() < 10_000_000_000);

    let back = migrate(&mut lab, &Migration::like_libvirt());
    assert_eq!(lab.guest_host().role(), "src");
    assert_eq!(back.states(Side::Source), ["setup", "active", "pre-switchover", "device", "completed"]);

    let name = lab.name().to_owned();
    drop(lab);
    assert_eq!(remains_of(&name), [""; 0]);
}

#[test]
fn a_guests_memory_survives_many_migrations_under_load() {
    let _lock = one_at_a_time();
    let mut lab = start_with_guest(Lab::builder().vcpus(2).dirty(96, 60));
    for _ in 0..4 {
        migrate(&mut lab, &Migration::default());
    }
}

#[test]
fn a_migration_uses_several_channels_over_ipv6() {
    let _lock = one_at_a_time();
    let mut lab = start_with_guest(Lab::builder());
    let migration = Migration { multifd: Some(3), ipv6: true, ..Migration::default() };
    let migrated = migrate(&mut lab, &migration);
    assert!(migrated.source["ram"]["multifd-bytes"].as_u64().unwrap() > 64 << 20, "{}", migrated.source);
}

#[test]
fn a_postcopy_guest_runs_before_its_memory_has_arrived() {
    let _lock = one_at_a_time();
    // The guest dirties more than the link can carry: precopy would never converge.
    let mut lab = start_with_guest(Lab::builder().dirty(96, 80).rate("300mbit"));
    let migration = Migration { return_path: true, postcopy_at_pass: Some(2), ..Migration::default() };
    let migrated = migrate(&mut lab, &migration);
    assert!(
        migrated.states(Side::Source).contains(&"postcopy-active"),
        "{:?}",
        migrated.states(Side::Source)
    );
    let completed =
        migrated.events.iter().rfind(|o| o.side == Side::Source && o.event.data["status"] == "completed");
    let resume = migrated.event(Side::Destination, "RESUME").unwrap();
    assert!(resume.received_ns < completed.unwrap().event.received_ns);
}

#[test]
fn the_newer_qemu_moves_a_guest_and_its_disk_too() {
    let _lock = one_at_a_time();
    let mut lab = start_with_guest(Lab::builder().disk_mib(16).vcpus(2).qemu(QemuChoice::Backports));
    let version = lab.qemu().unwrap().qmp().greeting()["version"]["qemu"]["major"].clone();
    assert!(version.as_u64().unwrap() > 7, "{version}");
    for host in ["dst", "src"] {
        let migrated = migrate(&mut lab, &Migration::like_libvirt());
        assert!(migrated.event(Side::Source, "BLOCK_JOB_COMPLETED").is_some(), "to {host}");
    }
}

#[test]
fn without_migration_events_the_driver_still_notices_the_end() {
    let _lock = one_at_a_time();
    let mut lab = start_with_guest(Lab::builder());
    let migrated = migrate(&mut lab, &Migration { events: false, ..Migration::default() });
    assert!(migrated.states(Side::Source).is_empty());
    assert!(migrated.stop_to_resume_ns().is_some());
}

#[test]
fn a_cancelled_migration_leaves_the_guest_where_it_was() {
    let _lock = one_at_a_time();
    let mut lab = start_with_guest(Lab::builder().dirty(96, 80).rate("200mbit").disk_mib(4));
    let mut statuses = Vec::new();
    let cancel_in_second_pass = |progress: &Progress<'_>| {
        statuses.push(progress.status.to_owned());
        if progress.pass >= 2 { Action::Cancel } else { Action::Continue }
    };
    let migrated = lab.migrate_with(&Migration::default(), cancel_in_second_pass).unwrap();
    assert_eq!(migrated.outcome, Outcome::Cancelled);
    assert!(statuses.iter().any(|status| status == "active"), "{statuses:?}");
    assert_eq!(lab.guest_host().role(), "src");
    lab.ping_guest().unwrap();
}

#[test]
fn a_migration_whose_destination_dies_has_failed() {
    let _lock = one_at_a_time();
    let mut lab = start_with_guest(Lab::builder().dirty(96, 80).rate("200mbit"));
    let migration = Migration::default();
    lab.prepare(&migration).unwrap();
    let destination = Pid::from_raw(lab.other_qemu().unwrap().pid().cast_signed());
    let kill_when_active = |progress: &Progress<'_>| {
        if progress.status == "active" {
            let _ = kill(destination, Signal::SIGKILL);
        }
        Action::Continue
    };
    let migrated = lab.migrate_with(&migration, kill_when_active).unwrap();
    assert_eq!(migrated.outcome, Outcome::Failed);
    assert!(migrated.source["error-desc"].is_string(), "{}", migrated.source);
    lab.ping_guest().unwrap();
    // The guest can try again.
    let second = Migration { postcopy_at_pass: Some(1), return_path: true, ..migration };
    migrate(&mut lab, &second);
}

#[test]
fn the_second_monitor_accepts_a_client_while_the_driver_uses_the_first() {
    let _lock = one_at_a_time();
    let mut lab = start_with_guest(Lab::builder());
    let qemu = lab.qemu().unwrap();
    let mut spare = Qmp::connect(&qemu.spare_qmp_socket()).unwrap();
    assert_eq!(
        spare.greeting()["version"]["qemu"]["major"],
        qemu.qmp().greeting()["version"]["qemu"]["major"]
    );
    let uuid = spare.execute("query-uuid", json!({})).unwrap();
    assert_eq!(uuid["UUID"], lab.guest().uuid);
}
