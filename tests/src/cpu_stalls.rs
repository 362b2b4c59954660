//! When the machine itself stood still: a hypervisor took a CPU away, or the kernel kept it to itself.
//!
//! What a test takes for the truth about an instant is then as uncertain as that was long.

use crate::clock::monotonic_ns;
use crate::responder::be_punctual;
use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often each CPU is looked at.
const EVERY: Duration = Duration::from_micros(200);
/// A thread that comes before all others still wakes up some microseconds late.
const PUNCTUAL: Duration = Duration::from_micros(100);
/// Before every thread of a test.
const PRIORITY: u8 = 3;

/// Watches every CPU until it is asked what it saw.
#[derive(Debug)]
pub struct CpuStallWatch {
    threads: Vec<JoinHandle<Result<Vec<RangeInclusive<u64>>>>>,
    stop: Arc<AtomicBool>,
}

/// The times, on `CLOCK_MONOTONIC` in nanoseconds, at which a CPU stood still.
#[derive(Debug, Default)]
pub struct CpuStalls(Vec<RangeInclusive<u64>>);

impl CpuStallWatch {
    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// When the CPUs of this process cannot be told.
    pub fn start() -> Result<Self> {
        let all = sched_getaffinity(Pid::from_raw(0)).context("cannot tell the CPUs of this process")?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for cpu in (0..CpuSet::count()).filter(|&cpu| all.is_set(cpu).unwrap_or(false)) {
            let stop = Arc::clone(&stop);
            threads.push(std::thread::Builder::new().name(format!("witness-{cpu}")).spawn(move || {
                let mut only = CpuSet::new();
                only.set(cpu)?;
                sched_setaffinity(Pid::from_raw(0), &only).context("cannot stay on a CPU")?;
                be_punctual(PRIORITY)?;
                Ok(watch(&stop))
            })?);
        }
        Ok(Self { threads, stop })
    }

    /// Ends the watch; what was seen.
    ///
    /// # Errors
    ///
    /// When a thread could not watch.
    pub fn finish(self) -> Result<CpuStalls> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(CpuStalls(all))
    }
}

fn watch(stop: &AtomicBool) -> Vec<RangeInclusive<u64>> {
    let mut standstills = Vec::new();
    let mut looked_ns = monotonic_ns();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(EVERY);
        let now_ns = monotonic_ns();
        if now_ns - looked_ns > (EVERY + PUNCTUAL).as_nanos() as u64 {
            standstills.push(looked_ns..=now_ns);
        }
        looked_ns = now_ns;
    }
    standstills
}

impl CpuStalls {
    /// The instants, stretched by every standstill that is not further from them than `reach_ns`.
    #[must_use]
    pub fn stretch(&self, instants: &RangeInclusive<u64>, reach_ns: u64) -> RangeInclusive<u64> {
        let (start, end) = instants.clone().into_inner();
        let near = start.saturating_sub(reach_ns)..=end + reach_ns;
        self.within(&near).fold(instants.clone(), |stretched, still| {
            *stretched.start().min(still.start())..=*stretched.end().max(still.end())
        })
    }

    /// Those that touch these instants.
    pub fn within(&self, instants: &RangeInclusive<u64>) -> impl Iterator<Item = &RangeInclusive<u64>> {
        let (start, end) = instants.clone().into_inner();
        self.0.iter().filter(move |still| *still.start() <= end && start <= *still.end())
    }

    /// For how long the CPUs stood still, all in all.
    #[must_use]
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.0.iter().map(|still| still.end() - still.start()).sum())
    }
}
