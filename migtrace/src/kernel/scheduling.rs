//! When a thread gets the CPU, and when it may lose it.

use std::marker::PhantomData;

/// Asks the scheduler to wake the calling thread when its timers fire rather than some time later. Where that is not
/// allowed (it wants `CAP_SYS_NICE`), the thread goes on as it is: it will be late more often.
pub(crate) fn be_punctual() {
    // A timer of an ordinary thread may fire 50 µs late, so that several wake-ups can be made one.
    let _ = nix::sys::prctl::set_timerslack(1);
    let _ = schedule(REAL_TIME, 1);
}

/// The lowest of the real-time priorities comes before every ordinary thread, and its children do not inherit it.
const REAL_TIME: libc::c_int = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;

fn schedule(policy: libc::c_int, priority: libc::c_int) -> bool {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 is the calling thread, and the parameters live until the call returns.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

/// Keeps the CPU for the calling thread until it is dropped, where that is allowed (`CAP_SYS_NICE`).
///
/// While a system call accesses a map, the kernel skips the programs of kprobes and tracepoints on that CPU
/// (`bpf_disable_instrumentation`). A kernel that preempts system calls lets others run there meanwhile, for as long as
/// it likes, and none of their events would be seen.
pub(crate) struct OnCpu {
    /// The policy of an ordinary thread, to which it goes back.
    before: Option<libc::c_int>,
    /// It is the thread's, not the process'.
    _thread: PhantomData<*const ()>,
}

impl OnCpu {
    pub(crate) fn stay() -> Self {
        // SAFETY: 0 is the calling thread.
        let before = unsafe { libc::sched_getscheduler(0) };
        // A thread with another policy has its reasons.
        let is_ordinary = matches!(before, libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE);
        let before = (is_ordinary && schedule(REAL_TIME, 1)).then_some(before);
        Self { before, _thread: PhantomData }
    }
}

impl Drop for OnCpu {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            schedule(before, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        // SAFETY: 0 is the calling thread.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn a_thread_is_as_it_was_afterwards() {
        if !schedule(REAL_TIME, 1) {
            eprintln!("skipped: real-time priorities need CAP_SYS_NICE");
            return;
        }
        for before in [libc::SCHED_BATCH, libc::SCHED_OTHER] {
            assert!(schedule(before, 0));
            let outer = OnCpu::stay();
            assert_eq!(policy(), REAL_TIME);
            drop(OnCpu::stay());
            assert_eq!(policy(), REAL_TIME, "the inner one has nothing to give back");
            drop(outer);
            assert_eq!(policy(), before);
        }
    }
}
