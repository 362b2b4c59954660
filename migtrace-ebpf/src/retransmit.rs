//! Counts what this host sends again, from the tracepoint that fires on every retransmission of TCP, tail loss
//! probes included (a probe on `tcp_retransmit_skb` would miss those).

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_probe_read_kernel, programs::RawTracePointContext};
use migtrace_ebpf::abi::{FlowKey, Retransmitted, lost};

use crate::maps::{self, RETRANSMITTED, SKB_OFFSETS, SOCKET_OFFSETS};

#[inline(always)]
pub(crate) fn count(ctx: &RawTracePointContext) {
    let offsets = SKB_OFFSETS.load();
    let socket_offsets = SOCKET_OFFSETS.load();
    if offsets.len == 0 || (offsets.tracepoint_has_error != 0 && ctx.arg::<i32>(2) != 0) {
        return;
    }
    let Some(key) = crate::socket::key_of(ctx.arg::<u64>(0), &socket_offsets) else { return };
    if !maps::is_watched(key.source_port, key.destination_port) {
        return;
    }
    let skb: u64 = ctx.arg(1);
    // On the retransmission queue a buffer holds payload only: headers are added to its clone.
    let (Some(payload_bytes), Some(segments)) =
        (read::<u32>(skb, offsets.len), read::<u16>(skb, offsets.tcp_gso_segs))
    else {
        return maps::count_lost(lost::PROBES);
    };
    add(&key, u64::from(segments.max(1)), u64::from(payload_bytes));
}

#[inline(always)]
fn add(key: &FlowKey, segments: u64, payload_bytes: u64) {
    let none = Retransmitted { segments: 0, payload_bytes: 0 };
    let entry = match RETRANSMITTED.get_ptr_mut(key) {
        Some(entry) => entry,
        None => {
            let _ = RETRANSMITTED.insert(key, none, u64::from(BPF_NOEXIST));
            match RETRANSMITTED.get_ptr_mut(key) {
                Some(entry) => entry,
                None => return maps::count_lost(lost::FLOWS),
            }
        }
    };
    // SAFETY: `entry` points into the map.
    unsafe { maps::add(&raw mut (*entry).segments, segments) };
    // SAFETY: as above.
    unsafe { maps::add(&raw mut (*entry).payload_bytes, payload_bytes) };
}

#[inline(always)]
fn read<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(u64::from(offset)) as *const T) }.ok()
}
