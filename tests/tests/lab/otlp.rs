//! What `migtrace record --otlp` sends of a real migration, as a collector on each host receives it.

use crate::support::{GUEST_PATIENCE, assert_recorded, number};
use migtrace_lab::migtrace_command::Recording;
use migtrace_lab::{Download, Host, Migration, Outcome, Process, shared_lab};
use serde_json::Value;
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The collector Rotel on a host. It prints what it receives.
struct Rotel {
    _process: Process,
    folder: tempfile::TempDir,
}

impl Rotel {
    fn start(host: &Host) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Download::Otlp.fetch().unwrap().join("rotel/rotel-agent");
        let mut command = Command::new(program);
        command.args(["start", "--otlp-grpc-endpoint", "127.0.0.1:4317"]);
        command.args(["--otlp-http-endpoint", "127.0.0.1:4318", "--exporter", "blackhole"]);
        command.args([
            "--debug-log-verbosity",
            "detailed",
            "--debug-log",
            "traces",
            "--debug-log",
            "metrics",
        ]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command.stdout(File::create(folder.path().join("log")).unwrap());
        Self { _process: host.spawn(&mut command).unwrap(), folder }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// What it has printed, once this is a part of it.
    fn wait_for(&self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let log = self.log();
            if log.contains(text) {
                return log;
            }
            assert!(begun.elapsed() < GUEST_PATIENCE, "no {text} in {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The values of a field of spans, as Rotel prints them.
fn fields<'l>(log: &'l str, name: &str) -> Vec<&'l str> {
    let value = |line: &'l str| {
        Some(line.strip_prefix("    ")?.strip_prefix(name)?.trim_start().strip_prefix(": ")?.trim())
    };
    log.lines().filter_map(value).collect()
}

/// The trace that a record's migration has.
fn trace(record: &Value) -> String {
    record["migration"]["id"].as_str().unwrap().replace('-', "")
}

#[test]
fn each_host_sends_its_half_of_one_trace_to_its_own_collector() {
    let mut lab = shared_lab().unwrap();
    let collectors = [lab.guest_host(), lab.other_host()].map(Rotel::start);
    collectors.iter().for_each(|collector| drop(collector.wait_for("Starting Rotel")));
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
