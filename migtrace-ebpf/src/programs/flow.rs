//! Entries of flows: what opens one, whose it is, and how it ends.
//!
//! What is called from the path of a packet has a frame of its own, which is gone when the next one comes: on Linux 6.1
//! the frames of a chain of calls, each rounded up to 32 bytes, share 512.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::bpf_probe_read_kernel_buf,
    programs::TcContext,
};
use migtrace_ebpf::{
    abi::{
        self, Claim, EGRESS, FlowEntry, FlowEvent, FlowKey, FlowOwned, FlowReplaced, Header, INGRESS, Sum,
        Sums, flags, kind, lost, shared,
    },
    handshake::Part,
    packet::{Tcp, tcp_flags::RST},
    word::Words as _,
};

use super::{
    maps::{
        self, EVENTS, FLOW_CLAIMS, FLOWS, HANDSHAKES, MEETING, Meeting, NO_FLOW, NO_HANDSHAKE, STRAYS, SUMS,
        TAG_BYTES, UNOWNED,
    },
    socket, wire,
};

/// What the kernel says of a key that is there.
const EEXIST: i32 = -17;

/// How often another thread of a process may be faster to claim the same number.
const RACES: u32 = 3;

/// The states of a socket, as bits, in which it heeds no SYN: a connection is open, or is being closed
/// (include/net/tcp_states.h).
const OPEN: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// Looks at a packet of no flow that is known, or of one that may be over. One that proves that a connection to a watched
/// port is open makes an entry of it, or takes that of the connection before it; no other does. Returns whether the packet
/// is one of the flow that has the entry.
#[inline(always)]
pub(crate) fn meet(ctx: &TcContext, key: &FlowKey, direction: u8, packet: &Tcp, now_ns: u64) -> bool {
    let Some(meeting) = MEETING.get_ptr_mut(0) else { return false };
    // SAFETY: the map's value, which is this CPU's, and this program's until `look_closely` returns.
    unsafe { *meeting = Meeting { key: *key, packet: *packet } };
    look_closely(ctx.skb.skb, u32::from(direction), now_ns) != 0
}

/// Does what [`meet`] says with the packet that stands in [`MEETING`].
///
/// A global function: the verifier looks at it once, and not once for each way to the packet's header.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_closely(skb: *mut __sk_buff, direction: u32, now_ns: u64) -> u32 {
    let ctx = TcContext::new(skb);
    // SAFETY: as in `meet`.
    let Some(Meeting { key, packet }) = MEETING.get_ptr(0).map(|meeting| unsafe { &*meeting }) else {
        return 0;
    };
    let direction = direction as usize & 1;
    match maps::flow(key) {
        Some(flow) => u32::from(is_of(flow, &ctx, key, direction, packet, now_ns)),
        None => u32::from(opens(&ctx, key, direction, packet, now_ns)),
    }
}

/// Whether a packet of no known flow opens one; it is one of that then.
#[inline(always)]
fn opens(ctx: &TcContext, key: &FlowKey, direction: usize, packet: &Tcp, now_ns: u64) -> bool {
    let is_to_server = maps::is_watched(packet.tuple.destination_port);
    match Part::of(packet) {
        Part::Syn if is_to_server => begin(ctx, key, direction, packet, now_ns),
        Part::Answer if answer(ctx, key, direction, packet, now_ns) => {}
        Part::Other if is_to_server && completes(ctx, key, direction, packet) => {
            open(key, now_ns);
            return maps::flow(key).is_some();
        }
        _ => maps::count(&STRAYS, 0),
    }
    false
}

/// Whether a packet is one of a known flow, and not of another connection between the same ends. It may make the entry one of
/// the other.
#[inline(always)]
fn is_of(
    flow: &shared::FlowEntry,
    ctx: &TcContext,
    key: &FlowKey,
    direction: usize,
    packet: &Tcp,
    now_ns: u64,
) -> bool {
    let here = &flow.directions[direction];
    let known = here.flags.get();
    let is_to_server = maps::is_watched(packet.tuple.destination_port);
    match Part::of(packet) {
        Part::Syn if is_to_server => {
            let is_copy = known & flags::SYN != 0 && here.initial_sequence.get() == packet.sequence;
            if !is_copy && (packet.tunnelled != 0 || !is_open(ctx, key)) {
                begin(ctx, key, direction, packet, now_ns);
                flow.set(flags::REOPENING);
                return false;
            }
        }
        Part::Answer if known & flags::REOPENING != 0 && answer(ctx, key, direction, packet, now_ns) => {
            return false;
        }
        Part::Other
            if known & flags::REOPENING != 0 && is_to_server && completes(ctx, key, direction, packet) =>
        {
            replace(flow, key, now_ns);
            return true;
        }
        _ => {}
    }
    if known & flags::RETIRED == 0 {
        return true;
    }
    maps::count(&STRAYS, 0);
    false
}

