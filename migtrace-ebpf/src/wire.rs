//! Counts every packet of the watched flows as it is on the wire.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    programs::TcContext,
};
use migtrace_ebpf::{
    abi::{FlowEntry, FlowEvent, FlowKey, Header, flags, kind, lost},
    packet::{self, Frame, Ip, Metadata, Packet, Tcp, Tuple, Wanted},
};

use crate::maps::{self, FLOWS, FOUND, IP, OWNERS, TAGGED_ELSEWHERE};

/// What the kernel says of a key that is there.
const EEXIST: i32 = -17;

/// A socket buffer's linear part, read where it lies.
pub(crate) struct Linear<'a>(pub(crate) &'a TcContext);

impl Frame for Linear<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = self.0.data() + offset as usize;
        if start + N > self.0.data_end() {
            return None;
        }
        // SAFETY: the verifier holds us to the comparison above; bytes need no alignment.
        Some(unsafe { core::ptr::read_unaligned(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn metadata(&self) -> Metadata {
        metadata(self.0)
    }
}

/// All of a socket buffer, copied out. Never pulled into the linear part: that would reallocate the packet.
pub(crate) struct Whole<'a>(pub(crate) &'a TcContext);

impl Frame for Whole<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.load(offset as usize).ok()
    }

    #[inline(always)]
    fn metadata(&self) -> Metadata {
        metadata(self.0)
    }

    #[inline(always)]
    fn forget_the_way(&self, ip: Ip) -> Option<Ip> {
        const { assert!(align_of::<Ip>() <= align_of::<u32>()) };
        let place = IP.get_ptr_mut(0)?.cast::<Ip>();
        // SAFETY: `place` has room for an `Ip`, and nothing that could use it runs between this and the next.
        unsafe { place.write_volatile(ip) };
        // SAFETY: as above, and an `Ip` has just been written there.
        Some(unsafe { place.read_volatile() })
    }
}

#[inline(always)]
fn metadata(ctx: &TcContext) -> Metadata {
    let skb: *const __sk_buff = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context, and these fields may be read in every TC program.
    unsafe { Metadata { length: (*skb).len, gso_size: (*skb).gso_size, vlan_present: (*skb).vlan_present } }
}

/// Counts one packet of one of [`migtrace_ebpf::abi::INGRESS`] and `EGRESS`.
#[inline(always)]
pub(crate) fn count(ctx: &TcContext, direction: u8) {
    let encapsulations = maps::ENCAPSULATIONS.load();
    // Most packets end at their ports: there a call would cost more than all else that they need. The walk has enough to
    // be verified without them.
    let plain = Wanted {
        encapsulations,
        ports: #[inline(always)]
        |source, destination| maps::is_watched(source, destination),
    };
    let any = Wanted { encapsulations, ports: maps::is_watched };
    let packet =
        packet::parse_plain(&Linear(ctx), &plain).unwrap_or_else(|| packet::parse(&Whole(ctx), &any));
    match packet {
        Packet::Tcp(tcp) => count_tcp(ctx, direction, &tcp),
        Packet::Fragment(fragment) => count_fragment(ctx, direction, &fragment),
        Packet::Other => {}
    }
}

#[inline(always)]
fn count_tcp(ctx: &TcContext, direction: u8, tcp: &Tcp) {
    let ifindex = ifindex(ctx);
    if is_counted_elsewhere(ifindex, tcp) {
        return;
    }
    let key = key(&tcp.tuple, direction);
    let now_ns = maps::now_ns();
    let flow = match FLOWS.get_ptr_mut(key) {
        Some(flow) => flow,
        None => match open(&key, ifindex, tcp, now_ns) {
            Some(flow) => {
                #[cfg(feature = "kernel-log")]
                aya_log_ebpf::debug!(
                    ctx,
                    "flow {} -> {} found at interface {}",
                    key.source_port,
                    key.destination_port,
                    ifindex
                );
                flow
            }
            None => {
                #[cfg(feature = "kernel-log")]
                aya_log_ebpf::warn!(ctx, "no room for flow {} -> {}", key.source_port, key.destination_port);
                return maps::count_lost(lost::FLOWS);
            }
        },
    };
    // SAFETY: `flow` points into the map; entries are never removed by a program.
    if !unsafe { add(flow, ifindex, tcp, now_ns) } {
        return;
    }
    if tcp.payload_bytes != 0 {
        // SAFETY: as above.
        unsafe { advance(flow, tcp, now_ns) };
    }
    let seen = flags_of(tcp);
    // SAFETY: as above. Two CPUs that race here set bits that the other's packet sets again or that
    // end the flow; the counters do not depend on them.
    let known = unsafe { (*flow).flags };
    if known & seen != seen {
        // SAFETY: as above.
        unsafe { (*flow).flags = known | seen };
        if known & flags::PAYLOAD == 0 && seen & flags::PAYLOAD != 0 {
            note_first_payload(ctx, flow, &key, tcp, now_ns);
        }
    }
}

