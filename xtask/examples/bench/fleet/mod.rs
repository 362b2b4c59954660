//! What it takes to merge the logs of a fleet: the time, the memory, and that the records are right.

mod generator;
mod variation;

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use migtrace::invariants;
use migtrace::record::{self, Record};
use migtrace_lab::Download;
use serde::{Deserialize, Serialize};

use crate::report::Machine;
use generator::Generator;

/// How often the memory of a running merge is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Checking a record takes longer than making it: so many are checked, spread over all.
const CHECKED: usize = 2_000;

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Fleet {
    machine: Machine,
    migrations: u32,
    log_bytes: u64,
    record_bytes: u64,
    generated_s: f64,
    merges: Vec<Merge>,
    /// What loading the records into `ClickHouse` and each question takes.
    asked: Vec<Asked>,
}

/// How long `ClickHouse` takes for something.
#[derive(Deserialize, Serialize)]
struct Asked {
    question: String,
    seconds: f64,
}

/// One run of `migtrace merge --directory`.
#[derive(Serialize)]
struct Merge {
    threads: usize,
    seconds: f64,
    peak_bytes: u64,
}

/// Makes the logs of a fleet, merges them with one thread and with all, and checks the records.
pub(crate) fn measure(
    migtrace: &Path,
    migrations: u32,
    seed: u64,
    directory: Option<&Path>,
) -> Result<Fleet> {
    let machine = Machine::read()?;
    let temporary = tempfile::tempdir().context("cannot make a directory for the logs")?;
    let directory = directory.unwrap_or_else(|| temporary.path());
    let logs = directory.join("logs");
    eprintln!("1/4 the logs of {migrations} migrations");
    let begun = Instant::now();
    let log_bytes = Generator::new(migrations, seed)?.write(&logs)?;
    let generated_s = begun.elapsed().as_secs_f64();
    let cpus = thread::available_parallelism()?.get();
    let mut merges = Vec::new();
    let records = directory.join("records.jsonl");
    for threads in [cpus, 1] {
        eprintln!("2/4 merging them with {threads} threads");
        merges.push(merge(migtrace, &logs, &records, threads)?);
    }
    eprintln!("3/4 checking the records");
    check(&records, migrations)?;
    let record_bytes = fs::metadata(&records)?.len();
    eprintln!("4/4 asking ClickHouse");
    let asked = ask(&records)?;
    Ok(Fleet { machine, migrations, log_bytes, record_bytes, generated_s, merges, asked })
}

/// Loads the records into chDB, and asks it all questions of `dist/clickhouse`.
fn ask(records: &Path) -> Result<Vec<Asked>> {
    let module = Download::ClickHouse.fetched()?.context("there is no chDB: run `cargo xtask setup`")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migtrace/tests/clickhouse/check.py");
    let mut python = Command::new("python3");
    python.arg(script).arg(records).arg(".").arg("--times");
    python.env("PYTHONPATH", module).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = python.output().context("cannot run python3")?;
    if !output.status.success() {
        bail!("ClickHouse: {}", String::from_utf8_lossy(&output.stderr));
    }
    let said = String::from_utf8(output.stdout)?;
    said.lines().map(|line| serde_json::from_str(line).context("what check.py says")).collect()
}

fn merge(migtrace: &Path, logs: &Path, records: &Path, threads: usize) -> Result<Merge> {
    let mut command = Command::new(migtrace);
    command.args(["merge", "--directory"]).arg(logs).arg("--output").arg(records);
    command.env("RAYON_NUM_THREADS", threads.to_string()).stdin(Stdio::null());
    let begun = Instant::now();
    let mut running = command.spawn().context("cannot run migtrace")?;
    let mut peak_bytes = 0;
    let status = loop {
        peak_bytes = peak(running.id()).unwrap_or(peak_bytes);
        if let Some(status) = running.try_wait()? {
            break status;
        }
        thread::sleep(LOOK);
    };
    if !status.success() {
        bail!("migtrace merge ended with {status}");
    }
    Ok(Merge { threads, seconds: begun.elapsed().as_secs_f64(), peak_bytes })
}

/// The most memory that a process has had.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1_024)
}

/// Every migration has one record of both hosts, and those that are looked at are sound.
fn check(records: &Path, migrations: u32) -> Result<()> {
    let mut found = 0;
    let every = (migrations as usize).div_ceil(CHECKED);
    for (number, line) in BufReader::new(File::open(records)?).lines().enumerate() {
        found += 1;
        if number % every == 0 {
            let record: Record = record::read(line?.as_bytes()).next().context("an empty line")??;
            invariants::record(&record).map_err(|why| anyhow::anyhow!("record {}: {why}", number + 1))?;
            if record.observers.len() != 2 {
                bail!("record {} is not of both hosts", number + 1);
            }
        }
    }
    if found != migrations {
        bail!("{found} records of {migrations} migrations");
    }
    Ok(())
}

impl fmt::Display for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, migrations, log_bytes, record_bytes, generated_s, merges, asked } = self;
        let kib = |bytes: u64| bytes as f64 / f64::from(*migrations) / 1_024.0;
        writeln!(f, "{machine}")?;
        writeln!(
            f,
            "{migrations} migrations, {} logs of both hosts, made in {generated_s:.0} s",
            2 * u64::from(*migrations)
        )?;
        writeln!(
            f,
            "A migration: {:.1} KiB of logs, {:.1} KiB of record",
            kib(*log_bytes),
            kib(*record_bytes)
        )?;
        for Merge { threads, seconds, peak_bytes } in merges {
            writeln!(
                f,
                "{threads} threads: {seconds:.1} s, {:.2} ms of a core for a migration; at most {:.0} MiB",
                seconds * 1_000.0 * *threads as f64 / f64::from(*migrations),
                *peak_bytes as f64 / f64::from(1 << 20)
            )?;
        }
        for Asked { question, seconds } in asked {
            writeln!(f, "ClickHouse, {question}: {seconds:.2} s")?;
        }
        Ok(())
    }
}
