//! Questions and answers of rtnetlink: about interfaces, addresses, routes and neighbours.
//!
//! The library's own type for them knows all messages there are, in both directions. That is more code than all else here.

use std::net::IpAddr;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressHeader;
use netlink_packet_route::link::LinkHeader;
use netlink_packet_route::neighbour::NeighbourHeader;
use netlink_packet_route::route::RouteHeader;

use super::attributes::Attributes;

/// What the kernel is asked.
#[derive(Clone, Debug)]
pub(super) struct Question {
    kind: u16,
    content: Vec<u8>,
}

impl Question {
    /// For every interface, in a dump.
    pub(super) fn links() -> Self {
        Self::new(libc::RTM_GETLINK, &LinkHeader::default(), None)
    }

    /// For the interface with this index.
    pub(super) fn link(index: u32) -> Self {
        Self::new(libc::RTM_GETLINK, &LinkHeader { index, ..LinkHeader::default() }, None)
    }

    /// For every IP address of every interface, in a dump.
    pub(super) fn addresses() -> Self {
        Self::new(libc::RTM_GETADDR, &AddressHeader::default(), None)
    }

    /// For the route to an address.
    pub(super) fn route(to: IpAddr) -> Self {
        let header = RouteHeader {
            address_family: family(to),
            destination_prefix_length: if to.is_ipv4() { 32 } else { 128 },
            ..RouteHeader::default()
        };
        Self::new(libc::RTM_GETROUTE, &header, Some((libc::RTA_DST, to)))
    }

    /// For who has an address at an interface.
    pub(super) fn neighbour(address: IpAddr, interface: u32) -> Self {
        let header =
            NeighbourHeader { family: family(address), ifindex: interface, ..NeighbourHeader::default() };
        Self::new(libc::RTM_GETNEIGH, &header, Some((libc::NDA_DST, address)))
    }

    /// For the MACs behind the ports of every bridge, in a dump.
    pub(super) fn bridged() -> Self {
        let header = NeighbourHeader { family: AddressFamily::Bridge, ..NeighbourHeader::default() };
        Self::new(libc::RTM_GETNEIGH, &header, None)
    }

    fn new(kind: u16, header: &impl Emitable, about: Option<(u16, IpAddr)>) -> Self {
        let attributes: Vec<_> = about
            .map(|(attribute, address)| match address {
                IpAddr::V4(address) => DefaultNla::new(attribute, address.octets().to_vec()),
                IpAddr::V6(address) => DefaultNla::new(attribute, address.octets().to_vec()),
            })
            .into_iter()
            .collect();
        let length = header.buffer_len();
        let mut content = vec![0; length + attributes.as_slice().buffer_len()];
        header.emit(&mut content);
        attributes.as_slice().emit(&mut content[length..]);
        Self { kind, content }
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

impl NetlinkSerializable for Question {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.content.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.content);
    }
}

/// A message of the kernel's about one object.
#[derive(Clone, Debug)]
pub(super) struct Message<H> {
    pub(super) header: H,
    pub(super) attributes: Attributes,
}

impl<H: Emitable> Message<H> {
    fn read(parsed: Result<H, DecodeError>, payload: &[u8]) -> Result<Self, DecodeError> {
        let header = parsed?;
        let attributes = Attributes::after(header.buffer_len(), payload);
        Ok(Self { header, attributes })
    }
}

/// What it answers, or reports by itself.
pub(super) enum Answer {
    Link(Message<LinkHeader>),
    LinkGone(Message<LinkHeader>),
    Address(Message<AddressHeader>),
    Route(Message<RouteHeader>),
    Neighbour(Message<NeighbourHeader>),
    /// Nothing that is asked for here.
    Other,
}

impl NetlinkDeserializable for Answer {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(match header.message_type {
            libc::RTM_NEWLINK => Self::Link(Message::read(LinkHeader::parse(payload), payload)?),
            libc::RTM_DELLINK => Self::LinkGone(Message::read(LinkHeader::parse(payload), payload)?),
            libc::RTM_NEWADDR => Self::Address(Message::read(AddressHeader::parse(payload), payload)?),
            libc::RTM_NEWROUTE => Self::Route(Message::read(RouteHeader::parse(payload), payload)?),
            libc::RTM_NEWNEIGH => Self::Neighbour(Message::read(NeighbourHeader::parse(payload), payload)?),
            _ => Self::Other,
        })
    }
}
