//! Counts what this host sends again, from the tracepoint that fires on every retransmission of TCP, tail loss
//! probes included (a probe on `tcp_retransmit_skb` would miss those).

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_probe_read_kernel, programs::RawTracePointContext};
use migtrace_ebpf::abi::{FlowKey, Retransmitted, flags, lost};
use migtrace_ebpf::resent::Attempt;

use crate::maps::{self, FLOWS, RETRANSMIT_OFFSETS, RETRANSMITTED, SOCKET_OFFSETS};

#[inline(always)]
pub(crate) fn count(ctx: &RawTracePointContext) {
    if RETRANSMIT_OFFSETS.load().len == 0 {
        return;
    }
    let socket: u64 = ctx.arg(0);
    let Some(key) = crate::socket::key_of(socket, &SOCKET_OFFSETS.load()) else { return };
    if !maps::is_watched(key.source_port, key.destination_port) {
        return;
    }
    match attempt(ctx, socket) {
        Some(attempt) => take(&key, &attempt),
        None => maps::count_lost(lost::PROBES),
    }
}

#[inline(always)]
fn attempt(ctx: &RawTracePointContext, socket: u64) -> Option<Attempt> {
    let offsets = RETRANSMIT_OFFSETS.load();
    // On the retransmission queue a buffer holds payload only: headers are added to its clone.
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

/// The socket is locked, so that nobody else takes in an attempt of this flow meanwhile.
#[inline(always)]
fn take(key: &FlowKey, attempt: &Attempt) {
    let sum = match RETRANSMITTED.get_ptr_mut(key) {
        Some(sum) => sum,
        None => {
            let _ = RETRANSMITTED.insert(key, Retransmitted::default(), u64::from(BPF_NOEXIST));
            match RETRANSMITTED.get_ptr_mut(key) {
                Some(sum) => sum,
                None => return maps::count_lost(lost::FLOWS),
            }
        }
    };
    let flow = FLOWS.get_ptr(key);
    // SAFETY: `flow` points into the map.
    let is_whole = flow.is_some_and(|flow| unsafe { (*flow).flags } & flags::SYN != 0);
    // SAFETY: `sum` points into the map, and nobody else writes there.
    unsafe { &mut *sum }.take(attempt, is_whole);
}

#[inline(always)]
fn read<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(u64::from(offset)) as *const T) }.ok()
}
