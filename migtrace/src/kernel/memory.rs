//! Memory that is no longer needed.

/// Returns freed memory to the system. By itself glibc keeps everything that lies below memory in use.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` may be called at any time on any thread, and frees only memory that is not in
    // use.
    unsafe {
        libc::malloc_trim(0);
    }
}
