//! Studies that never ran: their folders, written from a few numbers.

use std::fs;
use std::path::Path;

use migtrace::report;
use migtrace::study::answer::{Answer, Choice, Material, answer};
use migtrace::study::directory::{Study, StudyDirectory};
use migtrace::study::material;
use migtrace::study::plan::Plan;
use serde_json::{Value, json};

/// Two flavours, unloaded and loaded, three runs each.
pub(crate) const PLAN: &str = r#"
title = "How size and load change a migration"
description = "A study that never ran."

[variables]
LINK_RATE = "1gbit"

[[axis]]
name = "flavour"
title = "Flavour"
values = [
  { name = "t", title = "t (512 MiB)", set = { MEMORY_MIB = 512 } },
  { name = "s", title = "s (2 GiB)", set = { MEMORY_MIB = 2048 } },
]
[[axis]]
name = "load"
values = ["unloaded", "loaded"]

[runs]
repetitions = 3

[driver]
migrate = "true"

[report]
rows = "load"
columns = "flavour"

[published]
source = "ZHAW ICCLab, 2014"
cells = [
  { flavour = "t", load = "unloaded", time_s = 9.4, downtime_s = 3.0, data_mb = 468 },
  { flavour = "t", load = "loaded", time_s = 9.6, downtime_s = 4.2, data_mb = 468 },
  { flavour = "s", load = "unloaded", time_s = 20.5, downtime_s = 5.4, data_mb = 760 },
  { flavour = "s", load = "loaded", time_s = 29.9, downtime_s = 18.6, data_mb = 760 },
]
"#;

/// A migration in round numbers, in nanoseconds and bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    pub(crate) setup: u64,
    pub(crate) disk: (u64, u64),
    pub(crate) passes: [(u64, u64); 3],
    pub(crate) stop: u64,
    pub(crate) tail: u64,
}

impl Numbers {
    /// Those of a cell: the second flavour takes twice as long, and the load half as long again.
    pub(crate) fn of(flavour: usize, is_loaded: bool, jitter: u64) -> Self {
        let size = flavour as u64 + 1;
        let load = if is_loaded { 2 } else { 0 };
        let (second, mb) = (1_000_000_000 + jitter * 1_000_000, 100_000_000 + jitter * 1_000);
        Self {
            setup: 20_000_000,
            disk: (size * second, size * mb),
            passes: [
                (2 * size * second, 2 * size * mb),
                (load * second / 2, load * mb / 2),
                (load * second / 4, load * mb / 4),
            ],
            stop: 50_000_000 + 100_000_000 * size * (load + 1) + jitter * 1_000_000,
            tail: 30_000_000,
        }
    }

    fn copied(&self) -> u64 {
        self.disk.0 + self.passes.iter().map(|pass| pass.0).sum::<u64>()
    }

    pub(crate) fn total(&self) -> u64 {
        self.setup + self.copied() + self.stop
    }

    pub(crate) fn memory(&self) -> u64 {
        self.passes.iter().map(|pass| pass.1).sum::<u64>() + LAST_BYTES
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.disk.1 + self.memory()
    }

    pub(crate) fn pings_lost(&self) -> u64 {
        (self.stop + self.tail) / PING_INTERVAL + 1
    }
}

pub(crate) const PING_INTERVAL: u64 = 200_000_000;
/// What is sent while the guest is stopped.
const LAST_BYTES: u64 = 5_000_000;
/// How far a bound is from a value.
pub(crate) const ERROR: u64 = 1_000_000;

fn counters(bytes: u64) -> Value {
    let sent = json!({ "wire_bytes": bytes, "payload_bytes": bytes / 100 * 95, "segments": bytes / 1500, "skbs": 1 });
    json!({ "tx": sent, "rx": { "wire_bytes": 1000, "payload_bytes": 0, "segments": 10, "skbs": 10 } })
}

fn estimate(value: u64) -> Value {
    json!({ "value_ns": value, "low_ns": value - ERROR.min(value), "high_ns": value + ERROR, "method": "vcpus" })
}

/// The phases, one after the other.
fn phases(numbers: &Numbers) -> Vec<Value> {
    let mut at = 0;
    let mut phase = |name: &str, pass: Option<u64>, (length, bytes): (u64, u64)| {
        let start = at;
        at += length;
        json!({ "name": name, "pass": pass, "start_ns": start, "end_ns": at, "traffic": counters(bytes) })
    };
    let mut phases = vec![phase("setup", None, (numbers.setup, 0)), phase("disk-sync", None, numbers.disk)];
    for (number, pass) in (1..).zip(numbers.passes) {
        if pass.0 > 0 {
            phases.push(phase("active", Some(number), pass));
        }
    }
    phases.push(phase("device", None, (numbers.stop, LAST_BYTES)));
    phases.push(phase("completed", None, (0, 0)));
    phases
}

fn part(name: &str, role: &str, length: u64, bytes: Option<u64>) -> Value {
    json!({
        "name": name, "role": role, "host": "host-a", "start_ns": 0, "length": estimate(length), "wire_bytes": bytes,
    })
}

fn flow(purpose: &str, port: u16, last: u64, bytes: u64) -> Value {
    json!({
        "local": format!("192.0.2.1:{port}"), "remote": "192.0.2.2:49152", "purpose": purpose, "interface": "eth0",
        "first_ns": 0, "last_ns": last, "from_start": true, "counters": counters(bytes), "retransmitted_segments": 7,
    })
}