/// Later fragments carry no ports. They are billed to the pair of addresses, if a watched flow has opened it.
#[inline(always)]
fn count_fragment(ctx: &TcContext, direction: u8, fragment: &Tcp) {
    let Some(bucket) = FLOWS.get_ptr_mut(key(&fragment.tuple, direction)) else { return };
    let ifindex = ifindex(ctx);
    if !is_counted_elsewhere(ifindex, fragment) {
        // SAFETY: `bucket` points into the map; entries are never removed by a program.
        unsafe { add(bucket, ifindex, fragment, maps::now_ns()) };
    }
}

#[inline(always)]
fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as in `metadata`.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Whether a VLAN device above this interface counts the packet.
#[inline(always)]
fn is_counted_elsewhere(ifindex: u32, packet: &Tcp) -> bool {
    // SAFETY: the reference is used at once; nothing removes entries.
    packet.tagged != 0 && unsafe { TAGGED_ELSEWHERE.get(ifindex) }.is_some()
}

/// Adds a packet to its flow, unless the flow is counted at another interface; says whether it did.
///
/// # Safety
///
/// `flow` points into [`FLOWS`].
#[inline(always)]
unsafe fn add(flow: *mut FlowEntry, ifindex: u32, packet: &Tcp, now_ns: u64) -> bool {
    // SAFETY: the caller's promise.
    if unsafe { (*flow).ifindex } != ifindex {
        // SAFETY: the caller's promise.
        unsafe { maps::add(&raw mut (*flow).elsewhere_skbs, 1) };
        return false;
    }
    // SAFETY: the caller's promise.
    unsafe { maps::add(&raw mut (*flow).wire_bytes, packet.wire_bytes) };
    // SAFETY: the caller's promise.
    unsafe { maps::add(&raw mut (*flow).payload_bytes, u64::from(packet.payload_bytes)) };
    // SAFETY: the caller's promise.
    unsafe { maps::add(&raw mut (*flow).segments, u64::from(packet.segments)) };
    // SAFETY: the caller's promise.
    unsafe { maps::add(&raw mut (*flow).skbs, 1) };
    // SAFETY: the caller's promise; a lost race with another CPU is off by nanoseconds.
    unsafe { (*flow).last_ns = now_ns };
    true
}

/// Notes when payload crosses that has not crossed before. What is sent again has.
///
/// # Safety
///
/// `flow` points into [`FLOWS`].
#[inline(always)]
unsafe fn advance(flow: *mut FlowEntry, tcp: &Tcp, now_ns: u64) {
    let next = tcp.sequence.wrapping_add(tcp.payload_bytes);
    // SAFETY: the caller's promise.
    let (last_byte_ns, reached) = unsafe { ((*flow).last_byte_ns, (*flow).next_sequence) };
    if last_byte_ns == 0 || next.wrapping_sub(reached).cast_signed() > 0 {
        // SAFETY: the caller's promise. One connection's packets are handed down one after the other.
        unsafe { (*flow).next_sequence = next };
        // SAFETY: as above.
        unsafe { (*flow).last_byte_ns = now_ns };
    }
}

