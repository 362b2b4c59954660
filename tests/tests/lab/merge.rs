//! The event logs of both hosts make one record. Both hosts of the lab have the same clock, so the true difference of
//! their clocks is 0; and the driver knows when the guest stopped and ran again.

use crate::support::merged::{merge, migrate};
use migtrace_lab::record_checks::not_measured;
use migtrace_lab::{Lab, Migration, shared_lab};
use serde_json::Value;

#[test]
fn both_hosts_logs_make_one_record_with_the_whole_stop() {
    let mut lab = shared_lab().unwrap();
    // There and back.
    for _ in 0..2 {
        let merged = migrate(&mut lab, &Migration::default());
        assert!(merged.half_width_ns() < 100_000, "{}", merged.half_width_ns());
        merged.assert_stop();
        let (of_source, of_destination) =
            (merged.source.record().unwrap(), merged.destination.record().unwrap());
        for same in ["migration", "phases", "traffic", "total_time"] {
            assert_eq!(merged.record[same], of_source[same], "{same}");
        }
        assert_eq!(of_source["migration"]["id"], of_destination["migration"]["id"]);
        assert!(
            !not_measured(&merged.record).contains("must be recorded too"),
            "{}",
            not_measured(&merged.record)
        );
    }
}

#[test]
fn on_a_link_that_is_full_the_clocks_are_still_known() {
    let mut lab = Lab::builder().memory_mib(192).rate("400mbit").dirty(16, 20).start().unwrap();
    lab.wait_guest_ready().unwrap();
    let merged = migrate(&mut lab, &Migration::default());
    assert!(merged.half_width_ns() < 500_000, "{}", merged.half_width_ns());
    merged.assert_stop();
}

#[test]
fn logs_of_other_migrations_are_refused() {
    let mut lab = shared_lab().unwrap();
    let [first, second] = [0; 2].map(|_| migrate(&mut lab, &Migration::default()));
    let (ours, others) = (first.source.events_path(), second.source.events_path());
    let error = merge(&[&ours, &others]).unwrap_err();
    assert!(error.contains("does not belong to the other logs: "), "{error}");
    let error = merge(&[&ours, &ours]).unwrap_err();
    assert!(error.contains("recorded on the same host"), "{error}");
    // One log alone is what it always was.
    let alone: Value = serde_json::from_str(&merge(&[&ours]).unwrap()).unwrap();
    assert_eq!(alone, first.source.record().unwrap());
}
