//! Migrations that would not end are made to end by somebody else than their driver.

use super::start_with_guest;
use crate::support::one_at_a_time;
use migtrace_lab::{Action, Convergence, Lab, Migrated, Migration, Outcome, Progress, Side, converge};

/// A guest that dirties more than the link can carry.
fn endless() -> Lab {
    start_with_guest(Lab::builder().dirty(48, 80).rate("300mbit"))
}

/// Migrates, and acts as another client of QEMU once the second pass has begun.
fn migrate(lab: &mut Lab, migration: &Migration, actions: &[Convergence]) -> Migrated {
    let name = lab.name().to_owned();
    let mut left = actions.iter();
    let act_in_second_pass = |progress: &Progress<'_>| {
        if progress.status == "active"
            && progress.pass >= 2
            && let Some(action) = left.next()
        {
            converge(&name, *action).unwrap();
        }
        Action::Continue
    };
    let migrated = lab.migrate_with(migration, act_in_second_pass).unwrap();
    lab.ping_guest().unwrap();
    migrated
}

/// When a side's first event of this name came.
fn at_ns(migrated: &Migrated, side: Side, name: &str) -> u64 {
    migrated.event(side, name).unwrap_or_else(|| panic!("no {name}: {:?}", migrated.events)).received_ns
}

#[test]
fn a_suspended_guest_runs_on_the_destination_afterwards() {
    let _lock = one_at_a_time();
    let mut lab = endless();
    for migration in [Migration::like_libvirt(), Migration::default()] {
        let migrated = migrate(&mut lab, &migration, &[Convergence::Suspend]);
        assert_eq!(migrated.outcome, Outcome::Completed, "{}", migrated.source);
        // It stood still while the rest of its memory crossed, not only while QEMU switched over.
        let stopped_ns =
            at_ns(&migrated, Side::Destination, "RESUME") - at_ns(&migrated, Side::Source, "STOP");
        assert!(stopped_ns > 500_000_000, "{stopped_ns} ns");
    }
    assert_eq!(lab.guest_host().role(), "src");
}

#[test]
fn a_guest_whose_migration_is_given_up_stays_and_runs() {
    let _lock = one_at_a_time();
    let mut lab = endless();
    let actions = [Convergence::Suspend, Convergence::Abort];
    let migrated = migrate(&mut lab, &Migration::like_libvirt(), &actions);
    // QEMU 7.2 closes the connection just before it notes that it cancels: its own thread may see that first, as a failure.
    assert_ne!(migrated.outcome, Outcome::Completed);
    assert!(at_ns(&migrated, Side::Source, "STOP") < at_ns(&migrated, Side::Source, "RESUME"));
    assert_eq!(lab.guest_host().role(), "src");
}

#[test]
fn a_copy_of_a_disk_is_given_up_too() {
    let _lock = one_at_a_time();
    let mut lab = start_with_guest(Lab::builder().dirty(16, 4).disk_mib(32).rate("200mbit"));
    let name = lab.name().to_owned();
    let mut given_up = false;
    let abort = |progress: &Progress<'_>| {
        if !given_up && progress.transferred_bytes > 0 {
            assert_eq!(progress.status, "disk-sync");
            converge(&name, Convergence::Abort).unwrap();
            given_up = true;
        }
        Action::Continue
    };
    let migrated = lab.migrate_with(&Migration::like_libvirt(), abort).unwrap();
    assert_eq!(migrated.outcome, Outcome::Cancelled);
    lab.ping_guest().unwrap();
    // The guest can try again.
    let migrated = lab.migrate(&Migration::like_libvirt()).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed);
}

#[test]
fn a_guest_that_is_told_to_move_runs_before_its_memory_has_arrived() {
    let _lock = one_at_a_time();
    let mut lab = endless();
    let migration = Migration { postcopy_at_pass: Some(u64::MAX), ..Migration::like_libvirt() };
    let migrated = migrate(&mut lab, &migration, &[Convergence::Postcopy]);
    assert_eq!(migrated.outcome, Outcome::Completed, "{}", migrated.source);
    let states = migrated.events.iter().filter(|seen| seen.side == Side::Source);
    let completed = states.into_iter().find(|seen| seen.event.data["status"] == "completed").unwrap();
    assert!(at_ns(&migrated, Side::Destination, "RESUME") < completed.event.received_ns);
}

#[test]
fn without_a_migration_nothing_can_be_made_to_end() {
    let _lock = one_at_a_time();
    let lab = start_with_guest(Lab::builder().dirty(16, 4));
    for action in [Convergence::Postcopy, Convergence::Suspend, Convergence::Abort] {
        let error = converge(lab.name(), action).unwrap_err().to_string();
        assert!(error.contains("no migration runs") && error.contains(lab.name()), "{error}");
    }
    // A suspended guest would not answer.
    lab.ping_guest().unwrap();
}
