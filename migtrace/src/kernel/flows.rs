//! The flow table: what the programs counted of each flow.

use std::net::SocketAddr;

use migtrace_ebpf::abi::{Direction, EGRESS, FlowEntry, FlowKey, INGRESS, Retransmitted, flags};

use super::address::{address, words};
use super::messages::FlowId;
use crate::units::{Counters, Directions, Flow, MonotonicNs};

/// What is known of one connection, or (ports 0) of the fragments between two hosts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FlowState {
    pub(crate) flow: Flow,
    /// When its entry was made. A later connection between the same ends has another one.
    pub(crate) opened_ns: MonotonicNs,
    pub(crate) counters: Directions<Counters>,
    /// `None`: no packet was seen yet.
    pub(crate) first: Option<FirstPacket>,
    /// The last packet; `opened_ns` before any.
    pub(crate) last_ns: MonotonicNs,
    /// The last packet with new payload, not retransmitted.
    pub(crate) last_byte_ns: Directions<Option<MonotonicNs>>,
    pub(crate) owner: Option<u32>,
    /// The sequence numbers of both SYNs; `None` where one of them was not seen.
    pub(crate) initial_sequences: Option<Directions<u32>>,
    /// Whether both SYNs are among what was counted.
    pub(crate) from_start: bool,
    /// In each direction, whether a SYN is.
    pub(crate) opening_counted: Directions<bool>,
    pub(crate) closed: bool,
    pub(crate) elsewhere_skbs: u64,
    /// `None`: not measured on this host.
    pub(crate) retransmitted: Option<Retransmitted>,
}

/// A flow's first packet, in either direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FirstPacket {
    pub(crate) at_ns: MonotonicNs,
    /// The interface at which it was seen.
    pub(crate) ifindex: u32,
}

impl FlowState {
    /// Identifies this connection among all between its ends.
    pub(crate) const fn id(&self) -> FlowId {
        FlowId { flow: self.flow, opened_ns: self.opened_ns }
    }

    /// Whether this counts the fragments between two hosts rather than a connection.
    pub(crate) fn is_fragments(&self) -> bool {
        self.flow.local.port() == 0 && self.flow.remote.port() == 0
    }

    /// Whether any payload has crossed.
    pub(crate) const fn has_payload(&self) -> bool {
        self.counters.tx.payload_bytes > 0 || self.counters.rx.payload_bytes > 0
    }
}

/// The key of a flow.
pub(super) fn key_of(flow: Flow) -> FlowKey {
    FlowKey {
        local: words(flow.local.ip()),
        remote: words(flow.remote.ip()),
        local_port: flow.local.port(),
        remote_port: flow.remote.port(),
    }
}

/// The flow of a key.
pub(super) fn flow_of(key: &FlowKey) -> Flow {
    Flow {
        local: SocketAddr::new(address(key.local), key.local_port),
        remote: SocketAddr::new(address(key.remote), key.remote_port),
    }
}

/// The state of a flow; `None` when its entry is retired, or still being filled.
pub(super) fn state_of(key: &FlowKey, entry: &FlowEntry, counts_retransmissions: bool) -> Option<FlowState> {
    let [rx, tx] = &entry.directions;
    const { assert!(INGRESS == 0 && EGRESS == 1) };
    let is_retired = (rx.flags | tx.flags) & flags::RETIRED != 0;
    let state = final_state(key, entry, counts_retransmissions);
    let is_filled = state.is_fragments() || entry.opened_ns != 0;
    (is_filled && !is_retired).then_some(state)
}

