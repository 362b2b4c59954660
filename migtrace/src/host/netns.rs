//! The network namespace of this thread.

use std::os::unix::fs::MetadataExt as _;

/// The number by which the kernel knows it; 0 when it cannot be read.
pub(crate) fn number() -> u32 {
    let inode = std::fs::metadata("/proc/thread-self/ns/net").map(|namespace| namespace.ino());
    inode.ok().and_then(|inode| u32::try_from(inode).ok()).unwrap_or(0)
}
