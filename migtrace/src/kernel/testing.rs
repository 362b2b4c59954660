//! What the tests of the kernel side share.

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
