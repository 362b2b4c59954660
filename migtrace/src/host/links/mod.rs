//! The network interfaces of this namespace, as the kernel lists them.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::Connection;

mod counting;
mod watcher;

pub use counting::CountingError;
pub(crate) use counting::{CountingPoint, counting_points};
pub(crate) use watcher::{LinkEvent, LinkWatcher};

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
    /// Whether it is set up (it may still be without a carrier).
    pub(crate) up: bool,
    /// Index of the device that it is a port of: a bridge, a bond, an Open vSwitch datapath, a VRF.
    pub(crate) master: Option<u32>,
    /// Index of the device below it (of a VLAN, a macvlan, ...) or, for a veth, of its other end. `None` too when that
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

/// Index of the interface through which packets to `remote` leave. That of an own address is the loopback device.
///
/// # Errors
/// There is no route, or it leads nowhere (blackhole, prohibit); or the netlink socket's.
pub(crate) fn route_interface(remote: IpAddr) -> io::Result<u32> {
    let remote = remote.to_canonical();
    let mut question = RouteMessage::default();
    (question.header.address_family, question.header.destination_prefix_length) = match remote {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    question.attributes.push(RouteAttribute::Destination(remote.into()));
    let no_route = |error: io::Error| context(&format!("no route to {remote}"), &error);
    let answer =
        Connection::open(NETLINK_ROUTE)?.ask(RouteNetlinkMessage::GetRoute(question)).map_err(no_route)?;
    let RouteNetlinkMessage::NewRoute(route) = answer else {
        return Err(no_route(io::Error::new(io::ErrorKind::InvalidData, "unexpected answer")));
    };
    if !matches!(route.header.kind, RouteType::Unicast | RouteType::Local) {
        let kind = format!("the route is of type {:?}", route.header.kind);
        return Err(no_route(io::Error::new(io::ErrorKind::NetworkUnreachable, kind)));
    }
    route
        .attributes
        .iter()
        .find_map(|attribute| if let RouteAttribute::Oif(index) = attribute { Some(*index) } else { None })
        .ok_or_else(|| {
            no_route(io::Error::new(io::ErrorKind::NetworkUnreachable, "the route has no interface"))
        })
}

fn dump_links(kernel: &mut Connection) -> io::Result<Vec<LinkMessage>> {
    let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers =
        kernel.dump(&question).map_err(|error| context("cannot list network interfaces", &error))?;
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(message),
        _ => None,
    });
    Ok(links.collect())
}

fn context(what: &str, error: &io::Error) -> io::Error {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{in_new_netns, ip, this_netns};

    pub(super) fn named(links: &[Link], name: &str) -> Link {
        links.iter().find(|link| link.name == name).unwrap_or_else(|| panic!("{name} in {links:?}")).clone()
    }

    #[test]
    fn a_new_namespace_has_its_loopback_alone() {
        in_new_netns(|| {
            let links = list().unwrap();
            assert_eq!(links.len(), 1, "{links:?}");
            assert!(links[0].loopback && links[0].up);
            assert_eq!((links[0].name.as_str(), links[0].index, links[0].mtu), ("lo", 1, 65536));
            assert!(links[0].addresses.contains(&"127.0.0.1".parse().unwrap()));
            assert_eq!((name_of(1).as_deref(), name_of(2)), (Some("lo"), None));
        });
    }

    #[test]
    fn every_property_of_a_stack_of_devices() {
        in_new_netns(|| {
            ip("link add br0 type bridge");
            ip("link add eth0 mtu 9000 type veth peer name far0");
            ip("link set eth0 master br0");
            ip("address add 192.0.2.1/24 dev br0");
            ip("link add link br0 name mv0 type macvlan mode bridge");
            ip("address add 2001:db8::1/64 dev mv0 nodad");
            ip("link set br0 up");
            ip("tuntap add tun0 mode tun");
            ip("tuntap add vnet0 mode tap");
            ip("address add 198.51.100.1 peer 198.51.100.2 dev tun0");
            let links = list().unwrap();
            let (bridge, port) = (named(&links, "br0"), named(&links, "eth0"));
            assert_eq!(bridge.kind.as_deref(), Some("bridge"));
            assert!(bridge.up && !port.up && !bridge.loopback);
            assert!(bridge.addresses.contains(&"192.0.2.1".parse().unwrap()), "{bridge:?}");
            assert_eq!(
                (port.kind.as_deref(), port.master, port.mtu),
                (Some("veth"), Some(bridge.index), 9000)
            );
            let child = named(&links, "mv0");
            assert_eq!((child.kind.as_deref(), child.lower), (Some("macvlan"), Some(bridge.index)));
            assert_eq!(child.addresses, ["2001:db8::1".parse::<IpAddr>().unwrap()]);
            assert_eq!(
                (named(&links, "tun0").hardware_type, named(&links, "vnet0").hardware_type),
                (65534, 1)
            );
            assert_eq!(named(&links, "tun0").addresses, ["198.51.100.1".parse::<IpAddr>().unwrap()]);
            assert_eq!(named(&links, "vnet0").kind.as_deref(), Some("tun"));
        });
    }

    #[test]
    fn a_vlan_with_its_id_and_what_carries_it() {
        // Made up, as not every kernel has VLANs.
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName("eth0.100".into()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Link(2),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(netlink_packet_route::link::InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(100)])),
            ]),
        ];
        let expected = Link {
            name: "eth0.100".into(),
            index: 7,
            kind: Some("vlan".into()),
            hardware_type: 1,
            loopback: false,
            up: true,
            master: None,
            lower: Some(2),
            mtu: 1500,
            vlan_id: Some(100),
            addresses: Vec::new(),
        };
        assert_eq!(Link::from(message), expected);
    }

    #[test]
    fn a_device_below_in_another_namespace_is_not_mistaken_for_one_of_ours() {
        in_new_netns(|| {
            let elsewhere = this_netns();
            in_new_netns(|| {
                ip("link add eth0 type veth peer name far0");
                let links = list().unwrap();
                assert_eq!(named(&links, "eth0").lower, Some(named(&links, "far0").index));
                ip(&format!("link set far0 netns {elsewhere}"));
                assert_eq!(named(&list().unwrap(), "eth0").lower, None);
            });
        });
    }

    #[test]
    fn the_route_decides_the_interface() {
        in_new_netns(|| {
            for (link, v4, v6) in [
                ("eth0", "192.0.2.1/24", "2001:db8:1::1/64"),
                ("eth1", "198.51.100.1/24", "2001:db8:2::1/64"),
            ] {
                ip(&format!("link add {link} type veth peer name p-{link}"));
                ip(&format!("link set p-{link} up"));
                ip(&format!("address add {v4} dev {link}"));
                ip(&format!("address add {v6} dev {link} nodad"));
                ip(&format!("link set {link} up"));
            }
            ip("route add blackhole 203.0.113.0/24");
            let links = list().unwrap();
            let route = |remote: &str| route_interface(remote.parse().unwrap());
            for (remote, link) in [
                ("192.0.2.77", "eth0"),
                ("198.51.100.77", "eth1"),
                ("::ffff:198.51.100.77", "eth1"),
                ("2001:db8:1::77", "eth0"),
                ("2001:db8:2::77", "eth1"),
                ("192.0.2.1", "lo"),
            ] {
                assert_eq!(route(remote).unwrap(), named(&links, link).index, "{remote}");
            }
            for remote in ["10.0.0.1", "203.0.113.9", "2001:db8:3::1"] {
                let message = route(remote).unwrap_err().to_string();
                assert!(message.starts_with(&format!("no route to {remote}: ")), "{message}");
            }
        });
    }
}
