//! QEMU processes that come and go.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
    programs::TracePointContext,
};
use migtrace_ebpf::abi::{Header, Process, kind};

use crate::maps::{self, TRACED, VCPUS};

/// The thread group of the current task, if it is traced.
#[inline(always)]
pub(crate) fn traced() -> Option<u32> {
    known().map(|(tgid, _)| tgid)
}

/// The same, and what is known of it. Its other threads read and write that too.
#[inline(always)]
pub(crate) fn known() -> Option<(u32, *mut Process)> {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    TRACED.get_ptr_mut(tgid).map(|process| (tgid, process))
}

/// The request of an `ioctl`, from `syscalls:sys_enter_ioctl`.
#[inline(always)]
pub(crate) fn ioctl_request(ctx: &TracePointContext) -> Option<u64> {
    // SAFETY: the offset is the tracepoint's field `cmd`.
    unsafe { ctx.read_at::<u64>(24) }.ok()
}

/// Its argument.
#[inline(always)]
pub(crate) fn ioctl_argument(ctx: &TracePointContext) -> Option<u64> {
    // SAFETY: the offset is the tracepoint's field `arg`.
    unsafe { ctx.read_at::<u64>(32) }.ok()
}

/// A process has become another program: tell of those that look like QEMU (`qemu-system-*`, `qemu-kvm`, `kvm`).
#[inline(always)]
pub(crate) fn exec() {
    let Ok(comm) = bpf_get_current_comm() else { return };
    if comm.starts_with(b"qemu") || comm.starts_with(b"kvm") {
        let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        maps::emit(Header { at_ns: maps::now_ns(), kind: kind::PROCESS_EXEC, tgid });
    }
}

/// A thread ends. A vCPU that is unplugged has no part in what follows; the end of the first thread of a traced
/// process is the process'.
#[inline(always)]
pub(crate) fn exit() {
    let thread = bpf_get_current_pid_tgid() as u32;
    // Of most threads there is no entry.
    let _ = VCPUS.remove(thread);
    if let Some(tgid) = traced()
        && tgid == thread
    {
        maps::emit(Header { at_ns: maps::now_ns(), kind: kind::PROCESS_EXIT, tgid });
    }
}
