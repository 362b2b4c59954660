//! How the command keeps its memory.

/// Lets a large block of memory grow where it is, and go back to the system as soon as it is free. By itself glibc copies it,
/// and keeps it, once another large one was freed: while the kernel's types are read, that takes a fifth more.
pub(crate) fn keep_large_blocks_apart() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, and only says where later blocks are put.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}
