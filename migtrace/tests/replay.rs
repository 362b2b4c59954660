//! How much time and memory the built command needs to replay a long log. This test is alone in its file, because a process is
//! charged for the memory of the process that started it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::log_builder::{Log, MS, T0};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::json;

const EVENTS: u64 = 500_000;
const FLOWS: u64 = 9;
const MOST_KIB: i64 = 100 << 10;
/// An optimised build needs less than 2 s; one that is not, some ten times as much. On a busy machine it is more.
const MOST_TIME: Duration = Duration::from_secs(if cfg!(debug_assertions) { 120 } else { 4 });

/// The log until the first pass.
fn begun() -> Log {
    let mut log = Log::begun();
    log.status(T0 - 3 * MS, 7, "setup", 0);
    log.probed(T0 - 3 * MS);
    for flow in 0..FLOWS {
        log.flow_seen(T0 - 2 * MS, flow);
        log.flow_owner(T0 - 2 * MS, flow);
    }
    log.status(T0 - MS, 7, "active", 0);
    log
}

/// A migration with multifd that does not converge for hours, probed, as the tracer records it.
fn long_migration(mut write: impl FnMut(&str)) {
    let mut log = begun();
    let mut carried = 0;
    for i in 0..EVENTS - 60 {
        let at_ns = T0 + i * 20 * MS;
        carried += 1_000_000;
        match i % 100 {
            0..=3 => log.qmp(at_ns, 7, "MIGRATION_PASS", json!({ "pass": i / 25 + 1 }), carried),
            4..=7 => {
                log.add(
                    at_ns,
                    "dirty_log",
                    json!({ "pid": 7, "counters": common::log_builder::counters(carried) }),
                );
            }
            8..=11 => log.gap(at_ns),
            12..=15 => {
                let vcpus = json!({ "known": 2, "inside": 0, "first_left_ns": at_ns - MS, "last_left_ns": at_ns - 1 });
                log.add(at_ns, "guest_run", json!({ "pid": 7, "vcpus": vcpus }));
            }
            16 | 17 => {
                let void = json!({ "pid": 7, "entered_ns": at_ns - 40 * MS, "certain": i % 2 == 0 });
                log.add(at_ns, "guest_run_void", void);
            }
            18 => {
                log.add(
                    at_ns,
                    "announcement",
                    json!({ "pid": 7, "interface": "tap0", "kind": "gratuitous_arp" }),
                );
            }
            19 => {
                let lost =
                    json!({ "ring_buffer": i, "flows": 0, "hook_calls": 0, "since_ns": at_ns - 1_000 * MS });
                log.add(at_ns, "lost", lost);
            }
            20 => {
                let fragments = common::log_builder::counters(i);
                log.add(
                    at_ns,
                    "fragments",
                    json!({ "local": "192.0.2.1", "remote": "192.0.3.2", "counters": fragments }),
                );
            }
            _ => log.counted(at_ns, i % FLOWS, T0 - 2 * MS, carried / FLOWS, false),
        }
        write(&std::mem::take(&mut log.0));
    }
    let end_ns = T0 + EVENTS * 20 * MS;
    log.stop(end_ns, 7);
    log.status(end_ns + MS, 7, "completed", carried);
    (0..FLOWS).for_each(|flow| log.counted(end_ns + 2 * MS, flow, T0 - 2 * MS, carried / FLOWS, true));
    write(&log.ended(end_ns + 3 * MS));
}

#[test]
fn a_long_log_is_replayed_in_little_time_and_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let mut file = BufWriter::new(File::create(&path).unwrap());
    let mut lines = 0;
    long_migration(|text| {
        lines += text.lines().count();
        file.write_all(text.as_bytes()).unwrap();
    });
    file.into_inner().unwrap();
    assert!(lines.abs_diff(EVENTS as usize) < 100, "{lines}");

    let mut report = Command::new(env!("CARGO_BIN_EXE_migtrace"));
    let report = report.args(["report", "--format", "json"]).arg(&path).stdin(Stdio::null());
    let output = report.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let time = used.user_time() + used.system_time();
    let time = Duration::from_micros(time.num_microseconds().unsigned_abs());
    println!("{} KiB, {time:?}", used.max_rss());
    assert!(used.max_rss() < MOST_KIB, "{} KiB", used.max_rss());
    assert!(time < MOST_TIME, "{time:?}");
}
