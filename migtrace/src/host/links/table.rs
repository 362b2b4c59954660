//! The kernel's table of interfaces.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::link::{LinkFlags, LinkHeader, LinkLayerType};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::host::attributes::{Attributes, find, text};
use crate::host::netlink::Connection;
use crate::host::route_netlink::{Answer, Message, Question};

/// include/uapi/linux/if_link.h
const IFLA_VLAN_ID: u16 = 1;

/// A network interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Link {
    /// Its name.
    pub(crate) name: String,
    /// Its index in this namespace.
    pub(crate) index: u32,
    /// `bridge`, `bond`, `vlan`, `veth`, `tun`, ...; `None` for a physical device.
    pub(crate) kind: Option<String>,
    /// The kernel's `ARPHRD_*` number: what its packets begin with. 1 is Ethernet.
    pub(crate) hardware_type: u16,
    /// Whether it is the loopback device.
    pub(crate) loopback: bool,
    /// Whether it is set up (it may still have no carrier).
    pub(crate) up: bool,
    /// Index of the device that it is a port of: a bridge, a bond, an Open vSwitch datapath, a VRF.
    pub(crate) master: Option<u32>,
    /// Index of the device below it (of a VLAN, a macvlan, ...) or, for a veth, of its other end. Also `None` when that
    /// device is in another namespace.
    pub(crate) lower: Option<u32>,
    /// MTU in bytes.
    pub(crate) mtu: u32,
    /// VLAN id, when it is a VLAN.
    pub(crate) vlan_id: Option<u16>,
    /// Its IP addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Every interface of the calling thread's network namespace, by index.
///
/// # Errors
/// The netlink socket's, or an answer that cannot be read.
pub(crate) fn list() -> io::Result<Vec<Link>> {
    let mut kernel = Connection::open(NETLINK_ROUTE)?;
    let mut links = BTreeMap::new();
    for message in dump_links(&mut kernel)? {
        let link = Link::from(&message);
        links.insert(link.index, link);
    }
    let answers = kernel.dump(&Question::addresses());
    for answer in answers.map_err(|error| context("cannot list IP addresses", &error))? {
        let Answer::Address(message) = answer else { continue };
        if let (Some(link), Some(address)) =
            (links.get_mut(&message.header.index), own_address(&message.attributes))
        {
            link.addresses.push(address);
        }
    }
    Ok(links.into_values().collect())
}

/// The name that an interface of the calling thread's network namespace has now; `None` when there is none.
pub(crate) fn name_of(index: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(index).ok()?.into_string().ok()?;
    // nix 0.31 takes a failure for an empty name.
    (!name.is_empty()).then_some(name)
}

/// The table, as the kernel gives it.
pub(super) fn dump_links(kernel: &mut Connection) -> io::Result<Vec<Message<LinkHeader>>> {
    let answers =
        kernel.dump(&Question::links()).map_err(|error| context("cannot list network interfaces", &error))?;
    let links = answers.into_iter().filter_map(|answer| match answer {
        Answer::Link(message) => Some(message),
        _ => None,
    });
    Ok(links.collect())
}

/// An error with what was tried before it.
pub(super) fn context(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// The interface's own address: on a point-to-point link `IFA_ADDRESS` is the other end's.
fn own_address(attributes: &Attributes) -> Option<IpAddr> {
    let value = attributes.get(libc::IFA_LOCAL).or_else(|| attributes.get(libc::IFA_ADDRESS))?;
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

impl From<&Message<LinkHeader>> for Link {
    fn from(Message { header, attributes }: &Message<LinkHeader>) -> Self {
        let info = attributes.get(libc::IFLA_LINKINFO).unwrap_or_default();
        let kind = find(info, libc::IFLA_INFO_KIND).map(text);
        let lower_is_elsewhere = attributes.get(libc::IFLA_LINK_NETNSID).is_some();
        let lower = attributes.u32(libc::IFLA_LINK).filter(|index| ![0, header.index].contains(index));
        Self {
            name: attributes.text(libc::IFLA_IFNAME).unwrap_or_default(),
            index: header.index,
            hardware_type: header.link_layer_type.into(),
            loopback: header.link_layer_type == LinkLayerType::Loopback,
            up: header.flags.contains(LinkFlags::Up),
            master: attributes.u32(libc::IFLA_MASTER),
            lower: lower.filter(|_| !lower_is_elsewhere),
            mtu: attributes.u32(libc::IFLA_MTU).unwrap_or_default(),
            vlan_id: (kind.as_deref() == Some("vlan")).then(|| vlan_id(info)).flatten(),
            kind,
            addresses: Vec::new(),
        }
    }
}

/// In what the kernel says about a VLAN.
fn vlan_id(info: &[u8]) -> Option<u16> {
    let id = find(find(info, libc::IFLA_INFO_DATA)?, IFLA_VLAN_ID)?;
    id.try_into().ok().map(u16::from_ne_bytes)
}
