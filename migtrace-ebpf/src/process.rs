//! QEMU processes that come and go.

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use migtrace_ebpf::abi::{Header, kind};

use crate::maps::{self, TRACED};

/// A process has become another program: tell of those that look like QEMU (`qemu-system-*`, `qemu-kvm`, `kvm`).
#[inline(always)]
pub(crate) fn exec() {
    let Ok(comm) = bpf_get_current_comm() else { return };
    if comm.starts_with(b"qemu") || comm.starts_with(b"kvm") {
        let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        maps::emit(Header { at_ns: maps::now_ns(), kind: kind::PROCESS_EXEC, tgid });
    }
}

/// A thread ends: tell of the first thread of a traced process, whose end is the process'.
#[inline(always)]
pub(crate) fn exit() {
    let pid_tgid = bpf_get_current_pid_tgid();
    let (tgid, thread) = ((pid_tgid >> 32) as u32, pid_tgid as u32);
    // SAFETY: only whether there is an entry counts.
    if tgid == thread && unsafe { TRACED.get(tgid) }.is_some() {
        maps::emit(Header { at_ns: maps::now_ns(), kind: kind::PROCESS_EXIT, tgid });
    }
}