#[inline(always)]
fn begin(ctx: &TcContext, key: &FlowKey, direction: usize, syn: &Tcp, now_ns: u64) {
    if maps::handshake(key).is_none()
        && let Some(empty) = NO_HANDSHAKE.get_ptr(0)
    {
        // SAFETY: the map's value, to which nobody writes.
        let empty = unsafe { &*empty };
        // The oldest makes room. Where another CPU was faster, its entry is as good.
        let _ = HANDSHAKES.insert(key, empty, u64::from(BPF_NOEXIST));
    }
    if let Some(handshake) = maps::handshake(key) {
        handshake.begin(direction, syn, wire::ifindex(ctx), now_ns);
        note_sender(ctx, handshake, direction);
    }
}

/// Notes whether the packet comes from a socket on this machine: where addresses are translated, no socket has those that
/// are on the wire.
#[inline(always)]
fn note_sender(ctx: &TcContext, handshake: &shared::Handshake, direction: usize) {
    if direction == usize::from(EGRESS) && socket::opens(ctx) {
        handshake.sides[usize::from(EGRESS)].sent_here.set(1);
    }
}

#[inline(always)]
fn answer(ctx: &TcContext, key: &FlowKey, direction: usize, packet: &Tcp, now_ns: u64) -> bool {
    let Some(handshake) = maps::handshake(key) else { return false };
    let answers = handshake.answer(direction, packet, wire::ifindex(ctx), now_ns);
    if answers {
        note_sender(ctx, handshake, direction);
    }
    answers
}

/// Whether a packet completes a handshake, and one end of it is a socket here. In a tunnel that may be elsewhere: what is in
/// it comes from other machines, or from guests.
#[inline(always)]
fn completes(ctx: &TcContext, key: &FlowKey, direction: usize, packet: &Tcp) -> bool {
    let Some(handshake) = maps::handshake(key) else { return false };
    packet.tcp_flags & RST == 0
        && handshake.is_completed_by(direction, packet)
        && (packet.tunnelled != 0 || handshake.is_sent_here() || socket::state(ctx, key).is_some())
}

/// Whether the connection of a flow is open here.
#[inline(always)]
fn is_open(ctx: &TcContext, key: &FlowKey) -> bool {
    socket::state(ctx, key).is_some_and(|state| OPEN >> (state & 31) & 1 != 0)
}

/// Makes the entry of a connection whose handshake is complete, and its bucket of fragments.
#[inline(always)]
fn open(key: &FlowKey, now_ns: u64) {
    if !insert(key, now_ns) {
        return;
    }
    if let Some(flow) = maps::flow(key) {
        fill(flow, key, now_ns);
    }
}

/// Inserts an empty entry and its bucket of fragments; says whether it did. That it could not is a loss.
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
        // Another flow of the same addresses has made the bucket: that is as good.
        Err(EEXIST) => {
            if let Some(bucket) = maps::flow(&fragments) {
                revive(bucket, now_ns);
            }
        }
        Err(_) => maps::count_lost(lost::FLOWS),
    }
    true
}

/// Begins a bucket of fragments anew that user space is about to remove.
#[inline(always)]
fn revive(bucket: &shared::FlowEntry, now_ns: u64) {
    let [rx, tx] = &bucket.directions;
    if (rx.flags.get() | tx.flags.get()) & flags::RETIRED != 0 {
        bucket.clear();
        bucket.opened_ns.set(now_ns);
    }
}

