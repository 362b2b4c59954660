//! What `migtrace watch` holds while a guest goes there and back for a long time.

use std::fmt;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use migtrace_lab::watch_command::{Watch, pairs};
use migtrace_lab::{BareQemu, Lab, map_entries, process_status};
use serde::Serialize;

use crate::cpu_time;
use crate::report::Machine;

/// Where the guest is migrated to: the first of libvirt's ports.
const PORT: u16 = 49152;
const PATIENCE: Duration = Duration::from_secs(60);
/// A closed connection is kept for ten seconds.
const SETTLED: Duration = Duration::from_secs(15);
/// So many lines are printed along the way.
const SAMPLES: u32 = 10;

/// What a watch holds after some migrations.
#[derive(Serialize)]
struct Held {
    migrations: u32,
    resident_kib: u64,
    /// Its heap and stacks.
    anonymous_kib: u64,
    descriptors: usize,
    map_entries: usize,
    cpu_s: f64,
    elapsed_s: f64,
}

/// What a watch held along the way.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    held: Vec<Held>,
    pairs: usize,
}

/// Lets a tiny guest go from one host to the other and back, `moves` times in all.
pub(crate) fn measure(moves: u32) -> Result<Report> {
    let machine = Machine::read()?;
    let lab = Lab::builder().without_guests().start().context("cannot make the lab")?;
    let directory = tempfile::tempdir().context("cannot make a directory for records")?;
    let mut guest = BareQemu::tiny(lab.source(), "restless")?;
    let mut watch = Watch::start(lab.source(), directory.path(), &[])?;
    let (pid, started) = (watch.pid(), Instant::now());
    let mut held = vec![Held::of(pid, 0, started)?];
    for number in 1..=moves {
        let to = if number % 2 == 1 { lab.destination() } else { lab.source() };
        let mut arrived = BareQemu::incoming_tiny(to, "restless", PORT)?;
        guest.migrate(to.ipv4(), PORT, 0)?;
        guest.wait_for_status("completed", PATIENCE)?;
        arrived.wait_for_status("completed", PATIENCE)?;
        guest = arrived;
        watch.next_line(PATIENCE).with_context(|| format!("migration {number}"))?;
        if number % moves.div_ceil(SAMPLES) == 0 {
            held.push(Held::of(pid, number, started)?);
            eprintln!("{number} of {moves}");
        }
    }
    thread::sleep(SETTLED);
    held.push(Held::of(pid, moves, started)?);
    let watched = watch.stop(PATIENCE)?;
    ensure!(watched.code == Some(0), "{}", watched.stderr);
    let pairs = pairs(directory.path())?.len();
    Ok(Report { machine, held, pairs })
}

impl Held {
    fn of(pid: u32, migrations: u32, started: Instant) -> Result<Self> {
        Ok(Self {
            migrations,
            resident_kib: process_status(pid, "VmRSS")?,
            anonymous_kib: process_status(pid, "RssAnon")?,
            descriptors: fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd"))?.count(),
            map_entries: map_entries(pid)?.values().sum(),
            cpu_s: cpu_time::of_process(pid)?.as_secs_f64(),
            elapsed_s: started.elapsed().as_secs_f64(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "\nOne `migtrace watch` while a tiny guest goes there and back\n")?;
        writeln!(f, "| migrations | resident | own | descriptors | map entries | CPU | time |")?;
        writeln!(f, "|--:|--:|--:|--:|--:|--:|--:|")?;
        for held in &self.held {
            writeln!(
                f,
                "| {} | {:.1} MiB | {:.2} MiB | {} | {} | {:.2} s | {:.0} s |",
                held.migrations,
                held.resident_kib as f64 / 1024.0,
                held.anonymous_kib as f64 / 1024.0,
                held.descriptors,
                held.map_entries,
                held.cpu_s,
                held.elapsed_s,
            )?;
        }
        writeln!(f, "\nThe last line is after {} s of rest. Pairs: {}", SETTLED.as_secs(), self.pairs)
    }
}
