//! Counts every packet of the migration flows as it is on the wire.

use aya_ebpf::programs::TcContext;
use migtrace_ebpf::{
    abi::{EGRESS, FlowKey, flags, kind, shared},
    packet::{self, Frame as _, Packet, Tcp, Tuple, Wanted},
    stream,
};

use super::{
    flow, handshake,
    maps::{self, TAGGED_ELSEWHERE},
    milestone, settings,
    skb::{Linear, Whole, ifindex},
};

/// Counts one packet; `direction` is [`migtrace_ebpf::abi::INGRESS`] or [`EGRESS`].
#[inline(always)]
pub(crate) fn count(ctx: &TcContext, direction: u8) {
    let encapsulations = settings::ENCAPSULATIONS.load();
    // For most packets the look at the ports is the last step, and a call there would cost more than all else. The
    // full walk calls a function, because the verifier has enough to do without one more copy.
    let plain = Wanted {
        encapsulations,
        ports: #[inline(always)]
        |source, destination| settings::is_either_watched(source, destination),
    };
    let any = Wanted { encapsulations, ports: settings::is_either_watched };
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
    let key = key(&tcp.tuple, direction);
    let now_ns = maps::now_ns();
    let seen = stream::flags_of(tcp);
    let mut flow = maps::flow(&key);
    if flow.is_none_or(|flow| is_doubtful(seen, flow.directions[usize::from(direction)].flags.get())) {
        if is_counted_elsewhere(ifindex, tcp) || !handshake::meet(ctx, &key, direction, tcp, now_ns) {
            return;
        }
        flow = maps::flow(&key);
    }
    let Some(flow) = flow else { return };
    let stream = &flow.directions[usize::from(direction)];
    if !is_counted_here(stream, ifindex, tcp, now_ns) {
        return;
    }
    stream.count(tcp, now_ns);
    let is_new = tcp.payload_bytes != 0 && stream.advance(tcp, now_ns);
    let news = stream.note(seen, is_new);
    let reached = stream.reached(tcp, is_new, news);
    if reached != 0 {
        milestone::cross(&key, direction, tcp, reached, now_ns);
    }
    if news & flags::PAYLOAD != 0 {
        note_first_payload(ctx, flow, stream, &key, tcp, now_ns);
    }
}

/// Whether a packet with the flags `seen` may belong to another connection than the one that has the flags `known`.
#[inline(always)]
const fn is_doubtful(seen: u32, known: u32) -> bool {
    seen & flags::SYN | known & (flags::REOPENING | flags::RETIRED) != 0
}

/// Counts a later fragment, which carries no ports: in the bucket of its pair of addresses, if a flow has opened one.
#[inline(always)]
fn count_fragment(ctx: &TcContext, direction: u8, fragment: &Tcp) {
    let Some(bucket) = maps::flow(&key(&fragment.tuple, direction)) else { return };
    let now_ns = maps::now_ns();
    let stream = &bucket.directions[usize::from(direction)];
    let is_retired = stream.flags.get() & flags::RETIRED != 0;
    if !is_retired && is_counted_here(stream, ifindex(ctx), fragment, now_ns) {
        stream.count(fragment, now_ns);
    }
}

/// Whether a packet is counted at this interface. Each direction is counted at the interface of its first packet. The
/// same packet may cross several interfaces of this host; at the others it is only counted as seen elsewhere.
#[inline(always)]
fn is_counted_here(stream: &shared::Direction, ifindex: u32, packet: &Tcp, now_ns: u64) -> bool {
    let is_started = stream.flags.get() & flags::STARTED != 0;
    if is_started && stream.ifindex.get() == ifindex {
        return true;
    }
    if is_counted_elsewhere(ifindex, packet) {
        return false;
    }
    if is_started {
        stream.elsewhere_skbs.add(1);
    } else {
        stream.start(ifindex, flow::tag_bytes(ifindex), now_ns);
    }
    !is_started
}

/// Whether the packet is counted at a VLAN device above this interface.
#[inline(always)]
fn is_counted_elsewhere(ifindex: u32, packet: &Tcp) -> bool {
    // SAFETY: the reference is used at once; nothing removes entries.
    packet.tagged != 0 && unsafe { TAGGED_ELSEWHERE.get(ifindex) }.is_some()
}

#[inline(always)]
fn note_first_payload(
    ctx: &TcContext,
    entry: &shared::FlowEntry,
    stream: &shared::Direction,
    key: &FlowKey,
    tcp: &Tcp,
    now_ns: u64,
) {
    let Some(bytes) = Whole(ctx).read::<4>(tcp.payload_offset) else { return };
    let first_payload = u32::from_be_bytes(bytes);
    stream.first_payload.set(first_payload);
    flow::emit(
        entry,
        key,
        now_ns,
        flow::Seen { kind: kind::FLOW_PAYLOAD, first_payload, ..flow::Seen::default() },
    );
}

#[inline(always)]
fn key(tuple: &Tuple, direction: u8) -> FlowKey {
    if direction == EGRESS {
        FlowKey {
            local: tuple.source,
            remote: tuple.destination,
            local_port: tuple.source_port,
            remote_port: tuple.destination_port,
        }
    } else {
        FlowKey {
            local: tuple.destination,
            remote: tuple.source,
            local_port: tuple.destination_port,
            remote_port: tuple.source_port,
        }
    }
}