/// Begins an empty entry with what crossed before it was made, and tells user space.
#[inline(always)]
fn fill(flow: &shared::FlowEntry, key: &FlowKey, now_ns: u64) {
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
        let _ = HANDSHAKES.remove(key);
    }
    await_owner(flow, now_ns);
    maps::emit(FlowEvent {
        header: Header { at_ns: now_ns, kind: kind::FLOW_SEEN, tgid: 0 },
        key: *key,
        ifindex,
        opened_ns: now_ns,
        first_ns,
        first_payload: 0,
        padding: 0,
    });
}

/// The owner of this entry is looked for from now on.
#[inline(always)]
fn await_owner(flow: &shared::FlowEntry, now_ns: u64) {
    flow.opened_ns.set(now_ns);
    flow.unowned.set(1);
    maps::count(&UNOWNED, 0);
}

/// The owner of this entry is looked for no more.
#[inline(always)]
pub(crate) fn settle(flow: &shared::FlowEntry) {
    if flow.unowned.get() != 0 {
        flow.unowned.set(0);
        if let Some(unowned) = maps::counter(&UNOWNED, 0) {
            unowned.add(u64::MAX);
        }
    }
}

/// Makes an entry that was another connection's one of this connection.
#[inline(always)]
fn replace(flow: &shared::FlowEntry, key: &FlowKey, now_ns: u64) {
    tell_replaced(flow, key, now_ns);
    release(flow, key);
    flow.clear();
    fill(flow, key, now_ns);
}

#[inline(always)]
fn tell_replaced(flow: &shared::FlowEntry, key: &FlowKey, now_ns: u64) {
    let Some(mut event) = EVENTS.reserve_untyped::<FlowReplaced>(0) else {
        return maps::count_lost(lost::RING_BUFFER);
    };
    let out = event.as_mut_ptr();
    // SAFETY: `out` is the reserved record, large enough for every field; the helper reads as many bytes of the map's value
    // as it has.
    let read = unsafe {
        (*out).header = Header { at_ns: now_ns, kind: kind::FLOW_REPLACED, tgid: 0 };
        (*out).key = *key;
        (*out).padding = 0;
        let entry = core::slice::from_raw_parts_mut((&raw mut (*out).entry).cast(), size_of::<FlowEntry>());
        bpf_probe_read_kernel_buf(core::ptr::from_ref(flow).cast(), entry)
    };
    if read.is_ok() {
        event.submit(0);
    } else {
        event.discard(0);
        maps::count_lost(lost::PROBES);
    }
}

/// Counts a connection that is open already; says whether there is an entry for it now.
#[inline(always)]
pub(crate) fn adopt(key: &FlowKey, now_ns: u64) -> bool {
    if insert(key, now_ns)
        && let Some(flow) = maps::flow(key)
    {
        await_owner(flow, now_ns);
    }
    maps::flow(key).is_some()
}

/// How many bytes of VLAN tags a frame has on the wire but not at an interface.
#[inline(always)]
pub(crate) fn tag_bytes(ifindex: u32) -> u32 {
    // SAFETY: the value is copied at once.
    unsafe { TAG_BYTES.get(ifindex) }.copied().unwrap_or(0)
}

/// Gives a flow to a process, and tells user space if that is news.
#[inline(always)]
pub(crate) fn own(key: &FlowKey, tgid: u32, by_user_space: u32) {
    let Some(flow) = maps::flow(key) else { return };
    if flow.owner.get() == tgid {
        return;
    }
    release(flow, key);
    flow.owner.set(tgid);
    settle(flow);
    claim(flow, key, tgid);
    tell_owned(flow, key, tgid, by_user_space);
}

/// Enters the flow into the list of its owner's.
#[inline(always)]
fn claim(flow: &shared::FlowEntry, key: &FlowKey, tgid: u32) {
    let Some(process) = maps::process(tgid) else { return };
    // Two threads may want the same number at once.
    for _ in 0..RACES {
        let number = free_claim(tgid);
        if number >= abi::FLOW_CLAIMS {
            break;
        }
        if FLOW_CLAIMS.insert(Claim { tgid, number }, key, u64::from(BPF_NOEXIST)).is_ok() {
            // Two threads may claim one flow at once: the claim that the flow names counts.
            flow.claim.set(number);
            abi::reach(&process.flow_claims, number);
            return;
        }
    }
    maps::count_lost(lost::CLAIMS);
}

