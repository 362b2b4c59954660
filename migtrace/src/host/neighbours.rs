//! Which MAC an address has on this host's own networks, and behind which port of the bridge that MAC is.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::neighbour::{NeighbourHeader, NeighbourState};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::links::{self, Link};
use super::mac::Mac;
use super::netlink::Connection;
use super::route_netlink::{Answer, Message, Question};

/// The neighbours at one interface, in the namespace in which the interface was looked up.
#[derive(Debug)]
pub(crate) struct Neighbours {
    kernel: Connection,
    interface: u32,
    /// The bridge that carries the interface, when there is one.
    bridge: Option<u32>,
}

impl Neighbours {
    /// Looks up the interface of this name.
    ///
    /// # Errors
    /// There is no such interface, or the netlink socket's.
    pub(crate) fn at(interface: &str) -> io::Result<Self> {
        let links = links::list()?;
        let link = links.iter().find(|link| link.name == interface);
        let link = link.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such interface"))?;
        let bridge = bridge_below(&links, link).map(|bridge| bridge.index);
        Ok(Self { kernel: Connection::open(NETLINK_ROUTE)?, interface: link.index, bridge })
    }

    /// The MAC to which packets for `address` go. `None` until it has answered from there, and for an address behind a
    /// router.
    ///
    /// # Errors
    /// The interface has vanished, or the netlink socket's.
    pub(crate) fn mac_of(&mut self, address: IpAddr) -> io::Result<Option<Mac>> {
        let address = address.to_canonical();
        match self.kernel.ask(Question::neighbour(address, self.interface)) {
            Ok(Answer::Neighbour(entry)) => Ok(confirmed(&entry).and_then(|()| mac(&entry))),
            Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected answer about a neighbour")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The port of the interface's bridge through which frames from a MAC have come. `None` when there is no bridge, when no
    /// such frame has come, or when there are several ports (in several VLANs).
    ///
    /// # Errors
    /// The netlink socket's.
    pub(crate) fn port_of(&mut self, wanted: Mac) -> io::Result<Option<String>> {
        let Some(bridge) = self.bridge else { return Ok(None) };
        let entries = self.kernel.dump(&Question::bridged())?;
        let mut ports: Vec<u32> = entries
            .iter()
            .filter_map(|entry| if let Answer::Neighbour(entry) = entry { Some(entry) } else { None })
            .filter(|entry| mac(entry) == Some(wanted))
            .filter(|entry| entry.attributes.u32(libc::NDA_MASTER) == Some(bridge))
            .map(|entry| entry.header.ifindex)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        let &[port] = &ports[..] else { return Ok(None) };
        match self.kernel.ask(Question::link(port))? {
            Answer::Link(link) => Ok(Some(Link::from(&link).name)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected answer about an interface")),
        }
    }
}

/// Whether packets are sent to this neighbour without asking again. A stale entry may be out of date: the kernel asks again
/// with the next packet.
fn confirmed(entry: &Message<NeighbourHeader>) -> Option<()> {
    use NeighbourState as State;
    let state = entry.header.state;
    matches!(state, State::Reachable | State::Delay | State::Probe | State::Permanent | State::Noarp)
        .then_some(())
}

fn mac(entry: &Message<NeighbourHeader>) -> Option<Mac> {
    let bytes = entry.attributes.get(libc::NDA_LLADDR)?;
    // Devices without ARP have a neighbour of zeros.
    bytes.try_into().ok().filter(|mac| *mac != [0; 6]).map(Mac)
}

/// The bridge that an interface is, that is below it (of a VLAN, a macvlan), or that it leads to as one end of a veth.
fn bridge_below<'a>(links: &'a [Link], interface: &'a Link) -> Option<&'a Link> {
    let of_index = |index: u32| links.iter().find(|link| link.index == index);
    let mut link = interface;
    // A stack of devices has no circle, but it may change while it is listed.
    for _ in links {
        match link.kind.as_deref() {
            Some("bridge") => return Some(link),
            Some("veth") => link = of_index(of_index(link.lower?)?.master?)?,
            _ => link = of_index(link.lower?)?,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{in_new_netns, ip};

    const GUEST: Mac = Mac([0x52, 0x54, 0, 0x77, 0, 0x10]);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn bridge(words: &str) {
        let output = std::process::Command::new("bridge").args(words.split_whitespace()).output().unwrap();
        assert!(output.status.success(), "bridge {words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A bridge with an address and two taps.
    fn host() {
        ip("link add br0 type bridge");
        ip("address add 192.0.2.1/24 dev br0");
        ip("address add 2001:db8::1/64 dev br0 nodad");
        for tap in ["vnet0", "vnet1"] {
            ip(&format!("tuntap add {tap} mode tap"));
            ip(&format!("link set {tap} master br0 up"));
        }
        ip("link set br0 up");
    }

    #[test]
    fn the_mac_of_an_address_is_known_once_it_is_confirmed() {
        in_new_netns(|| {
            host();
            let mut neighbours = Neighbours::at("br0").unwrap();
            for (target, other) in [("192.0.2.50", "192.0.2.51"), ("2001:db8::50", "2001:db8::51")] {
                assert_eq!(neighbours.mac_of(address(target)).unwrap(), None, "nobody has asked for it");
                for (state, known) in [
                    ("stale", false),
                    ("reachable", true),
                    ("delay", true),
                    ("permanent", true),
                    ("failed", false),
                ] {
                    ip(&format!("neighbour replace {target} lladdr {GUEST} dev br0 nud {state}"));
                    let mac = neighbours.mac_of(address(target)).unwrap();
                    assert_eq!(mac, known.then_some(GUEST), "{target} {state}");
                }
                assert_eq!(neighbours.mac_of(address(other)).unwrap(), None);
            }
            // One behind a router has no entry of its own.
            ip("route add 198.51.100.0/24 via 192.0.2.50");
            assert_eq!(neighbours.mac_of(address("198.51.100.7")).unwrap(), None);
            ip("link delete br0");
            assert!(neighbours.mac_of(address("192.0.2.50")).is_err(), "its interface has vanished");
            assert_eq!(Neighbours::at("br0").unwrap_err().kind(), io::ErrorKind::NotFound);
        });
    }

    #[test]
    fn the_bridge_knows_behind_which_port_a_mac_is() {
        in_new_netns(|| {
            host();
            // The same MAC in another network of this host.
            ip("link add br1 type bridge");
            ip("tuntap add vnet2 mode tap");
            ip("link set vnet2 master br1 up");
            bridge(&format!("fdb add {GUEST} dev vnet2 master static"));
            ip("link add stand link br0 type macvlan mode bridge");
            ip("link add cable type veth peer name plug");
            ip("link set plug master br0");
            ip("link add alone type veth peer name far");
            let port = |interface| Neighbours::at(interface).unwrap().port_of(GUEST).unwrap();
            assert_eq!(port("br0"), None);
            bridge(&format!("fdb add {GUEST} dev vnet1 master static"));
            for interface in ["br0", "stand", "cable"] {
                assert_eq!(port(interface).as_deref(), Some("vnet1"), "{interface}");
            }
            for interface in ["alone", "vnet0"] {
                assert_eq!(port(interface), None, "{interface} stands on no bridge");
            }
        });
    }
}
