//! When CPUs of the machine stalled: a hypervisor took a CPU away, or the kernel kept it to itself.
//!
//! What a test knows about an instant in a stall is uncertain by the length of the stall.

use crate::clock::monotonic_ns;
use crate::cpu_threads;
use anyhow::{Context as _, Result};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often each CPU is checked.
const CHECK_INTERVAL: Duration = Duration::from_micros(200);
/// Even a thread with the highest priority wakes up some microseconds late.
const WAKE_UP_DELAY: Duration = Duration::from_micros(100);
/// The real-time priority: above that of every other thread of a test.
const PRIORITY: u8 = 3;

/// Watches every CPU for stalls.
#[derive(Debug)]
pub struct CpuStallWatch {
    threads: Vec<JoinHandle<Option<Vec<RangeInclusive<u64>>>>>,
    stop: Arc<AtomicBool>,
}

/// The times at which a CPU stalled: nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Default)]
pub struct CpuStalls(Vec<RangeInclusive<u64>>);

impl CpuStallWatch {
    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// When the CPUs of this process are unknown, or a real-time thread cannot be started.
    pub fn start() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = cpu_threads::start("stalls", Some(PRIORITY), || {
            let stop = Arc::clone(&stop);
            move |_| watch(&stop)
        });
        // Where one has failed, the others end too.
        let threads = threads.inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
        Ok(Self { threads, stop })
    }

    /// Ends the watch; the stalls that it has seen.
    ///
    /// # Errors
    ///
    /// When a thread could not watch.
    pub fn finish(self) -> Result<CpuStalls> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            let watched = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.extend(watched.context("a thread could not watch")?);
        }
        Ok(CpuStalls(all))
    }
}

fn watch(stop: &AtomicBool) -> Vec<RangeInclusive<u64>> {
    let mut stalls = Vec::new();
    let mut checked_ns = monotonic_ns();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(CHECK_INTERVAL);
        let now_ns = monotonic_ns();
        if now_ns - checked_ns > (CHECK_INTERVAL + WAKE_UP_DELAY).as_nanos() as u64 {
            stalls.push(checked_ns..=now_ns);
        }
        checked_ns = now_ns;
    }
    stalls
}

impl CpuStalls {
    /// This time, extended by every stall that is no further from it than `reach_ns`.
    #[must_use]
    pub fn stretch(&self, instants: &RangeInclusive<u64>, reach_ns: u64) -> RangeInclusive<u64> {
        let (start, end) = instants.clone().into_inner();
        let near = start.saturating_sub(reach_ns)..=end + reach_ns;
        self.within(&near).fold(instants.clone(), |stretched, stall| {
            *stretched.start().min(stall.start())..=*stretched.end().max(stall.end())
        })
    }

    /// The stalls that overlap this time.
    pub fn within(&self, instants: &RangeInclusive<u64>) -> impl Iterator<Item = &RangeInclusive<u64>> {
        let (start, end) = instants.clone().into_inner();
        self.0.iter().filter(move |stall| *stall.start() <= end && start <= *stall.end())
    }

    /// How long the CPUs stalled in all.
    #[must_use]
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.0.iter().map(|stall| stall.end() - stall.start()).sum())
    }
}