/// As [`state_of`], also of a retired entry.
pub(super) fn final_state(key: &FlowKey, entry: &FlowEntry, counts_retransmissions: bool) -> FlowState {
    let [rx, tx] = &entry.directions;
    let started = [rx, tx].into_iter().filter(|direction| direction.flags & flags::STARTED != 0);
    let last_byte =
        |direction: &Direction| (direction.last_byte_ns != 0).then_some(MonotonicNs(direction.last_byte_ns));
    FlowState {
        flow: flow_of(key),
        opened_ns: MonotonicNs(entry.opened_ns),
        counters: Directions { tx: counters(tx), rx: counters(rx) },
        first: started
            .map(|d| FirstPacket { at_ns: MonotonicNs(d.first_ns), ifindex: d.ifindex })
            .min_by_key(|first| first.at_ns),
        last_ns: MonotonicNs(rx.last_ns.max(tx.last_ns).max(entry.opened_ns)),
        last_byte_ns: Directions { tx: last_byte(tx), rx: last_byte(rx) },
        owner: (entry.owner != 0).then_some(entry.owner),
        initial_sequences: (rx.flags & tx.flags & flags::SYN != 0)
            .then_some(Directions { tx: tx.initial_sequence, rx: rx.initial_sequence }),
        from_start: rx.flags & tx.flags & flags::SYN != 0,
        opening_counted: Directions { tx: tx.flags & flags::SYN != 0, rx: rx.flags & flags::SYN != 0 },
        closed: (rx.flags | tx.flags) & flags::RST != 0 || rx.flags & tx.flags & flags::FIN != 0,
        elsewhere_skbs: rx.elsewhere_skbs + tx.elsewhere_skbs,
        retransmitted: counts_retransmissions.then_some(entry.retransmitted),
    }
}

const fn counters(direction: &Direction) -> Counters {
    Counters {
        wire_bytes: direction.wire_bytes,
        payload_bytes: direction.payload_bytes,
        segments: direction.segments,
        skbs: direction.skbs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow { local: "10.0.0.1:40000".parse().unwrap(), remote: "[fd00::2]:49152".parse().unwrap() }
    }

    fn direction(first_ns: u64, ifindex: u32, flags: u32) -> Direction {
        Direction {
            wire_bytes: 66,
            segments: 1,
            skbs: 1,
            first_ns,
            last_ns: first_ns,
            ifindex,
            flags: flags | flags::STARTED,
            ..Direction::default()
        }
    }

    #[test]
    fn a_flow_is_closed_after_a_fin_from_both_ends_or_a_reset_from_one() {
        let key = key_of(flow());
        assert_eq!(flow_of(&key), flow());
        let fin = flags::SYN | flags::FIN;
        let state = |rx, tx| {
            let directions = [direction(5, 3, rx), direction(7, 4, tx)];
            let entry = FlowEntry { directions, opened_ns: 9, owner: 42, ..FlowEntry::default() };
            state_of(&key, &entry, false).expect("an entry that is filled and not retired")
        };
        let open = state(fin, flags::SYN);
        assert_eq!(open.flow, flow());
        assert_eq!(open.first, Some(FirstPacket { at_ns: MonotonicNs(5), ifindex: 3 }));
        assert_eq!((open.last_ns, open.owner, open.retransmitted), (MonotonicNs(9), Some(42), None));
        assert!(open.from_start && !open.closed);
        assert!(state(fin, fin).closed && state(flags::RST, 0).closed && !state(0, 0).from_start);
    }

    #[test]
    fn a_retired_entry_is_no_longer_a_flow_but_has_final_counters() {
        let key = key_of(flow());
        let directions = [direction(5, 3, flags::RETIRED), direction(7, 3, flags::RETIRED)];
        let retransmitted = Retransmitted { segments: 2, payload_bytes: 2896, ..Retransmitted::default() };
        let entry = FlowEntry { directions, opened_ns: 9, retransmitted, ..FlowEntry::default() };
        assert_eq!(state_of(&key, &entry, true), None);
        assert_eq!(final_state(&key, &entry, true).retransmitted, Some(retransmitted));
    }

    #[test]
    fn an_entry_that_is_still_being_filled_is_no_flow_yet() {
        let directions = [direction(5, 3, flags::SYN), Direction::default()];
        let entry = FlowEntry { directions, ..FlowEntry::default() };
        assert_eq!(state_of(&key_of(flow()), &entry, true), None);
        let bucket = key_of(flow()).fragments();
        assert!(state_of(&bucket, &entry, true).is_some(), "a new bucket of fragments has no stamp");
    }
}
