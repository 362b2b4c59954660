//! Counts what this host retransmits. The tracepoint fires for every retransmission of TCP, including tail loss
//! probes, which a kprobe on `tcp_retransmit_skb` would miss.

use aya_ebpf::{helpers::bpf_probe_read_kernel, programs::RawTracePointContext};
use migtrace_ebpf::abi::{EGRESS, FlowKey, flags, lost, shared};
use migtrace_ebpf::retransmission::Attempt;
use migtrace_ebpf::word::Words as _;

use super::{
    maps,
    settings::{self, RETRANSMIT_OFFSETS, SOCKET_OFFSETS},
    socket,
};

/// Takes in one retransmission.
#[inline(always)]
pub(crate) fn count(ctx: &RawTracePointContext) {
    if RETRANSMIT_OFFSETS.load().len == 0 {
        return;
    }
    let sock: u64 = ctx.arg(0);
    let Some(key) = socket::key_of(sock, &SOCKET_OFFSETS.load()) else { return };
    if !settings::is_either_watched(key.local_port, key.remote_port) {
        return;
    }
    match attempt(ctx, sock) {
        Some(attempt) => take(&key, &attempt),
        None => maps::count_lost(lost::UNREADABLE),
    }
}

#[inline(always)]
fn attempt(ctx: &RawTracePointContext, socket: u64) -> Option<Attempt> {
    let offsets = RETRANSMIT_OFFSETS.load();
    // A buffer in the retransmission queue holds only payload: the headers are added to its clone.
    let skb: u64 = ctx.arg(1);
    Some(Attempt {
        socket,
        segments: u64::from(read::<u16>(skb, offsets.tcp_gso_segs)?.max(1)),
        payload_bytes: u64::from(read::<u32>(skb, offsets.len)?),
        total_segments: u64::from(read::<u32>(socket, offsets.total_retrans)?),
        total_bytes: read::<u64>(socket, offsets.bytes_retrans)?,
        outcome: if offsets.tracepoint_has_error == 0 { None } else { Some(ctx.arg::<i32>(2)) },
    })
}

/// Adds an attempt to its flow or handshake. Without either, the packets of its connection are not counted either.
#[inline(always)]
fn take(key: &FlowKey, attempt: &Attempt) {
    if let Some(flow) = maps::flow(key) {
        let is_whole = flow.directions[usize::from(EGRESS)].flags.get() & flags::SYN != 0;
        add(&flow.retransmitted, attempt, is_whole);
    } else if let Some(handshake) = maps::handshake(key) {
        add(&handshake.retransmitted, attempt, true);
    }
}

/// The socket is locked, so nobody else takes in an attempt of this flow meanwhile.
#[inline(always)]
fn add(of: &shared::Retransmitted, attempt: &Attempt, is_whole: bool) {
    let mut sum = of.load();
    sum.take(attempt, is_whole);
    of.store(&sum);
}

#[inline(always)]
fn read<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(u64::from(offset)) as *const T) }.ok()
}
