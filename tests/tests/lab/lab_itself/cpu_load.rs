//! Load on the CPUs is what it says, and ends.

use crate::support::one_at_a_time;
use migtrace_lab::{CpuLoad, CpuStallWatch, CpuStalls};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

/// What stalls while a load has these CPUs for a second, and the share of the CPUs' time.
fn watch(load: Option<CpuLoad>) -> (CpuStalls, f64) {
    let watch = CpuStallWatch::start().unwrap();
    let started = Instant::now();
    thread::sleep(Duration::from_secs(1));
    drop(load);
    let all = started.elapsed() * u32::try_from(thread::available_parallelism().unwrap().get()).unwrap();
    let stalls = watch.finish().unwrap();
    let share = stalls.total().as_secs_f64() / all.as_secs_f64();
    (stalls, share)
}

#[test]
fn stalled_cpus_stand_still_half_of_the_time_until_the_load_is_dropped() {
    let _lock = one_at_a_time();
    let (stalls, share) = watch(Some(CpuLoad::stalls().unwrap()));
    // A machine whose hypervisor takes its CPUs stands still for longer.
    assert!((0.35..0.9).contains(&share), "{share} of the time: {stalls:?}");
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _load = CpuLoad::stalls().unwrap();
        panic!("as planned");
    }));
    assert!(result.is_err());
    let (stalls, after) = watch(None);
    assert!(after < share / 2.0, "{after} of the time: {stalls:?}");
}
