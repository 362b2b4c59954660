//! The common shapes with a newer QEMU, whose events come in another order: that of Debian's backports.

use super::{BARE, BYTES_OF_PARTS, REACHABILITY, Shape, list, shape_with};
use crate::support::{MIB, network, number};
use migtrace_lab::record_checks::phase_names;
use migtrace_lab::{Action, BareGuest, BarePair, Host, Migrated, Migration, QemuProgram};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Moves a guest while both hosts record, and checks which QEMU that was.
fn move_by(
    name: &str,
    filled_mib: usize,
    migration: &Migration,
    migrate: impl FnOnce(&mut BarePair) -> Migrated,
) -> Shape {
    let lab = network();
    let (from, to) = (lab.source(), lab.destination());
    let program = QemuProgram::of_backports().unwrap();
    let path = program.path().display().to_string();
    let guest = BareGuest { name, filled_mib, program, disk: None };
    let mut pair = BarePair::start(from, to, &guest, migration).unwrap();
    let version = &pair.source.qmp().greeting()["version"]["qemu"]["major"];
    assert_eq!(version, 10);
    // The folder in which it was unpacked is the tester's, so migtrace would not believe it to be a QEMU.
    let options = ["--qemu-binary", &path];
    shape_with(&options, (to, Host::UPLINK), name, from, to, || migrate(&mut pair))
}

fn assert_completed(shape: &Shape, purposes: &[&str]) {
    shape.assert_moved(purposes);
    shape.assert_not_measured(&BARE);
}

/// The source says that it is `postcopy-active` after it has sent the state of the devices. The guest may run by then: what had
/// been sent when that state had arrived is not known in such a case, and only in such a case.
fn assert_completed_by_postcopy(shape: &Shape, purposes: &[&str]) {
    shape.assert_moved(purposes);
    let marks = list(&shape.merged.record["downtime"]["marks"]);
    let at = |name: &str, role: &str| {
        let mark = marks.iter().find(|mark| mark["name"] == name && mark["role"] == role);
        number(&mark.unwrap_or_else(|| panic!("no {name} of the {role}: {marks:#?}"))["at_ns"])
    };
    if at("postcopy-active", "source") > at("resume", "destination") {
        shape.assert_not_measured(&[&[BYTES_OF_PARTS], &BARE[..]].concat());
    } else {
        shape.assert_not_measured(&BARE);
    }
}

#[test]
fn precopy() {
    let migration = Migration::default();
    let shape = move_by("precopy-10.0", 4, &migration, |pair| pair.migrate(&migration).unwrap());
    assert_completed(&shape, &["ram"]);
    // QEMU 10 always reports `device`.
    let phases = phase_names(&shape.merged.record);
    assert!(phases.contains(&"device".into()), "{phases:?}");
}

#[test]
fn over_two_channels() {
    let migration = Migration { multifd: Some(2), ..Migration::default() };
    let shape = move_by("multifd-2-10.0", 4, &migration, |pair| pair.migrate(&migration).unwrap());
    assert_completed(&shape, &["multifd", "multifd", "ram"]);
}

#[test]
fn postcopy() {
    let migration = Migration {
        return_path: true,
        postcopy_at_pass: Some(1),
        max_bandwidth_bytes_per_s: MIB,
        ..Migration::default()
    };
    let shape = move_by("postcopy-10.0", 4, &migration, |pair| pair.migrate(&migration).unwrap());
    assert_completed_by_postcopy(&shape, &["ram"]);
}

#[test]
fn an_interrupted_postcopy_goes_on_over_another_connection() {
    let migration = Migration {
        return_path: true,
        postcopy_at_pass: Some(1),
        max_bandwidth_bytes_per_s: MIB,
        max_postcopy_bandwidth_bytes_per_s: 4 * MIB,
        ..Migration::default()
    };
    let shape = move_by("postcopy-recovered-10.0", 8, &migration, |pair| {
        pair.migrate_with(&migration, |progress| {
            if progress.status == "postcopy-active" { Action::PausePostcopy } else { Action::Continue }
        })
        .unwrap()
    });
    assert_completed_by_postcopy(&shape, &["ram", "ram"]);
}

/// A migration that takes two seconds, so that it can be interrupted in the middle.
fn interrupted(name: &str, interrupt: impl Fn(&BarePair) -> Box<dyn Fn() -> Action>) -> Shape {
    let migration = Migration { max_bandwidth_bytes_per_s: 4 * MIB, ..Migration::default() };
    move_by(name, 8, &migration, |pair| {
        let interrupt = interrupt(pair);
        pair.migrate_with(&migration, |progress| {
            let is_in_the_middle = progress.status == "active" && progress.transferred_bytes > MIB;
            if is_in_the_middle { interrupt() } else { Action::Continue }
        })
        .unwrap()
    })
}

fn assert_stayed(shape: &Shape, outcome: &str) {
    shape.assert_well(outcome, &["ram"]);
    shape.assert_clock(1_000_000);
    assert_eq!(shape.merged.record["downtime"]["stopped"], false);
    shape.assert_not_measured(&[REACHABILITY]);
}

#[test]
fn a_cancelled_migration() {
    let shape = interrupted("cancelled-10.0", |_| Box::new(|| Action::Cancel));
    assert_stayed(&shape, "cancelled");
}

#[test]
fn the_destination_is_killed() {
    let shape = interrupted("destination-killed-10.0", |pair| {
        let destination = Pid::from_raw(pair.destination.pid().cast_signed());
        Box::new(move || {
            let _ = kill(destination, Signal::SIGKILL);
            Action::Continue
        })
    });
    assert_stayed(&shape, "failed");
}