/// The record of a migration.
pub(crate) fn record(numbers: &Numbers) -> Value {
    let samples: Vec<Value> = (0..=4)
        .map(|i| json!({ "at_ns": numbers.total() / 4 * i, "wire_bytes": { "tx": numbers.bytes() / 4 * i, "rx": i } }))
        .collect();
    let round_trip = |ns: u64| json!({ "worst_round_trip_ns": ns, "longest_gap": null });
    json!({
        "schema": "migtrace.record/1",
        "migration": { "id": null, "mode": "precopy", "outcome": "completed", "error": null },
        "vm": { "uuid": null, "name": "web-1", "vcpus": 1, "memory_bytes": null },
        "observers": [],
        "start": { "realtime_ns": null, "error_ns": null, "seen": true },
        "total_time": estimate(numbers.total()),
        "setup_time": estimate(numbers.setup),
        "phases": phases(numbers),
        "traffic": {
            "total": counters(numbers.bytes()),
            "retransmitted_segments": 7, "retransmitted_payload_bytes": 10_000,
            "flows": [flow("nbd", 40000, numbers.total(), numbers.disk.1), flow("ram", 40001, numbers.total(), numbers.memory())],
            "fragments": null, "samples": samples,
        },
        "downtime": {
            "stopped": true,
            "stop": estimate(numbers.stop),
            "parts": [
                part("drain", "source", numbers.stop / 10, Some(0)),
                part("last-pass", "source", numbers.stop / 10 * 8, Some(LAST_BYTES)),
                part("load", "destination", numbers.stop / 10, None),
            ],
            "network": estimate(numbers.stop + numbers.tail / 2),
            "reachability": estimate(numbers.stop + numbers.tail),
            "tail": estimate(numbers.tail),
            "qemu_reported_ns": null,
            "brownout": { "before": round_trip(16_500_000), "after": round_trip(2_000_000) },
            "budget_ns": null, "contradictions": [], "announcements": [], "marks": [],
        },
        "qemu": { "version": null, "accelerator": null, "stats": null },
        "not_measured": [],
        "lost": { "ring_buffer": 0, "flows": 0, "hook_calls": 0 },
    })
}

/// What a run has left beside its record.
pub(crate) fn run(number: usize, cell: &Value, repetition: Option<usize>, numbers: &Numbers) -> Value {
    json!({
        "schema": "migtrace.run/1", "number": number, "cell": cell, "repetition": repetition, "attempt": 1,
        "outcome": { "is": "completed" }, "start": "2026-11-28T12:00:00Z",
        "prepare_ns": 1, "migrate_ns": numbers.total() + 40_000_000, "run_ns": 1, "converged_after_ns": null,
        "variables": {},
        "old_method": {
            "pings": { "interval_ns": PING_INTERVAL, "sent": 100, "lost": numbers.pings_lost() },
            "meter": {
                "host": null, "interfaces": ["eth0"], "tx_bytes": numbers.bytes() + 1_000_000, "rx_bytes": 5_000,
            },
        },
        "not_measured": [],
    })
}

/// The folder of a study.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// All runs of [`PLAN`], the repetitions one after the other.
    pub(crate) fn whole() -> Self {
        let folder = Self::empty();
        for (at, (run, record)) in runs().into_iter().enumerate() {
            folder.add(&format!("{:03}-x", at + 1), &run, Some(&record));
        }
        folder
    }

    /// With the files that make it the folder of a study.
    pub(crate) fn with_plan(self) -> Self {
        let study = Study::new(Plan::parse(PLAN).unwrap());
        fs::write(self.path().join("plan.toml"), PLAN).unwrap();
        fs::write(self.path().join("study.json"), report::json(&study).unwrap()).unwrap();
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn add(&self, name: &str, run: &Value, record: Option<&Value>) {
        let folder = self.path().join("runs").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("run.json"), run.to_string()).unwrap();
        if let Some(record) = record {
            fs::write(folder.join("record.json"), record.to_string()).unwrap();
        }
    }

    pub(crate) fn answer(&self) -> Answer {
        self.answer_to(PLAN, &Choice::default())
    }

    pub(crate) fn answer_to(&self, plan: &str, choice: &Choice) -> Answer {
        answer(&Plan::parse(plan).unwrap(), &self.material(), choice).unwrap()
    }

    pub(crate) fn material(&self) -> Material {
        material::read(&StudyDirectory::new(self.path().to_owned()))
    }

    pub(crate) fn text(&self) -> String {
        report::study::text::render(&self.answer())
    }
}

/// All runs of [`PLAN`], each with its record.
pub(crate) fn runs() -> Vec<(Value, Value)> {
    let mut runs = Vec::new();
    for repetition in 1..=3 {
        for (flavour, flavour_name) in ["t", "s"].into_iter().enumerate() {
            for (is_loaded, load) in [(false, "unloaded"), (true, "loaded")] {
                let jitter = [0, 7, 3][repetition - 1] + flavour as u64;
                let numbers = Numbers::of(flavour, is_loaded, jitter);
                let cell = json!({ "flavour": flavour_name, "load": load });
                runs.push((run(runs.len() + 1, &cell, Some(repetition), &numbers), record(&numbers)));
            }
        }
    }
    runs
}

/// All runs of [`PLAN`], after a change of each with its record.
pub(crate) fn changed(change: impl Fn(usize, &mut Value, &mut Value)) -> Folder {
    let folder = Folder::empty();
    for (at, (mut run, mut record)) in runs().into_iter().enumerate() {
        change(at + 1, &mut run, &mut record);
        folder.add(&format!("{:03}-x", at + 1), &run, Some(&record));
    }
    folder
}