/// Makes a flow's entry and tells user space. `None`: the table is full.
///
/// What it calls has a frame of its own, which is gone when the next one comes: on Linux 6.1 the frames of a chain of
/// calls, each rounded up to 32 bytes, share 512.
fn open(key: &FlowKey, ifindex: u32, tcp: &Tcp, now_ns: u64) -> Option<*mut FlowEntry> {
    let flags = flags_of(tcp) & flags::SYN;
    let owner = owner(key);
    if insert(key, ifindex, owner, flags, now_ns) {
        if let Some(found) = FOUND.get_ptr_mut(0) {
            // SAFETY: `found` is the map's value.
            unsafe { maps::add(found, 1) };
        }
        tell_seen(key, ifindex, owner, flags, now_ns);
    }
    FLOWS.get_ptr_mut(key)
}

/// Inserts the entry and its bucket of fragments; says whether the entry is a new one.
#[inline(never)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value the entry and the key would be on the stack twice"
)]
fn insert(key: &FlowKey, ifindex: u32, owner: u32, flags: u32, now_ns: u64) -> bool {
    let entry =
        FlowEntry { first_ns: now_ns, last_ns: now_ns, ifindex, owner, flags, ..FlowEntry::default() };
    if FLOWS.insert(key, &entry, u64::from(BPF_NOEXIST)).is_err() {
        return false;
    }
    match FLOWS.insert(&key.fragments(), &entry, u64::from(BPF_NOEXIST)) {
        // Another flow of the same addresses has made the bucket: that is as good.
        Ok(()) | Err(EEXIST) => {}
        Err(_) => maps::count_lost(lost::FLOWS),
    }
    true
}

#[inline(never)]
fn tell_seen(key: &FlowKey, ifindex: u32, owner: u32, flags: u32, now_ns: u64) {
    maps::emit(FlowEvent {
        header: Header { at_ns: now_ns, kind: kind::FLOW_SEEN, tgid: owner },
        key: *key,
        ifindex,
        flags,
        first_payload: 0,
        padding: 0,
    });
}

/// The owner that the other direction, or user space, knows already; 0 if none does.
#[inline(never)]
fn owner(key: &FlowKey) -> u32 {
    if let Some(reverse) = FLOWS.get_ptr(key.reversed()) {
        // SAFETY: `reverse` points into the map.
        let owner = unsafe { (*reverse).owner };
        if owner != 0 {
            return owner;
        }
    }
    // SAFETY: the value is copied at once.
    unsafe { OWNERS.get(key) }.copied().unwrap_or(0)
}

#[inline(always)]
fn note_first_payload(ctx: &TcContext, flow: *mut FlowEntry, key: &FlowKey, tcp: &Tcp, now_ns: u64) {
    let Some(bytes) = Whole(ctx).read::<4>(tcp.payload_offset) else { return };
    let first_payload = u32::from_be_bytes(bytes);
    // SAFETY: `flow` points into the map.
    unsafe { (*flow).first_payload = first_payload };
    maps::emit(FlowEvent {
        header: Header { at_ns: now_ns, kind: kind::FLOW_PAYLOAD, tgid: 0 },
        key: *key,
        ifindex: 0,
        flags: flags::PAYLOAD,
        first_payload,
        padding: 0,
    });
}

#[inline(always)]
fn key(tuple: &Tuple, direction: u8) -> FlowKey {
    // Three zeros by themselves would become a call of `memset`, for every packet.
    let [direction, padding @ ..] = u32::from(direction).to_le_bytes();
    FlowKey {
        source: tuple.source,
        destination: tuple.destination,
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        direction,
        padding,
    }
}

#[inline(always)]
fn flags_of(tcp: &Tcp) -> u32 {
    let mut seen = 0;
    if tcp.tcp_flags & 0x01 != 0 {
        seen |= flags::FIN;
    }
    if tcp.tcp_flags & 0x02 != 0 {
        seen |= flags::SYN;
    }
    if tcp.tcp_flags & 0x04 != 0 {
        seen |= flags::RST;
    }
    if tcp.payload_bytes >= 4 {
        seen |= flags::PAYLOAD;
    }
    seen
}
