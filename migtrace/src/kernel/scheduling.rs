//! When the scheduler gives a thread the CPU, and takes it away.

use std::marker::PhantomData;

/// Asks the scheduler to wake the calling thread as soon as its timers fire. Without `CAP_SYS_NICE` the
/// thread stays as it is, and will be late more often.
pub(crate) fn be_punctual() {
    // A timer of an ordinary thread may fire 50 µs late, so that wake-ups can be merged.
    let _ = nix::sys::prctl::set_timerslack(1);
    let _ = schedule(REAL_TIME, 1);
}

/// A thread with this policy runs before every ordinary thread, even at the lowest priority. Its children do
/// not inherit it.
const REAL_TIME: libc::c_int = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;

fn schedule(policy: libc::c_int, priority: libc::c_int) -> bool {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 means the calling thread, and `parameters` lives until the call returns.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

/// Keeps the calling thread on its CPU until this is dropped, if it may (`CAP_SYS_NICE`).
///
/// While a system call accesses a map, the kernel skips the programs of kprobes and tracepoints on that CPU
/// (`bpf_disable_instrumentation`). A kernel that preempts system calls lets other threads run there
/// meanwhile, for any length of time, and all of their events would be missed.
pub(crate) struct OnCpu {
    /// The policy to restore; `None` when it was not changed.
    before: Option<libc::c_int>,
    /// The policy belongs to this thread: a drop on another one would change that one's.
    _thread: PhantomData<*const ()>,
}

impl OnCpu {
    pub(crate) fn stay() -> Self {
        // SAFETY: 0 means the calling thread, and no memory is passed.
        let before = unsafe { libc::sched_getscheduler(0) };
        // Another policy was chosen on purpose.
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
        // SAFETY: 0 means the calling thread, and no memory is passed.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn a_thread_gets_its_own_policy_back() {
        if !schedule(REAL_TIME, 1) {
            eprintln!("skipped: real-time priorities need CAP_SYS_NICE");
            return;
        }
        for before in [libc::SCHED_BATCH, libc::SCHED_OTHER] {
            assert!(schedule(before, 0));
            let outer = OnCpu::stay();
            assert_eq!(policy(), REAL_TIME);
            drop(OnCpu::stay());
            assert_eq!(policy(), REAL_TIME, "the inner one has nothing to restore");
            drop(outer);
            assert_eq!(policy(), before);
        }
    }
}
