//! Reads the QMP events that a traced QEMU writes to its monitor, as they are written, with its flows' counters.
//!
//! Replies and commands are never copied: only lines that begin as events do.

use aya_ebpf::{
    helpers::{bpf_probe_read_user, bpf_probe_read_user_buf},
    programs::TracePointContext,
};
use migtrace_ebpf::abi::{Header, QMP_EVENT_PREFIX, QMP_LINE_MAX, QmpLine, kind, lost};

use crate::{
    flow, guest,
    maps::{self, EVENTS},
    process, socket, vcpu,
};

/// `struct user_msghdr` and `struct iovec` are user-space ABI: the same on every 64-bit kernel.
const MSG_IOV: u64 = 16;
const IOV_LEN: u64 = 8;

/// A process calls `sendmsg(fd, message)`.
#[inline(always)]
pub(crate) fn sendmsg(fd: u32, message: u64) {
    let Some(tgid) = process::traced() else { return };
    let Some((line, length)) = first_piece(message) else { return };
    if is_event(line, length) {
        deliver(tgid, line, length);
    } else if socket::wanted() {
        socket::tie(fd);
    }
}

/// `accept` returned `fd`, or an error.
#[inline(always)]
pub(crate) fn accepted(fd: i64) {
    if let (Ok(fd), Some(_)) = (u32::try_from(fd), process::traced()) {
        socket::tie(fd);
    }
}

/// Arguments of `syscalls:sys_enter_sendmsg`.
#[inline(always)]
pub(crate) fn tracepoint_arguments(ctx: &TracePointContext) -> Option<(u32, u64)> {
    // SAFETY: the offsets are the tracepoint's fields `fd` and `msg`.
    let fd: u64 = unsafe { ctx.read_at(16) }.ok()?;
    // SAFETY: as above.
    let message: u64 = unsafe { ctx.read_at(24) }.ok()?;
    Some((fd as u32, message))
}

/// Result of `syscalls:sys_exit_*`.
#[inline(always)]
pub(crate) fn tracepoint_result(ctx: &TracePointContext) -> Option<i64> {
    // SAFETY: the offset is the tracepoint's field `ret`.
    unsafe { ctx.read_at(16) }.ok()
}

/// Address and length of `msg_iov[0]`. QEMU writes an event as one piece.
#[inline(always)]
fn first_piece(message: u64) -> Option<(u64, u64)> {
    let iov: u64 = user(message + MSG_IOV)?;
    Some((user(iov)?, user(iov + IOV_LEN)?))
}

#[inline(always)]
fn is_event(line: u64, length: u64) -> bool {
    length > QMP_EVENT_PREFIX.len() as u64 && user::<[u8; 12]>(line) == Some(QMP_EVENT_PREFIX)
}

#[inline(always)]
fn user<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails where nothing is mapped.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}

#[inline(always)]
fn deliver(tgid: u32, line: u64, length: u64) {
    let at_ns = maps::now_ns();
    let (Some(sums), Some(survey)) = (flow::sum(tgid), vcpu::survey(tgid, at_ns)) else { return };
    let Some(mut event) = EVENTS.reserve_untyped::<QmpLine>(0) else {
        return maps::count_lost(lost::RING_BUFFER);
    };
    let out = event.as_mut_ptr();
    let copied = if length < QMP_LINE_MAX as u64 { length as usize } else { QMP_LINE_MAX };
    // SAFETY: `out` is the reserved record, large enough for every field.
    unsafe {
        out.write_bytes(0, 1);
    }
    // SAFETY: as above.
    let read = unsafe {
        (*out).header = Header { at_ns, kind: kind::QMP_LINE, tgid };
        (*out).sums = *sums;
        (*out).vcpus = survey.vcpus;
        (*out).length = length as u32;
        bpf_probe_read_user_buf(line as *const u8, &mut (&mut (*out).line)[..copied])
    };
    if read.is_ok() {
        event.submit(0);
        guest::await_next_frame(tgid);
    } else {
        event.discard(0);
        maps::count_lost(lost::PROBES);
    }
}
