//! Walks packets and compares what is found with the frames that they become.

use std::cell::Cell;

use migtrace_ebpf::packet::{self, Frame, Metadata, Tcp, Wanted, encapsulation};
use migtrace_ebpf::testing::frames::{BuiltPacket, WireCost};

pub(crate) const BOTH: u32 = encapsulation::VXLAN | encapsulation::GENEVE;

/// Bytes, what the kernel would know about them, and how often a read went beyond them.
pub(crate) struct CountingBuffer<'a> {
    bytes: &'a [u8],
    metadata: Metadata,
    pub(crate) refused: Cell<u32>,
}

impl<'a> CountingBuffer<'a> {
    pub(crate) fn new(bytes: &'a [u8], metadata: Metadata) -> Self {
        Self { bytes, metadata, refused: Cell::new(0) }
    }

    pub(crate) fn parse(&self, encapsulations: u32) -> packet::Packet {
        packet::parse(self, &any_ports(encapsulations))
    }

    pub(crate) fn parse_plain(&self, encapsulations: u32) -> Option<packet::Packet> {
        packet::parse_plain(self, &any_ports(encapsulations))
    }
}

impl Frame for CountingBuffer<'_> {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let read = self.bytes.get(offset as usize..).and_then(|rest| rest.first_chunk());
        self.refused.set(self.refused.get() + u32::from(read.is_none()));
        read.copied()
    }

    fn metadata(&self) -> Metadata {
        self.metadata
    }
}

pub(crate) fn any_ports(encapsulations: u32) -> Wanted<impl Fn(u16, u16) -> bool> {
    Wanted { encapsulations, ports: |_, _| true }
}

pub(crate) fn parse(packet: &BuiltPacket) -> packet::Packet {
    CountingBuffer::new(&packet.bytes(), packet.metadata()).parse(BOTH)
}

pub(crate) fn header_bytes(packet: &BuiltPacket) -> usize {
    packet.bytes().len() - packet.payload.len() - packet.padding
}

/// What is found in a TCP packet with ports.
pub(crate) fn tcp_in(packet: &BuiltPacket) -> Tcp {
    match parse(packet) {
        packet::Packet::Tcp(tcp) => tcp,
        other => panic!("{other:?} in {:?}", packet.headers),
    }
}

/// What is found in a later fragment.
pub(crate) fn fragment_in(packet: &BuiltPacket) -> Tcp {
    match parse(packet) {
        packet::Packet::Fragment(fragment) => fragment,
        other => panic!("{other:?} in {:?}", packet.headers),
    }
}

pub(crate) fn counted(tcp: &Tcp) -> WireCost {
    WireCost {
        wire_bytes: tcp.wire_bytes,
        payload_bytes: u64::from(tcp.payload_bytes),
        segments: u64::from(tcp.segments),
    }
}

/// Asserts that a packet is counted like the frames that it becomes; returns what was found.
#[track_caller]
pub(crate) fn counts_as_it_is_cut(packet: &BuiltPacket) -> Tcp {
    let tcp = tcp_in(packet);
    assert_eq!(counted(&tcp), packet.wire_cost(), "{:?}", packet.headers);
    assert_eq!(tcp.payload_offset as usize, header_bytes(packet));
    tcp
}
