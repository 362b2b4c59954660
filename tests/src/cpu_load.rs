//! Keeps the CPUs of the machine from everything else, as other work of a host does.

use crate::clock::monotonic_ns;
use crate::cpu_threads;
use anyhow::Result;
use nix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The real-time priority of stalls: above that of migtrace and of every other thread of a test.
const PRIORITY: u8 = 50;
/// The longest stall, and the longest time between two.
const LONGEST: Duration = Duration::from_millis(10);

/// In each of these, a share of a CPU is taken at once.
const PERIOD: Duration = Duration::from_millis(10);

/// Load on every CPU. It ends when this is dropped.
#[derive(Debug)]
pub struct CpuLoad {
    threads: Vec<JoinHandle<Option<()>>>,
    stop: Arc<AtomicBool>,
}

impl CpuLoad {
    /// An ordinary thread spins on each CPU, and takes its share of it.
    ///
    /// # Errors
    ///
    /// When the CPUs of this process are unknown, or a thread cannot be started.
    pub fn busy() -> Result<Self> {
        Self::start("busy", None, |_, stop| {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        })
    }

    /// Each CPU stalls half of the time: for up to ten milliseconds no thread runs there, and then all may for up to ten. The
    /// lengths of all CPUs differ, so that they stall at the same time and at different ones.
    ///
    /// # Errors
    ///
    /// As [`Self::busy`], and when threads cannot be real-time (not root).
    pub fn stalls() -> Result<Self> {
        Self::start("steals", Some(PRIORITY), |cpu, stop| {
            let mut lengths = Lengths(cpu as u64 + 1);
            while !stop.load(Ordering::Relaxed) {
                let end_ns = monotonic_ns() + lengths.next().as_nanos() as u64;
                while monotonic_ns() < end_ns {
                    std::hint::spin_loop();
                }
                thread::sleep(lengths.next());
            }
        })
    }

    /// An ordinary thread on each CPU asks for this share of its time, in percent. Where others want the CPU too, it gets what
    /// the kernel gives it, and does not catch up later.
    ///
    /// # Errors
    ///
    /// As [`Self::busy`].
    pub fn share(percent: u8) -> Result<Self> {
        let wanted = PERIOD * u32::from(percent) / 100;
        Self::start("load", None, move |_, stop| {
            while !stop.load(Ordering::Relaxed) {
                let (started, used) = (Instant::now(), cpu_time());
                while cpu_time() - used < wanted && !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
                thread::sleep(PERIOD.saturating_sub(started.elapsed()));
            }
        })
    }

    fn start(
        name: &str,
        priority: Option<u8>,
        load: impl Fn(usize, &AtomicBool) + Copy + Send + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = cpu_threads::start(name, priority, || {
            let stop = Arc::clone(&stop);
            move |cpu| load(cpu, &stop)
        });
        // Where one has failed, the others end too.
        Ok(Self { threads: threads.inspect_err(|_| stop.store(true, Ordering::Relaxed))?, stop })
    }
}

impl Drop for CpuLoad {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot panic, and a drop must not.
            let _ = thread.join();
        }
    }
}

/// How long the calling thread has run.
fn cpu_time() -> Duration {
    // Every thread has this clock.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::MAX, Duration::from)
}

/// Lengths that are spread evenly, and the same in every run.
struct Lengths(u64);

impl Lengths {
    /// Knuth's linear congruential generator; its high bits are the good ones.
    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        LONGEST.mul_f64((self.0 >> 32) as f64 / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lengths_are_spread_evenly_and_differ_between_cpus() {
        let of = |cpu: u64| {
            let mut lengths = Lengths(cpu);
            (0..1000).map(|_| lengths.next()).collect::<Vec<_>>()
        };
        let (one, other) = (of(1), of(2));
        assert_ne!(one, other);
        for lengths in [one, other] {
            assert!(lengths.iter().all(|length| *length <= LONGEST));
            let short = lengths.iter().filter(|length| **length < LONGEST / 2).count();
            assert!((400..600).contains(&short), "{short} of 1000 are shorter than half");
        }
    }

    #[test]
    fn ordinary_load_ends_when_it_is_dropped() {
        let load = CpuLoad::busy().unwrap();
        let stop = Arc::downgrade(&load.stop);
        drop(load);
        assert!(stop.upgrade().is_none(), "a thread still has it");
    }
}
