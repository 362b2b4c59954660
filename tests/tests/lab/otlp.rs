//! What `migtrace record --otlp` sends of a real migration, as a collector on each host receives it.

use crate::support::rotel::{Rotel, fields};
use crate::support::{GUEST_PATIENCE, assert_recorded, number};
use migtrace_lab::migtrace_command::Recording;
use migtrace_lab::{Migration, Outcome, shared_lab};
use serde_json::Value;

/// The trace that a record's migration has.
fn trace(record: &Value) -> String {
    record["migration"]["id"].as_str().unwrap().replace('-', "")
}

#[test]
fn each_host_sends_its_half_of_one_trace_to_its_own_collector() {
    let mut lab = shared_lab().unwrap();
    let collectors = [lab.guest_host(), lab.other_host()].map(Rotel::start);
    // The default is HTTP; the port of gRPC says so.
    let source = Recording::start(lab.guest_host(), &["--otlp"]).unwrap();
    let destination = Recording::start(lab.other_host(), &["--otlp", "http://127.0.0.1:4317"]).unwrap();
    assert_eq!(lab.migrate(&Migration::default()).unwrap().outcome, Outcome::Completed);
    let records =
        [source, destination].map(|recording| assert_recorded(&recording.finish(GUEST_PATIENCE).unwrap(), 0));
    let ids = records.each_ref().map(trace);
    assert_eq!(ids[0], ids[1]);
    let logs = collectors.each_ref().map(|collector| collector.wait_for("migtrace.migration.wire"));
    for (log, record) in logs.iter().zip(&records) {
        let traces = fields(log, "Trace ID");
        assert!(!traces.is_empty() && traces.iter().all(|found| **found == ids[0]), "{log}");
        // What the report says is what was sent.
        let total = number(&record["total_time"]["value_ns"]);
        assert!(log.contains(&format!("migtrace.total.value_ns: Int({total})")), "{log}");
        let sent = number(&record["traffic"]["total"]["tx"]["wire_bytes"]);
        assert!(log.contains(&format!("migtrace.tx.wire_bytes: Int({sent})")), "{log}");
    }
    let [ours, theirs] = logs.each_ref().map(|log| fields(log, "ID"));
    assert!(ours.iter().all(|id| !theirs.contains(id)));
    // The first span of each is its migration: the destination's is below the source's.
    assert_eq!(fields(&logs[1], "Parent ID")[0], ours[0]);
}

#[test]
fn a_collector_that_is_away_costs_the_trace_and_not_the_record() {
    let mut lab = shared_lab().unwrap();
    let options = ["--otlp", "http://127.0.0.1:9"];
    let recording = Recording::start(lab.guest_host(), &options).unwrap();
    assert_eq!(lab.migrate(&Migration::default()).unwrap().outcome, Outcome::Completed);
    let recorded = recording.finish(GUEST_PATIENCE).unwrap();
    let record = assert_recorded(&recorded, 1);
    assert_eq!(record["migration"]["outcome"], "completed");
    assert!(recorded.stderr.contains("a trace did not reach http://127.0.0.1:9/"), "{}", recorded.stderr);
}
