//! What migtrace uses while a QEMU runs and nothing happens: `record` while it waits, and `watch` while it sleeps.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use migtrace_lab::watch_command::Watch;
use migtrace_lab::{BareQemu, Lab, wait_for_tcx_links};
use serde::Serialize;

use crate::counting_tools::{Purpose, Running, Tool};
use crate::cpu_time;

/// Until the work of the start is done.
const BEGIN: Duration = Duration::from_secs(2);
/// For a minute after a QEMU started, `/proc` is read every second, and then every minute.
const MINUTE: Duration = Duration::from_secs(60);
const MARGIN: Duration = Duration::from_secs(3);
/// The name of the mappings of a ring buffer.
const RING: &str = "anon_inode:bpf-map";

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Idle {
    /// CPU time of the process per second, in the minute after a QEMU started.
    pub(crate) cores_at_first: f64,
    /// Likewise in the minute after that one.
    pub(crate) cores: f64,
    pub(crate) memory: Memory,
    /// The same of `migtrace watch` during a sleep.
    pub(crate) asleep_cores: f64,
    pub(crate) asleep_memory: Memory,
}

/// What is resident of a process, in bytes.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// Its own: heap and stacks.
    pub(crate) anonymous: u64,
    /// The ring buffers. Each page is mapped twice, and counts twice.
    pub(crate) rings: u64,
    /// The program and its libraries, which any process that runs them shares.
    pub(crate) files: u64,
}

/// Lets it wait while a QEMU runs whose guest has nothing to do.
pub(crate) fn measure(lab: &Lab, migtrace: &Tool) -> Result<Idle> {
    let _qemu = BareQemu::start(lab.source(), "idle").context("cannot start a QEMU to wait beside")?;
    let directory = tempfile::tempdir().context("cannot make a directory for a record")?;
    let waiting = migtrace.start(lab.source(), Purpose::Wait, directory.path())?;
    thread::sleep(BEGIN);
    let cores_at_first = cores(&waiting, MINUTE - BEGIN)?;
    thread::sleep(MARGIN);
    let cores = cores(&waiting, MINUTE)?;
    let awake = memory(waiting.id())?;
    drop(waiting);
    let watch = Watch::start(lab.source(), directory.path(), &["--sleep-after", "1s"])?;
    // `/proc` is read every second in the first minute, also during a sleep.
    wait_for_tcx_links(watch.pid(), 0, MINUTE)?;
    thread::sleep(MINUTE + MARGIN);
    let (started, before) = (Instant::now(), cpu_time::of_process(watch.pid())?);
    thread::sleep(MINUTE);
    let asleep = cpu_time::of_process(watch.pid())? - before;
    Ok(Idle {
        cores_at_first,
        cores,
        memory: awake,
        asleep_cores: asleep.as_secs_f64() / started.elapsed().as_secs_f64(),
        asleep_memory: memory(watch.pid())?,
    })
}

/// The CPU time per second that it uses from now on.
fn cores(waiting: &Running, during: Duration) -> Result<f64> {
    let (started, before) = (Instant::now(), waiting.cpu_time()?);
    thread::sleep(during);
    Ok((waiting.cpu_time()? - before).as_secs_f64() / started.elapsed().as_secs_f64())
}

fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(add_up(&smaps))
}

/// Adds up the mappings of a process (proc_pid_smaps(5)).
fn add_up(smaps: &str) -> Memory {
    let (mut resident, mut anonymous, mut rings) = (0, 0, 0);
    let mut is_ring = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let mut bytes = || words.nth(1).and_then(|kib| kib.parse::<u64>().ok()).map_or(0, |kib| kib << 10);
        if line.starts_with("Rss:") {
            let bytes = bytes();
            resident += bytes;
            rings += if is_ring { bytes } else { 0 };
        } else if line.starts_with("Anonymous:") {
            anonymous += bytes();
        } else if line.split(' ').next().is_some_and(|range| range.contains('-')) {
            is_ring = line.ends_with(RING);
        }
    }
    Memory { resident, anonymous, rings, files: resident - anonymous - rings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mapping_is_of_one_kind() {
        let smaps = "55a9-55aa r-xp 00001000 fe:00 11010089                   /usr/bin/migtrace\n\
                     Rss:                  28 kB\nAnonymous:             8 kB\n\
                     7fc9-7fca r--s 00001000 00:10 1039                       anon_inode:bpf-map\n\
                     Rss:                  12 kB\nAnonymous:             0 kB\n\
                     7ffd-7ffe rw-p 00000000 00:00 0                          [stack]\n\
                     Rss:                   4 kB\nAnonymous:             4 kB\n";
        let kib = 1 << 10;
        let memory = Memory { resident: 44 * kib, anonymous: 12 * kib, rings: 12 * kib, files: 20 * kib };
        assert_eq!(add_up(smaps), memory);
    }
}
