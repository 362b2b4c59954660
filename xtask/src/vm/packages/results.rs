//! What the service has recorded, against what QEMU says about the migration.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use migtrace_lab::hooks_without_perf_events;
use serde_json::Value;

/// QEMU 7.2 leaves the state of the devices out of its count: some 110 KiB here.
const MOST_UNCOUNTED_BYTES: u64 = 200 << 10;
/// Between QEMU's work and its events about that, on an emulated CPU.
const MOST_APART_MS: u64 = 150;
const NAME: &str = "moved";

/// Checks the files on a disk.
///
/// # Errors
/// When the record is not that of the migration, or the sandbox kept an instrument from its hook.
pub(super) fn check(disk: &Path) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder for the results")?;
    let status =
        Command::new("tar").arg("--extract").arg("--file").arg(disk).arg("-C").arg(folder.path()).status();
    ensure!(status.context("cannot run tar")?.success(), "the results cannot be unpacked");
    let read = |name: &str| {
        fs::read_to_string(folder.path().join(name)).with_context(|| format!("there is no {name}"))
    };
    check_instruments(read("log.jsonl")?.lines().next().unwrap_or_default())?;
    check_record(
        &serde_json::from_str(&read("record.json")?)?,
        &serde_json::from_str(&read("query-migrate.json")?)?,
    )
}

fn check_instruments(log_start: &str) -> Result<()> {
    let start: Value = serde_json::from_str(log_start).context("the log has no first line")?;
    let interfaces = &start["interfaces"];
    ensure!(interfaces[0]["attach"] == "clsact", "packets are not counted by TC filters: {interfaces}");
    let instruments = start["instruments"].as_array().context("the log names no instruments")?;
    for (name, hook) in hooks_without_perf_events() {
        let found = instruments.iter().find(|instrument| instrument["name"] == name);
        let found = found.with_context(|| format!("no instrument {name}"))?;
        ensure!(found["hook"] == hook, "under the sandbox, {name} is not at {hook}: {found:#}");
    }
    Ok(())
}

fn check_record(record: &Value, said: &Value) -> Result<()> {
    let number =
        |value: &Value, what: &str| value.as_u64().with_context(|| format!("there is no {what}: {value}"));
    let migration = &record["migration"];
    ensure!(migration["outcome"] == "completed", "the migration has completed; the record says {migration}");
    ensure!(record["vm"]["name"] == NAME, "the guest is called {NAME}; the record says {}", record["vm"]);
    let payload_bytes = number(&record["traffic"]["total"]["tx"]["payload_bytes"], "payload")?;
    let transferred_bytes = number(&said["return"]["ram"]["transferred"], "count of QEMU's")?;
    ensure!(
        (transferred_bytes..transferred_bytes + MOST_UNCOUNTED_BYTES).contains(&payload_bytes),
        "QEMU has sent {transferred_bytes} bytes of memory; the record says {payload_bytes}"
    );
    let recorded_ns = number(&record["total_time"]["value_ns"], "total time")?;
    let total_ms = number(&said["return"]["total-time"], "total time of QEMU's")?;
    ensure!(
        (recorded_ns / 1_000_000).abs_diff(total_ms) <= MOST_APART_MS,
        "QEMU took {total_ms} ms for all of it; the record says {recorded_ns} ns"
    );
    let phases = record["phases"].as_array().context("the record has no phases")?;
    for name in ["setup", "active", "stop", "completed"] {
        ensure!(phases.iter().any(|phase| phase["name"] == name), "no phase {name}: {phases:?}");
    }
    Ok(())
}
