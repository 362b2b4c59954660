//! Threads that stay on one CPU each.

use crate::responder::make_real_time;
use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

/// Starts a thread on every CPU of this process, each with this real-time priority if there is one. Each does what `work` gives
/// it, with the number of its CPU. Returns when all have begun; a thread that cannot begin has no result.
pub(crate) fn start<T: Send + 'static, W: FnOnce(usize) -> T + Send + 'static>(
    name: &str,
    priority: Option<u8>,
    work: impl Fn() -> W,
) -> Result<Vec<JoinHandle<Option<T>>>> {
    let all = sched_getaffinity(Pid::from_raw(0)).context("cannot determine the CPUs of this process")?;
    let cpus = (0..CpuSet::count()).filter(|&cpu| all.is_set(cpu).unwrap_or(false));
    cpus.map(|cpu| start_on(cpu, &format!("{name}-{cpu}"), priority, work())).collect()
}

fn start_on<T: Send + 'static>(
    cpu: usize,
    name: &str,
    priority: Option<u8>,
    work: impl FnOnce(usize) -> T + Send + 'static,
) -> Result<JoinHandle<Option<T>>> {
    let (begun, begins) = mpsc::channel();
    let thread = Builder::new().name(name.into()).spawn(move || {
        let begin = stay_on(cpu).and_then(|()| priority.map_or(Ok(()), make_real_time));
        let can_begin = begin.is_ok();
        let is_awaited = begun.send(begin).is_ok();
        (can_begin && is_awaited).then(|| work(cpu))
    })?;
    match begins.recv() {
        Ok(begin) => begin.map(|()| thread),
        Err(_) => bail!("a thread has ended before it began"),
    }
}

/// Keeps the calling thread on this CPU.
fn stay_on(cpu: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &only).context("cannot stay on a CPU")
}
