//! Kernels of Debian and its kin, which can refuse perf events to all who are not `CAP_SYS_ADMIN`.

use std::panic::resume_unwind;
use std::{fs, thread};

use migtrace_lab::migtrace_command::give_up;

/// The number of the capability (include/uapi/linux/capability.h).
const CAP_SYS_ADMIN: libc::c_ulong = 21;

/// Runs a test in a thread of its own: what that [refuses](refuse) itself, others keep.
pub(super) fn apart(test: impl FnOnce() + Send + 'static) {
    if let Err(panic) = thread::spawn(test).join() {
        resume_unwind(panic);
    }
}

/// From now on, the `migtrace` that this thread starts gets no perf events: as in a service on Debian.
pub(super) fn refuse() {
    fs::write("/proc/sys/kernel/perf_event_paranoid", "3").unwrap();
    give_up(CAP_SYS_ADMIN);
}
