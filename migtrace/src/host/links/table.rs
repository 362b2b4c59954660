//! The kernel's table of interfaces.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::host::netlink::Connection;

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
        let link = Link::from(message);
        links.insert(link.index, link);
    }
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    for answer in kernel.dump(&question).map_err(|error| context("cannot list IP addresses", &error))? {
        let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
        if let (Some(link), Some(address)) = (links.get_mut(&message.header.index), own_address(&message)) {
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
pub(super) fn dump_links(kernel: &mut Connection) -> io::Result<Vec<LinkMessage>> {
    let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers =
        kernel.dump(&question).map_err(|error| context("cannot list network interfaces", &error))?;
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(message),
        _ => None,
    });
    Ok(links.collect())
}

/// An error with what was tried before it.
pub(super) fn context(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// The interface's own address: on a point-to-point link `IFA_ADDRESS` is the other end's.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(other) => address = Some(*other),
            _ => {}
        }
    }
    address
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            name: String::new(),
            index: message.header.index,
            kind: None,
            hardware_type: message.header.link_layer_type.into(),
            loopback: message.header.link_layer_type == LinkLayerType::Loopback,
            up: message.header.flags.contains(LinkFlags::Up),
            master: None,
            lower: None,
            mtu: 0,
            vlan_id: None,
            addresses: Vec::new(),
        };
        let mut lower_is_elsewhere = false;
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::Link(index) if index != 0 && index != link.index => link.lower = Some(index),
                LinkAttribute::LinkNetNsId(_) => lower_is_elsewhere = true,
                LinkAttribute::LinkInfo(info) => {
                    for info in info {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                            LinkInfo::Data(InfoData::Vlan(data)) => link.vlan_id = vlan_id(&data),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if lower_is_elsewhere {
            link.lower = None;
        }
        link
    }
}

fn vlan_id(data: &[InfoVlan]) -> Option<u16> {
    data.iter().find_map(|data| if let InfoVlan::Id(id) = data { Some(*id) } else { None })
}