/// The first number that no flow of `tgid` has; beyond the last if there is none.
///
/// A global function: the verifier looks at it by itself, and not at all that follows once for each number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn free_claim(tgid: u32) -> u32 {
    for number in 0..abi::FLOW_CLAIMS {
        if is_claimed(tgid, number) == 0 {
            return number;
        }
    }
    abi::FLOW_CLAIMS
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_claimed(tgid: u32, number: u32) -> u32 {
    u32::from(FLOW_CLAIMS.get_ptr(Claim { tgid, number }).is_some())
}

/// Takes the flow out of the list of its owner's, if it is there: for some there was no room, and the process that had its
/// owner's id may have ended.
#[inline(always)]
pub(crate) fn release(flow: &shared::FlowEntry, key: &FlowKey) {
    let claim = Claim { tgid: flow.owner.get(), number: flow.claim.get() };
    // SAFETY: the value is looked at at once.
    if unsafe { FLOW_CLAIMS.get(claim) }.is_some_and(|claimed| claimed == key) {
        let _ = FLOW_CLAIMS.remove(claim);
    }
}

/// Empties the list of a process' flows. A global function, as [`free_claim`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn disown_flows(tgid: u32) -> u32 {
    for number in 0..abi::FLOW_CLAIMS {
        remove_claim(tgid, number);
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remove_claim(tgid: u32, number: u32) -> u32 {
    u32::from(FLOW_CLAIMS.remove(Claim { tgid, number }).is_ok())
}

/// Tells user space of an owner, and what the sums over its flows lacked until now.
#[inline(always)]
fn tell_owned(flow: &shared::FlowEntry, key: &FlowKey, tgid: u32, by_user_space: u32) {
    // A packet that comes meanwhile is counted and has a later stamp: then it shows that the counters are not of this instant.
    let at_ns = maps::now_ns();
    let mut crossed = Sums::default();
    add(&mut crossed, flow);
    let [rx, tx] = &flow.directions;
    maps::emit(FlowOwned {
        header: Header { at_ns, kind: kind::FLOW_OWNED, tgid },
        key: *key,
        by_user_space,
        opened_ns: flow.opened_ns.get(),
        crossed,
        last_ns: rx.last_ns.get().max(tx.last_ns.get()),
    });
}

/// Adds up the counters of all flows of `tgid`, at this instant.
#[inline(always)]
pub(crate) fn sum(tgid: u32) -> Option<&'static Sums> {
    sum_flows(tgid);
    // SAFETY: the map's value, which is this CPU's, and this program's until its end.
    SUMS.get_ptr(0).map(|sums| unsafe { &*sums })
}

/// Fills in [`SUMS`]. A global function, as [`free_claim`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sum_flows(tgid: u32) -> u32 {
    let Some(sums) = SUMS.get_ptr_mut(0) else { return 0 };
    // SAFETY: as in `sum`.
    unsafe { *sums = Sums::default() };
    let claims = maps::process(tgid).map_or(0, |process| process.flow_claims.get());
    for number in 0..abi::FLOW_CLAIMS {
        if number >= claims {
            break;
        }
        add_claimed_flow(tgid, number);
    }
    claims
}

/// Adds the counters of the flow that has this number among those of `tgid`.
///
/// A global function, as [`free_claim`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_claimed_flow(tgid: u32, number: u32) -> u32 {
    // SAFETY: the key is used at once. Who removes it meanwhile has retired its flow, which is not counted then.
    let Some(key) = (unsafe { FLOW_CLAIMS.get(Claim { tgid, number }) }) else { return 0 };
    if let Some(flow) = maps::flow(key)
        && flow.owner.get() == tgid
        && flow.claim.get() == number
        && let Some(sums) = SUMS.get_ptr_mut(0)
    {
        // SAFETY: as in `sum`.
        add(unsafe { &mut *sums }, flow);
        return 1;
    }
    0
}

#[inline(always)]
fn add(sums: &mut Sums, flow: &shared::FlowEntry) {
    const { assert!(INGRESS == 0 && EGRESS == 1) };
    for (sum, direction) in sums.by_direction.iter_mut().zip(&flow.directions) {
        *sum = Sum {
            wire_bytes: sum.wire_bytes + direction.wire_bytes.get(),
            payload_bytes: sum.payload_bytes + direction.payload_bytes.get(),
            segments: sum.segments + direction.segments.get(),
            skbs: sum.skbs + direction.skbs.get(),
        };
    }
}
