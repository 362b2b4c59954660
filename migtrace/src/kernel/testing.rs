//! What the tests of the kernel side share.

use std::time::{Duration, Instant};

use super::{Kernel, Settings};
use crate::host::testing::block_on;

/// Whether this process may load eBPF programs. Says so when it may not: the test is skipped then.
pub(super) fn may_load() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: loading eBPF programs needs root");
    }
    is_root
}

/// Runs `test` with freshly loaded programs that are attached to nothing; not without root.
pub(super) fn with_kernel(settings: &Settings, test: impl FnOnce(&mut Kernel)) {
    if may_load() {
        // The ring buffers need a runtime.
        block_on(async {
            test(&mut Kernel::load_detached(settings).expect("programs that the kernel accepts"));
        });
    }
}

/// Waits until a condition holds, at most five seconds; returns whether it does.
///
/// Closing a socket does not free its name while a child that another test has just forked still holds it.
pub(super) fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > Duration::from_secs(5) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
