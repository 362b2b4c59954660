//! The system call of eBPF, for what aya does not ask the kernel.

use std::io;

/// Calls it with the part of `union bpf_attr` (include/uapi/linux/bpf.h) that a command has, and gives the command's result.
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// `T` is what the kernel takes for this command, and all that its pointers point to outlives the call.
pub(super) unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the size goes with the attributes; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
