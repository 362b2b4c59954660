//! The guest runs on the destination before its memory is there.

use super::{BYTES_OF_PARTS, REACHABILITY, VCPUS, bare, move_guest, shape};
use crate::support::{MIB, network};
use migtrace_lab::record_checks::phase_names;
use migtrace_lab::{Action, BarePair, Migration, Outcome, shared_lab};

fn postcopy() -> Migration {
    Migration {
        return_path: true,
        postcopy_at_pass: Some(2),
        max_bandwidth_bytes_per_s: 40 << 20,
        ..Migration::default()
    }
}

#[test]
fn a_guest_runs_before_its_memory_is_there() {
    let mut lab = shared_lab().unwrap();
    let shape = move_guest("postcopy-7.2", &mut lab, &postcopy());
    shape.assert_moved(&["ram"]);
    shape.assert_not_measured(&[BYTES_OF_PARTS, VCPUS, REACHABILITY]);
}

#[test]
fn pages_that_the_guest_waits_for_have_a_channel() {
    let mut lab = shared_lab().unwrap();
    let migration = Migration { postcopy_preempt: true, ..postcopy() };
    let shape = move_guest("postcopy-preempt-7.2", &mut lab, &migration);
    shape.assert_moved(&["postcopy_preempt", "ram"]);
    shape.assert_not_measured(&[BYTES_OF_PARTS, VCPUS, REACHABILITY]);
}

#[test]
fn an_interrupted_one_goes_on_over_another_connection() {
    let lab = network();
    let migration = Migration {
        postcopy_at_pass: Some(1),
        max_bandwidth_bytes_per_s: MIB,
        max_postcopy_bandwidth_bytes_per_s: 4 * MIB,
        ..postcopy()
    };
    let (from, to) = (lab.source(), lab.destination());
    let mut pair = BarePair::start(from, to, &bare("interrupted", 8), &migration).unwrap();
    let shape = shape("postcopy-recovered-7.2", from, to, || {
        pair.migrate_with(&migration, |progress| {
            if progress.status == "postcopy-active" { Action::PausePostcopy } else { Action::Continue }
        })
        .unwrap()
    });
    assert_eq!(shape.merged.migrated.outcome, Outcome::Completed);
    shape.assert_moved(&["ram", "ram"]);
    let phases = phase_names(&shape.merged.record);
    assert!(phases.contains(&"postcopy-paused".into()), "{phases:?}");
}
