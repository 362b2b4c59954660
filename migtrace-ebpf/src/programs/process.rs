//! Notices QEMU processes that start, fork and end.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_probe_read_kernel},
    programs::{RawTracePointContext, TracePointContext},
};
use migtrace_ebpf::abi::{EventHeader, kind, shared};

use super::{
    maps::{self, QEMU_NAMES},
    settings::TASK_TGID,
    vcpu,
};

/// The thread group of the current task, if it is traced.
#[inline(always)]
pub(crate) fn traced() -> Option<u32> {
    known().map(|(tgid, _)| tgid)
}

/// The thread group of the current task and its state, if it is traced. Its other threads read and write the state
/// too.
#[inline(always)]
pub(crate) fn known() -> Option<(u32, &'static shared::Process)> {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    maps::process(tgid).map(|process| (tgid, process))
}

/// The request of an `ioctl` and its argument: from `syscalls:sys_enter_ioctl`.
#[inline(always)]
pub(crate) fn ioctl_arguments(ctx: &TracePointContext) -> Option<(u32, u64)> {
    // SAFETY: the offsets are the tracepoint's fields `cmd` and `arg`.
    let request: u64 = unsafe { ctx.read_at(24) }.ok()?;
    // SAFETY: as above.
    let argument: u64 = unsafe { ctx.read_at(32) }.ok()?;
    Some((request as u32, argument))
}

/// Whether the current task has one of QEMU's names: `qemu-system-*`, `qemu-kvm`, `kvm`, `.qemu-system-*-wrapped` on
/// NixOS, or one that a person configured. Anybody can take such a name, so user space looks closer.
#[inline(always)]
fn looks_like_qemu() -> bool {
    let Ok(comm) = bpf_get_current_comm() else { return false };
    comm.starts_with(b"qemu")
        || comm.starts_with(b"kvm")
        || comm.starts_with(b".qemu")
        // SAFETY: the value is not read.
        || unsafe { QEMU_NAMES.get(comm) }.is_some()
}

/// The current process has executed another program. Reports processes that look like QEMU now, or were traced
/// before.
#[inline(always)]
pub(crate) fn exec() {
    if looks_like_qemu() || traced().is_some() {
        let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        maps::emit(EventHeader { at_ns: maps::now_ns(), kind: kind::PROCESS_EXEC, tgid });
    }
}

/// The current task has a new child. A QEMU that goes into the background (`-daemonize`) forks twice and executes
/// nothing. Its first child may end before user space traces it, so children of tasks that only look like QEMU are
/// reported too.
#[inline(always)]
pub(crate) fn fork(ctx: &RawTracePointContext) {
    let child: u64 = ctx.arg(1);
    let address = child.wrapping_add(u64::from(TASK_TGID.load())) as *const u32;
    // SAFETY: the helper checks the address.
    let Ok(tgid) = (unsafe { bpf_probe_read_kernel(address) }) else { return };
    // QEMU starts threads all the time; they are not reported.
    let is_thread = tgid == (bpf_get_current_pid_tgid() >> 32) as u32;
    if !is_thread && (traced().is_some() || looks_like_qemu()) {
        maps::emit(EventHeader { at_ns: maps::now_ns(), kind: kind::PROCESS_FORK, tgid });
    }
}

/// A thread ends. A traced process has ended with its first thread.
#[inline(always)]
pub(crate) fn exit() {
    let thread = bpf_get_current_pid_tgid() as u32;
    vcpu::unplug(thread);
    if let Some(tgid) = traced()
        && tgid == thread
    {
        maps::emit(EventHeader { at_ns: maps::now_ns(), kind: kind::PROCESS_EXIT, tgid });
    }
}
