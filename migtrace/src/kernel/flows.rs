//! The flow table as the kernel programs keep it, joined into connections.

use std::collections::BTreeMap;
use std::net::IpAddr;

use migtrace_ebpf::abi::{EGRESS, FlowEntry, FlowKey, Retransmitted, flags};

use super::messages::flow_of;
use crate::event::Purpose;
use crate::units::{Counters, Directions, Flow, MonotonicNs};

/// What is known of one connection, or (ports 0) of the fragments between two hosts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FlowState {
    pub(crate) flow: Flow,
    pub(crate) counters: Directions<Counters>,
    pub(crate) first_ns: MonotonicNs,
    pub(crate) last_ns: MonotonicNs,
    /// The last packet with payload that had not crossed before.
    pub(crate) last_byte_ns: Directions<Option<MonotonicNs>>,
    /// Interface of its first packet.
    pub(crate) ifindex: u32,
    pub(crate) owner: Option<u32>,
    pub(crate) from_start: bool,
    pub(crate) closed: bool,
    pub(crate) elsewhere_skbs: u64,
    /// `None`: not measured on this host.
    pub(crate) retransmitted: Option<Retransmitted>,
}

impl FlowState {
    /// Whether this is the bucket for fragments rather than a connection.
    pub(crate) fn is_fragments(&self) -> bool {
        self.flow.local.port() == 0 && self.flow.remote.port() == 0
    }
}

/// The key of a flow's outgoing direction.
pub(super) fn outgoing_key(flow: Flow) -> FlowKey {
    FlowKey {
        source: words(flow.local.ip()),
        destination: words(flow.remote.ip()),
        source_port: flow.local.port(),
        destination_port: flow.remote.port(),
        direction: EGRESS,
        padding: [0; 3],
    }
}

/// An address as the programs write it.
pub(super) fn words(address: IpAddr) -> [u32; 4] {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

/// What the first four bytes of payload say about a flow; `None` when they say nothing.
pub(crate) const fn purpose(first_bytes: u32) -> Option<Purpose> {
    match first_bytes.to_be_bytes() {
        // QEMU_VM_FILE_MAGIC, migration/savevm.h
        [b'Q', b'E', b'V', b'M'] => Some(Purpose::Ram),
        // MULTIFD_MAGIC, migration/multifd.h
        [0x11, 0x22, 0x33, 0x44] => Some(Purpose::Multifd),
        // The server's greeting, NBDMAGIC
        [b'N', b'B', b'D', b'M'] => Some(Purpose::Nbd),
        // A TLS handshake record
        [0x16, 0x03, _, _] => Some(Purpose::Tls),
        _ => None,
    }
}

/// Joins the directions of each connection. Sorted by flow, so that the order never depends on a hash.
pub(super) fn join(
    entries: Vec<(FlowKey, FlowEntry)>,
    retransmitted: Option<&[(FlowKey, Retransmitted)]>,
) -> Vec<FlowState> {
    let mut flows: BTreeMap<Flow, (FlowState, u32)> = BTreeMap::new();
    for (key, entry) in entries {
        let flow = flow_of(&key);
        let (state, all_flags) = flows.entry(flow).or_insert_with(|| (empty(flow, &entry), 0));
        let counters = Counters {
            wire_bytes: entry.wire_bytes,
            payload_bytes: entry.payload_bytes,
            segments: entry.segments,
            skbs: entry.skbs,
        };
        let last_byte_ns = (entry.last_byte_ns != 0).then_some(MonotonicNs(entry.last_byte_ns));
        let seen = if key.direction == EGRESS {
            state.counters.tx = counters;
            state.last_byte_ns.tx = last_byte_ns;
            entry.flags << 16
        } else {
            state.counters.rx = counters;
            state.last_byte_ns.rx = last_byte_ns;
            entry.flags
        };
        *all_flags |= seen;
        if entry.first_ns < state.first_ns.0 {
            state.first_ns = MonotonicNs(entry.first_ns);
            state.ifindex = entry.ifindex;
        }
        state.last_ns = state.last_ns.max(MonotonicNs(entry.last_ns));
        state.elsewhere_skbs += entry.elsewhere_skbs;
        if entry.owner != 0 {
            state.owner = Some(entry.owner);
        }
    }
    if let Some(retransmitted) = retransmitted {
        for (state, _) in flows.values_mut() {
            let key = outgoing_key(state.flow);
            let found = retransmitted.iter().find(|(of, _)| *of == key).map(|(_, sum)| *sum);
            state.retransmitted = Some(found.unwrap_or_default());
        }
    }
    flows
        .into_values()
        .map(|(mut state, all_flags)| {
            let either = all_flags | all_flags >> 16;
            state.from_start = either & flags::SYN != 0;
            let both = all_flags & all_flags >> 16;
            state.closed = either & flags::RST != 0 || both & flags::FIN != 0;
            state
        })
        .collect()
}

fn empty(flow: Flow, entry: &FlowEntry) -> FlowState {
    FlowState {
        flow,
        counters: Directions::default(),
        first_ns: MonotonicNs(entry.first_ns),
        last_ns: MonotonicNs(entry.last_ns),
        last_byte_ns: Directions::default(),
        ifindex: entry.ifindex,
        owner: None,
        from_start: false,
        closed: false,
        elsewhere_skbs: 0,
        retransmitted: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow { local: "10.0.0.1:40000".parse().unwrap(), remote: "[fd00::2]:49152".parse().unwrap() }
    }

    fn entry(first_ns: u64, flags: u32) -> FlowEntry {
        FlowEntry {
            wire_bytes: 66,
            segments: 1,
            skbs: 1,
            first_ns,
            last_ns: first_ns,
            ifindex: 3,
            flags,
            ..FlowEntry::default()
        }
    }

    #[test]
    fn both_directions_make_one_flow_that_is_closed_when_both_ends_said_so() {
        let key = outgoing_key(flow());
        let tx = entry(5, flags::SYN | flags::FIN);
        let rx = FlowEntry { owner: 9, ..entry(7, flags::SYN) };
        let open = join(vec![(key.reversed(), rx), (key, tx)], None);
        assert_eq!(open.len(), 1);
        assert_eq!(open[0].flow, flow());
        assert_eq!((open[0].first_ns, open[0].last_ns), (MonotonicNs(5), MonotonicNs(7)));
        assert_eq!(open[0].owner, Some(9));
        assert!(open[0].from_start && !open[0].closed);
        assert_eq!(open[0].retransmitted, None);

        let rx = FlowEntry { flags: flags::SYN | flags::FIN, ..rx };
        let resent = Retransmitted { segments: 2, payload_bytes: 2896, ..Retransmitted::default() };
        let closed = join(vec![(key, tx), (key.reversed(), rx)], Some(&[(key, resent)]));
        assert!(closed[0].closed);
        assert_eq!(closed[0].retransmitted, Some(resent));
    }

    #[test]
    fn first_bytes_tell_what_a_flow_carries() {
        assert_eq!(purpose(u32::from_be_bytes(*b"QEVM")), Some(Purpose::Ram));
        assert_eq!(purpose(0x1122_3344), Some(Purpose::Multifd));
        assert_eq!(purpose(u32::from_be_bytes(*b"NBDM")), Some(Purpose::Nbd));
        assert_eq!(purpose(0x1603_0100), Some(Purpose::Tls));
        assert_eq!(purpose(0), None);
    }
}
