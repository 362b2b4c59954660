//! Migrations that do not complete: the guest stays, or is lost.

use super::{BARE, REACHABILITY, Shape, bare, list, shape, shape_watched};
use crate::support::{MIB, network};
use migtrace_lab::record_checks::phase_names;
use migtrace_lab::{Action, BarePair, Host, Lab, Migrated, Migration, Outcome, Progress, Side};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::cell::Cell;
use std::fs;

/// A migration that takes two seconds, so that it can be interrupted.
fn slow() -> Migration {
    Migration { max_bandwidth_bytes_per_s: 4 * MIB, ..Migration::default() }
}

/// How much a migration that is interrupted would send.
const FILLED_MIB: usize = 8;

/// Whether a migration is well under way.
fn is_in_the_middle(progress: &Progress<'_>) -> bool {
    progress.status == "active" && progress.transferred_bytes > MIB
}

/// Checks that the guest never stopped, and that the record says so.
fn assert_never_stopped(shape: &Shape) {
    assert!(shape.merged.migrated.event(Side::Source, "STOP").is_none());
    let downtime = &shape.merged.record["downtime"];
    assert_eq!(downtime["stopped"], false, "{downtime:#}");
    for length in ["stop", "network", "reachability"] {
        assert!(downtime[length].is_null(), "{downtime:#}");
    }
    for nothing in ["parts", "marks"] {
        assert!(list(&downtime[nothing]).is_empty(), "{downtime:#}");
    }
}

#[test]
fn a_cancelled_migration() {
    let lab = network();
    let (from, to, migration) = (lab.source(), lab.destination(), slow());
    let mut pair = BarePair::start(from, to, &bare("cancelled", FILLED_MIB), &migration).unwrap();
    let shape = shape("cancelled-7.2", from, to, || {
        let cancel = |progress: &Progress<'_>| match is_in_the_middle(progress) {
            true => Action::Cancel,
            false => Action::Continue,
        };
        pair.migrate_with(&migration, cancel).unwrap()
    });
    assert_eq!(shape.merged.migrated.outcome, Outcome::Cancelled);
    shape.assert_well("cancelled", &["ram"]);
    assert_never_stopped(&shape);
    shape.assert_clock(1_000_000);
    shape.assert_not_measured(&[REACHABILITY]);
}

#[test]
fn the_destination_is_killed() {
    let lab = network();
    let (from, to, migration) = (lab.source(), lab.destination(), slow());
    let mut pair = BarePair::start(from, to, &bare("killed", FILLED_MIB), &migration).unwrap();
    let destination = Pid::from_raw(pair.destination.pid().cast_signed());
    let shape = shape("destination-killed-7.2", from, to, || {
        let kill_in_the_middle = |progress: &Progress<'_>| {
            if is_in_the_middle(progress) {
                let _ = kill(destination, Signal::SIGKILL);
            }
            Action::Continue
        };
        pair.migrate_with(&migration, kill_in_the_middle).unwrap()
    });
    assert_eq!(shape.merged.migrated.outcome, Outcome::Failed);
    shape.assert_well("failed", &["ram"]);
    assert_never_stopped(&shape);
    shape.assert_clock(1_000_000);
    shape.assert_not_measured(&[REACHABILITY]);
}

/// A network whose hosts give a connection up after a second without an answer.
fn impatient_network() -> Lab {
    let lab = network();
    for host in [lab.source(), lab.destination()] {
        host.enter(|| fs::write("/proc/sys/net/ipv4/tcp_retries2", "2").unwrap()).unwrap();
    }
    lab
}

/// Takes the cable out of the switch.
fn cut(lab: &Lab) {
    lab.switch().tool("ip", &["link", "set", "dev", lab.destination().role(), "down"]).unwrap();
}

#[test]
fn the_link_is_cut_in_the_middle() {
    let lab = impatient_network();
    let (from, to, migration) = (lab.source(), lab.destination(), slow());
    let mut pair = BarePair::start(from, to, &bare("cut", FILLED_MIB), &migration).unwrap();
    let shape = shape_watched((from, Host::UPLINK), "link-cut-7.2", from, to, || {
        let is_cut = Cell::new(false);
        let migrated = pair.migrate_with(&migration, |progress| {
            if is_in_the_middle(progress) && !is_cut.replace(true) {
                cut(&lab);
            }
            Action::Continue
        });
        // The destination would wait forever. Its manager ends it.
        drop(pair);
        migrated.unwrap()
    });
    assert_eq!(shape.merged.migrated.outcome, Outcome::Failed);
    shape.assert_well("failed", &["ram"]);
    assert_never_stopped(&shape);
    // No packet has come across for seconds.
    shape.assert_clock(20_000_000);
    shape.assert_not_measured(&[REACHABILITY]);
}

/// A migration whose link is cut when the guest has stopped, before the rest is sent.
fn cut_at_switchover(lab: &Lab, name: &str, migration: &Migration) -> Migrated {
    let (from, to) = (lab.source(), lab.destination());
    let mut pair = BarePair::start(from, to, &bare(name, FILLED_MIB), migration).unwrap();
    let migrated = pair.migrate_with(migration, |progress| {
        if progress.status == "pre-switchover" {
            cut(lab);
        }
        Action::Continue
    });
    drop(pair);
    migrated.unwrap()
}

#[test]
fn the_link_is_cut_at_the_switchover() {
    let lab = impatient_network();
    let (from, to) = (lab.source(), lab.destination());
    let migration = Migration::like_libvirt();
    let shape = shape_watched((from, Host::UPLINK), "link-cut-at-switchover-7.2", from, to, || {
        cut_at_switchover(&lab, "torn", &migration)
    });
    assert_eq!(shape.merged.migrated.outcome, Outcome::Failed);
    shape.assert_well("failed", &["ram"]);
    // The guest goes on where it was.
    shape.merged.assert_stop_until(Side::Source);
    shape.assert_clock(1_000_000);
    let phases = phase_names(&shape.merged.record);
    assert_eq!(phases.last().unwrap(), "failed", "{phases:?}");
    shape.assert_not_measured(&BARE);
}
