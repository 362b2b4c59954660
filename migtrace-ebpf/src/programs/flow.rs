//! Entries of flows: how one begins, is taken over by another connection, and ends.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_probe_read_kernel_buf};
use migtrace_ebpf::{
    abi::{EventHeader, FlowEntry, FlowEvent, FlowKey, FlowReplaced, flags, kind, lost, shared},
    word::Words as _,
};

use super::{
    maps::{self, EVENTS, FLOWS, HANDSHAKES, NO_FLOW, TAG_BYTES},
    milestone, ownership,
};

/// What the kernel returns for a key that is in the map already.
const EEXIST: i32 = -17;

/// Makes the entry of a connection whose handshake is complete, and the bucket for its fragments. `from_client`: the
/// direction of the client's packets.
#[inline(always)]
pub(super) fn open(key: &FlowKey, from_client: usize, now_ns: u64) {
    if !insert(key, now_ns) {
        return;
    }
    if let Some(flow) = maps::flow(key) {
        fill(flow, key, from_client, now_ns);
    }
}

/// Inserts an empty entry and the bucket for its fragments; returns whether it did. No room for it is counted as a
/// loss.
#[inline(always)]
fn insert(key: &FlowKey, now_ns: u64) -> bool {
    let Some(empty) = NO_FLOW.get_ptr(0) else { return false };
    // SAFETY: the map's value, to which nobody writes.
    let empty = unsafe { &*empty };
    match FLOWS.insert(key, empty, u64::from(BPF_NOEXIST)) {
        Ok(()) => {}
        // Another CPU was faster.
        Err(EEXIST) => return false,
        Err(_) => {
            maps::count_lost(lost::FLOWS);
            return false;
        }
    }
    let fragments = key.fragments();
    match FLOWS.insert(fragments, empty, u64::from(BPF_NOEXIST)) {
        Ok(()) => {}
        // Another flow between the same addresses has made the bucket already.
        Err(EEXIST) => {
            if let Some(bucket) = maps::flow(&fragments) {
                revive(bucket, now_ns);
            }
        }
        Err(_) => maps::count_lost(lost::FLOWS),
    }
    true
}

/// Resets a bucket for fragments if user space is about to remove it.
#[inline(always)]
fn revive(bucket: &shared::FlowEntry, now_ns: u64) {
    let [rx, tx] = &bucket.directions;
    if (rx.flags.get() | tx.flags.get()) & flags::RETIRED != 0 {
        bucket.clear();
        bucket.opened_ns.set(now_ns);
    }
}

/// Fills an empty entry with what crossed during the handshake, and reports the flow to user space.
#[inline(always)]
fn fill(flow: &shared::FlowEntry, key: &FlowKey, from_client: usize, now_ns: u64) {
    let mut ifindex = 0;
    let mut first_ns = now_ns;
    if let Some(handshake) = maps::handshake(key) {
        for (direction, side) in flow.directions.iter().zip(&handshake.sides) {
            direction.start_with(side, tag_bytes(side.ifindex.get()));
            let side_ns = side.first_ns.get();
            if side.is_seen() && side_ns < first_ns {
                first_ns = side_ns;
                ifindex = side.ifindex.get();
            }
        }
        flow.retransmitted.store(&handshake.retransmitted.load());
        flow.begin_milestones(from_client);
        milestone::report_handshake(handshake, key, now_ns);
        let _ = HANDSHAKES.remove(key);
    }
    ownership::await_owner(flow, now_ns);
    let initial_sequences = flow.initial_sequences();
    emit(
        flow,
        key,
        now_ns,
        Seen { kind: kind::FLOW_SEEN, ifindex, first_ns, initial_sequences, first_payload: 0 },
    );
}

/// What is reported of a flow: the fields of [`FlowEvent`].
#[derive(Default)]
pub(super) struct Seen {
    pub(super) kind: u32,
    pub(super) ifindex: u32,
    pub(super) first_ns: u64,
    pub(super) initial_sequences: [u32; 2],
    pub(super) first_payload: u32,
}

/// Reports a flow. The event is written field by field: a whole one would take too much of the stack.
#[inline(always)]
pub(super) fn emit(flow: &shared::FlowEntry, key: &FlowKey, now_ns: u64, seen: Seen) {
    let Some(mut event) = EVENTS.reserve_untyped::<FlowEvent>(0) else {
        return maps::count_lost(lost::RING_BUFFER);
    };
    let out = event.as_mut_ptr();
    // SAFETY: `out` is the reserved record, which has room for every field.
    unsafe {
        (*out).header = EventHeader { at_ns: now_ns, kind: seen.kind, tgid: 0 };
        (*out).key = *key;
        (*out).ifindex = seen.ifindex;
        (*out).opened_ns = flow.opened_ns.get();
        (*out).first_ns = seen.first_ns;
        (*out).first_payload = seen.first_payload;
        (*out).initial_sequences = seen.initial_sequences;
        (*out).padding = 0;
    }
    event.submit(0);
}

/// Reuses the entry of an earlier connection for this one.
#[inline(always)]
pub(super) fn replace(flow: &shared::FlowEntry, key: &FlowKey, from_client: usize, now_ns: u64) {
    emit_replaced(flow, key, now_ns);
    ownership::release(flow, key);
    flow.clear();
    fill(flow, key, from_client, now_ns);
}

#[inline(always)]
fn emit_replaced(flow: &shared::FlowEntry, key: &FlowKey, now_ns: u64) {
    let Some(mut event) = EVENTS.reserve_untyped::<FlowReplaced>(0) else {
        return maps::count_lost(lost::RING_BUFFER);
    };
    let out = event.as_mut_ptr();
    // SAFETY: `out` is the reserved record, which has room for every field; the helper reads no more than the map's
    // value.
    let read = unsafe {
        (*out).header = EventHeader { at_ns: now_ns, kind: kind::FLOW_REPLACED, tgid: 0 };
        (*out).key = *key;
        (*out).padding = 0;
        let entry = core::slice::from_raw_parts_mut((&raw mut (*out).entry).cast(), size_of::<FlowEntry>());
        bpf_probe_read_kernel_buf(core::ptr::from_ref(flow).cast(), entry)
    };
    if read.is_ok() {
        event.submit(0);
    } else {
        event.discard(0);
        maps::count_lost(lost::UNREADABLE);
    }
}

/// Starts to count a connection that is open already; returns whether there is an entry for it now.
#[inline(always)]
pub(crate) fn adopt(key: &FlowKey, now_ns: u64) -> bool {
    if insert(key, now_ns)
        && let Some(flow) = maps::flow(key)
    {
        ownership::await_owner(flow, now_ns);
    }
    maps::flow(key).is_some()
}

/// How many bytes of VLAN tags a frame has on the wire, but not at this interface.
#[inline(always)]
pub(crate) fn tag_bytes(ifindex: u32) -> u32 {
    // SAFETY: the value is copied at once.
    unsafe { TAG_BYTES.get(ifindex) }.copied().unwrap_or(0)
}
