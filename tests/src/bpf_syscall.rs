//! bpf(2) itself, without a loader that migtrace uses too.

use anyhow::Result;
use nix::errno::Errno;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// Runs a command of bpf(2). In each caller, what `attributes` points to outlives the call.
pub(crate) fn call<T>(command: libc::c_long, attributes: &T) -> Result<libc::c_long> {
    // SAFETY: the structure is the beginning of the kernel's for this command; the kernel takes the rest as zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    Ok(Errno::result(result)?)
}

/// Runs a command that makes a descriptor.
pub(crate) fn open<T>(command: libc::c_long, attributes: &T) -> Result<OwnedFd> {
    let descriptor = call(command, attributes)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor.try_into()?) })
}
