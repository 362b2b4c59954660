//! Punctual wake-ups for a thread that sends at fixed times.

/// Asks the scheduler to wake the calling thread when its timers fire rather than some time later. Where that is not
/// allowed (it wants `CAP_SYS_NICE`), the thread goes on as it is: it will be late more often.
pub(crate) fn be_punctual() {
    // A timer of an ordinary thread may fire 50 µs late, so that several wake-ups can be made one.
    let _ = nix::sys::prctl::set_timerslack(1);
    // The lowest of the real-time priorities comes before every ordinary thread, and its children do not inherit it.
    let parameters = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: 0 is the calling thread, and the parameters live until the call returns.
    let _ = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
}
