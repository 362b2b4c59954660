//! Memory that is needed no more.

/// Gives what was freed back to the system. By itself glibc keeps all that lies below something that is still used.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc allows the call at any time, on any thread, and it takes nothing that is used.
    unsafe {
        libc::malloc_trim(0);
    }
}
