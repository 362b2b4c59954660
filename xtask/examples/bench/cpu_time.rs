//! CPU time: of a process, of a thread, and of the whole machine.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// What a process has used, in user space and in the kernel on its account.
pub(crate) fn of_process(id: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(id.cast_signed()));
    let time = clock.and_then(clock_gettime);
    Ok(time.with_context(|| format!("cannot read the CPU time of process {id}"))?.into())
}

/// Likewise a thread of this process.
pub(crate) fn of_thread(id: Pid) -> Result<Duration> {
    // `pthread_getcpuclockid` makes the same number (include/linux/posix-timers.h).
    const CPUCLOCK_PERTHREAD_MASK: i32 = 4;
    const CPUCLOCK_SCHED: i32 = 2;
    let clock = ClockId::from_raw(!id.as_raw() << 3 | CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED);
    Ok(clock_gettime(clock).with_context(|| format!("cannot read the CPU time of thread {id}"))?.into())
}

/// What the machine's CPUs have done until an instant.
#[derive(Clone, Copy)]
pub(crate) struct Machine {
    at: Instant,
    counted: Counted,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Counted {
    cpus: u32,
    /// Nothing, or the hypervisor gave the CPU to somebody else.
    unused: Duration,
    softirq: Duration,
}

impl Machine {
    /// Now.
    pub(crate) fn read() -> Result<Self> {
        let ticks_per_s =
            sysconf(SysconfVar::CLK_TCK)?.context("the system does not report the length of its ticks")?;
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let counted = counted(&stat, ticks_per_s as f64).context("/proc/stat has no line of all CPUs")?;
        Ok(Self { at: Instant::now(), counted })
    }

    /// What all CPUs together have worked since. The kernel knows exactly how long they were idle; what a tick finds them
    /// at is less exact.
    pub(crate) fn worked_since(&self, before: &Self) -> Duration {
        let all = (self.at - before.at) * self.counted.cpus;
        all.saturating_sub(self.counted.unused.saturating_sub(before.counted.unused))
    }

    /// What softirqs have taken since.
    pub(crate) fn softirq_since(&self, before: &Self) -> Duration {
        self.counted.softirq.saturating_sub(before.counted.softirq)
    }
}

/// Reads `/proc/stat` (proc_stat(5)).
fn counted(stat: &str, ticks_per_s: f64) -> Option<Counted> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks = all.split_whitespace().map(|field| field.parse::<u64>().ok()).collect::<Option<Vec<_>>>()?;
    let [_user, _nice, _system, idle, iowait, _irq, softirq, steal, ..] = ticks[..] else { return None };
    let time = |ticks: u64| Duration::from_secs_f64(ticks as f64 / ticks_per_s);
    let cpus = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    Some(Counted {
        cpus: u32::try_from(cpus).ok()?,
        unused: time(idle + iowait + steal),
        softirq: time(softirq),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  400 0 300 1000 20 0 50 30 7 0\n\
                        cpu0 200 0 150 500 10 0 25 15 4 0\n\
                        cpu1 200 0 150 500 10 0 25 15 3 0\n\
                        intr 5 0\n";

    #[test]
    fn what_the_hypervisor_gave_to_others_is_no_work() {
        let counted = counted(STAT, 100.0).unwrap();
        assert_eq!(counted.cpus, 2);
        assert_eq!(
            (counted.unused, counted.softirq),
            (Duration::from_millis(10_500), Duration::from_millis(500))
        );
    }

    #[test]
    fn work_is_all_that_was_not_unused() {
        let at = Instant::now();
        let before = Machine { at, counted: counted(STAT, 100.0).unwrap() };
        let unused = before.counted.unused + Duration::from_millis(500);
        let after =
            Machine { at: at + Duration::from_secs(1), counted: Counted { unused, ..before.counted } };
        assert_eq!(after.worked_since(&before), Duration::from_millis(1500));
        assert_eq!(after.softirq_since(&before), Duration::ZERO);
    }

    #[test]
    fn a_thread_that_works_has_no_more_than_its_process() {
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(20) {}
        let thread = of_thread(nix::unistd::gettid()).unwrap();
        let process = of_process(std::process::id()).unwrap();
        assert!(Duration::ZERO < thread && thread <= process, "{thread:?} {process:?}");
    }
}
