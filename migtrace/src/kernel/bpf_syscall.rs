//! The `bpf` system call, for commands that aya does not offer.

use std::io;

/// Runs a command with its part of `union bpf_attr` (include/uapi/linux/bpf.h) and returns its result.
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// `T` must be laid out as the kernel expects for this command, and everything that its pointers point to
/// must outlive the call.
pub(super) unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel gets the true size of `attributes`; the caller vouches for its layout and its
    // pointers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
