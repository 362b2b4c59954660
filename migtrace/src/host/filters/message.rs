//! Messages of traffic control, as they are on the netlink socket.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable as _, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
};
use netlink_packet_route::tc::{TcHandle, TcHeader};

use super::filter::{Filter, Place, Way};
use crate::host::attributes::{find, text};

/// Attributes of a filter, and of the options of one of kind `bpf` (include/uapi/linux/pkt_cls.h).
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
/// The program's result decides what becomes of the packet.
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
/// Messages with the header of filters: of qdiscs, classes, filters and chains (include/uapi/linux/rtnetlink.h).
const TC_MESSAGES: [std::ops::RangeInclusive<u16>; 2] = [36..=46, 100..=102];
const BYTES_OF_HEADER: usize = 20;
/// A handle consists of two parts, and so does a filter's preference and protocol.
const MAJOR_BITS: u32 = 16;
pub(super) const EVERY_PROTOCOL: u16 = (libc::ETH_P_ALL as u16).to_be();

fn with_nul(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn bytes(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// A message of traffic control. Its attributes are read only when they are needed.
#[derive(Clone, Debug)]
pub(super) struct Message {
    kind: u16,
    pub(super) header: TcHeader,
    attributes: Vec<u8>,
}

impl Message {
    /// Asks for the filters at a place; a preference of 0 means all.
    pub(super) fn question(place: Place, preference: u16) -> Self {
        let header = header(place, 0, preference, 0);
        Self { kind: libc::RTM_GETTFILTER, header, attributes: Vec::new() }
    }

    /// Adds a filter.
    pub(super) fn addition(place: Place, preference: u16, name: &str, program: BorrowedFd<'_>) -> Self {
        let options = bytes(&[
            DefaultNla::new(TCA_BPF_FD, program.as_raw_fd().to_ne_bytes().to_vec()),
            DefaultNla::new(TCA_BPF_NAME, with_nul(name)),
            DefaultNla::new(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes().to_vec()),
        ]);
        let attributes =
            bytes(&[DefaultNla::new(TCA_KIND, with_nul("bpf")), DefaultNla::new(TCA_OPTIONS, options)]);
        let header = header(place, 0, preference, EVERY_PROTOCOL);
        Self { kind: libc::RTM_NEWTFILTER, header, attributes }
    }

    /// Removes a filter.
    pub(super) fn removal(filter: &Filter) -> Self {
        let Filter { place, preference, protocol, handle, .. } = *filter;
        let header = header(place, handle, preference, protocol);
        Self { kind: libc::RTM_DELTFILTER, header, attributes: Vec::new() }
    }

    /// The eBPF filter that it describes, if it describes one.
    pub(super) fn filter(&self, place: Place) -> Option<Filter> {
        let chain = find(&self.attributes, TCA_CHAIN).is_none_or(|chain| chain == [0; 4]);
        let is_bpf = find(&self.attributes, TCA_KIND)? == b"bpf\0";
        if self.kind != libc::RTM_NEWTFILTER || !chain || !is_bpf {
            return None;
        }
        // The first entry of a preference is no filter: it has no options.
        let options = find(&self.attributes, TCA_OPTIONS)?;
        Some(Filter {
            place,
            preference: (self.header.info >> MAJOR_BITS) as u16,
            protocol: self.header.info as u16,
            handle: self.header.handle.into(),
            name: find(options, TCA_BPF_NAME).map(text).unwrap_or_default(),
        })
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        BYTES_OF_HEADER + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(BYTES_OF_HEADER);
        self.header.emit(header);
        attributes.copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(netlink: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let kind = netlink.message_type;
        // News of shared actions come in the same group. They belong to no interface.
        if !TC_MESSAGES.iter().any(|kinds| kinds.contains(&kind)) {
            return Ok(Self { kind, header: TcHeader::default(), attributes: Vec::new() });
        }
        let header = TcHeader::parse(payload)?;
        Ok(Self { kind, header, attributes: payload.get(BYTES_OF_HEADER..).unwrap_or_default().to_vec() })
    }
}

fn header(place: Place, handle: u32, preference: u16, protocol: u16) -> TcHeader {
    TcHeader {
        index: place.interface.cast_signed(),
        handle: TcHandle::from(handle),
        parent: parent(place.way),
        info: u32::from(preference) << MAJOR_BITS | u32::from(protocol),
        ..TcHeader::default()
    }
}

/// Where filters are attached: the clsact qdisc's `TC_H_MIN_INGRESS` or `TC_H_MIN_EGRESS`.
fn parent(way: Way) -> TcHandle {
    TcHandle::from(match way {
        Way::Ingress => 0xffff_fff2,
        Way::Egress => 0xffff_fff3,
    })
}
