//! Opens flows: only a complete handshake, with a socket of this host at one end, opens one.
//!
//! The functions that are called for a packet have stack frames of their own, which are free again for the next call:
//! on Linux 6.1 the frames of a chain of calls, each rounded up to 32 bytes, share 512 bytes.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    programs::TcContext,
};
use migtrace_ebpf::{
    abi::{EGRESS, FlowKey, flags, shared},
    handshake::HandshakeStep,
    packet::{Tcp, tcp_flags::RST},
};

use super::{
    flow,
    maps::{self, HANDSHAKES, Meeting, NO_HANDSHAKE, STRAYS},
    settings, skb, socket,
};

/// The states, as bits, in which a socket accepts no SYN: its connection is open, or is being closed
/// (include/net/tcp_states.h).
const OPEN: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// Looks at a packet of an unknown flow, or of a flow that may be over. A packet that proves that a connection to a
/// watched port is open makes an entry for it, or reuses the entry of the connection before; no other packet does.
/// Returns whether the packet belongs to the flow that has the entry now.
#[inline(always)]
pub(crate) fn meet(ctx: &TcContext, key: &FlowKey, direction: u8, packet: &Tcp, now_ns: u64) -> bool {
    if !maps::set_meeting(key, packet) {
        return false;
    }
    look_closely(ctx.skb.skb, u32::from(direction), now_ns) != 0
}

/// Does the work of [`meet`] with the packet in [`MEETING`].
///
/// A global function: the verifier checks it once, instead of once for each path to the packet's header.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_closely(skb: *mut __sk_buff, direction: u32, now_ns: u64) -> u32 {
    let ctx = TcContext::new(skb);
    let Some(Meeting { key, packet }) = maps::meeting() else { return 0 };
    let direction = direction as usize & 1;
    match maps::flow(key) {
        Some(flow) => u32::from(is_of(flow, &ctx, key, direction, packet, now_ns)),
        None => u32::from(opens(&ctx, key, direction, packet, now_ns)),
    }
}

/// Whether a packet of an unknown flow opens one, and so belongs to it.
#[inline(always)]
fn opens(ctx: &TcContext, key: &FlowKey, direction: usize, packet: &Tcp, now_ns: u64) -> bool {
    let is_to_server = settings::is_watched(packet.tuple.destination_port);
    match HandshakeStep::of(packet) {
        HandshakeStep::Syn if is_to_server => begin(ctx, key, direction, packet, now_ns),
        HandshakeStep::Answer if answer(ctx, key, direction, packet, now_ns) => {}
        HandshakeStep::Other if is_to_server && completes(ctx, key, direction, packet) => {
            flow::open(key, direction, now_ns);
            return maps::flow(key).is_some();
        }
        _ => maps::count(&STRAYS, 0),
    }
    false
}

/// Whether a packet belongs to the flow that has the entry, not to an earlier or later connection between the same
/// ends. It may give the entry to its own connection.
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
    let is_to_server = settings::is_watched(packet.tuple.destination_port);
    match HandshakeStep::of(packet) {
        HandshakeStep::Syn if is_to_server => {
            let is_copy = known & flags::SYN != 0 && here.initial_sequence.get() == packet.sequence;
            if !is_copy && (packet.tunnelled != 0 || !is_open(ctx, key)) {
                begin(ctx, key, direction, packet, now_ns);
                flow.set(flags::REOPENING);
                return false;
            }
        }
        HandshakeStep::Answer
            if known & flags::REOPENING != 0 && answer(ctx, key, direction, packet, now_ns) =>
        {
            return false;
        }
        HandshakeStep::Other
            if known & flags::REOPENING != 0 && is_to_server && completes(ctx, key, direction, packet) =>
        {
            flow::replace(flow, key, direction, now_ns);
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

/// Takes in a SYN: makes an entry for its handshake, if there is none.
#[inline(always)]
fn begin(ctx: &TcContext, key: &FlowKey, direction: usize, syn: &Tcp, now_ns: u64) {
    if maps::handshake(key).is_none()
        && let Some(empty) = NO_HANDSHAKE.get_ptr(0)
    {
        // SAFETY: the map's value, to which nobody writes.
        let empty = unsafe { &*empty };
        // The map evicts its oldest entry for it. If another CPU was faster, its entry serves as well.
        let _ = HANDSHAKES.insert(key, empty, u64::from(BPF_NOEXIST));
    }
    if let Some(handshake) = maps::handshake(key) {
        handshake.begin(direction, syn, skb::ifindex(ctx), now_ns);
        note_sender(ctx, handshake, direction);
    }
}

/// Notes whether the packet comes from a socket of this machine. Where addresses are translated, no socket has those
/// that are on the wire, so it could not be found later.
#[inline(always)]
fn note_sender(ctx: &TcContext, handshake: &shared::Handshake, direction: usize) {
    if direction == usize::from(EGRESS) && socket::opens(ctx) {
        handshake.sides[usize::from(EGRESS)].sent_here.set(1);
    }
}

/// Takes in a SYN with ACK; returns whether it answers a SYN that was seen.
#[inline(always)]
fn answer(ctx: &TcContext, key: &FlowKey, direction: usize, packet: &Tcp, now_ns: u64) -> bool {
    let Some(handshake) = maps::handshake(key) else { return false };
    let answers = handshake.answer(direction, packet, skb::ifindex(ctx), now_ns);
    if answers {
        note_sender(ctx, handshake, direction);
    }
    answers
}

/// Whether a packet completes a handshake, and one end of the connection is a socket here. For a packet in a tunnel
/// no socket is required: it comes from other machines, or from guests.
#[inline(always)]
fn completes(ctx: &TcContext, key: &FlowKey, direction: usize, packet: &Tcp) -> bool {
    let Some(handshake) = maps::handshake(key) else { return false };
    packet.tcp_flags & RST == 0
        && handshake.is_completed_by(direction, packet)
        && (packet.tunnelled != 0 || handshake.is_sent_here() || socket::state(ctx, key).is_some())
}

/// Whether a socket here still has this flow's connection.
#[inline(always)]
fn is_open(ctx: &TcContext, key: &FlowKey) -> bool {
    socket::state(ctx, key).is_some_and(|state| OPEN >> (state & 31) & 1 != 0)
}
