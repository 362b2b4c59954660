//! At which interfaces packets are counted, so that each is counted once.
//!
//! A packet passes the TC hook of every device of a stack: of a bridge and of its port, of a VLAN and of what carries
//! it. So only the devices that carry an IP route are counted at. Where a counted VLAN sits on a counted device, the
//! lower one leaves tagged packets to the VLAN.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use super::{Link, list};

/// The kernel's `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// An interface at which packets are counted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct CountingPoint {
    /// Its name.
    pub(crate) name: String,
    /// Its index.
    pub(crate) index: u32,
    /// Leave packets with a VLAN tag alone: they are counted at a VLAN above.
    pub(crate) skip_tagged: bool,
    /// Bytes of VLAN tags that its frames have on the wire, and not here.
    pub(crate) tag_bytes: u32,
}

/// Why packets cannot be counted as was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CountingError {
    /// There is no such interface.
    #[error("no interface `{name}`; this network namespace has: {}", present.join(", "))]
    NoSuchInterface {
        /// What was asked for.
        name: String,
        /// What is there.
        present: Vec<String>,
    },
    /// The interface cannot be counted at.
    #[error("cannot count at `{name}`: {why}")]
    Unfit {
        /// The interface.
        name: String,
        /// The reason, and what to do.
        why: &'static str,
    },
    /// Packets of one interface pass the other one too.
    #[error(
        "cannot count at both `{upper}` and `{lower}`: `{lower}` is below `{upper}`, so each packet would be \
             counted twice; leave one of them out"
    )]
    Twice {
        /// The upper device: the bridge, the bond, the macvlan.
        upper: String,
        /// The lower one: the port, the parent.
        lower: String,
    },
    /// Nothing was asked for, and no interface suits.
    #[error("no interface to count at: {}; name one with --interface", if reasons.is_empty() {
        "this network namespace has none".to_owned()
    } else {
        reasons.join("; ")
    })]
    None {
        /// Each interface, and why it does not suit.
        reasons: Vec<String>,
    },
    /// The interfaces cannot be listed.
    #[error(transparent)]
    List(#[from] io::Error),
}

/// The interfaces at which to count in the calling thread's network namespace: `requested`, or, when that is empty,
/// every Ethernet device that is up, has an IP address (of more than link-local IPv6, which each device gives itself)
/// and is no port of another one.
///
/// # Errors
/// See [`CountingError`].
pub(crate) fn counting_points(requested: &[String]) -> Result<Vec<CountingPoint>, CountingError> {
    choose(&list()?, requested)
}

/// Why a device is not counted at unless it is asked for, in a few words; `None` when it is.
///
/// `links` are all the devices of the namespace, `link` among them.
#[must_use]
fn why_not_counted(links: &[Link], link: &Link) -> Option<&'static str> {
    if let Some(why) = unfit(link) {
        return Some(why);
    }
    if !link.up {
        return Some("it is down");
    }
    if port_of(links, link).is_some() {
        return Some("it is a port of another device, which sees the same packets");
    }
    if is_kind(link, &["vrf"]) {
        return Some("it is a VRF, whose packets are counted at its members");
    }
    let reachable = |address: &IpAddr| match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    };
    if !link.addresses.iter().any(reachable) {
        return Some("it has no IP address of its own");
    }
    let shares_parent = |lower: &Link| why_not_counted(links, lower).is_none();
    if shared_parent(links, link).is_some_and(shares_parent) {
        return Some("its packets are counted at the device below it");
    }
    None
}

fn choose(links: &[Link], requested: &[String]) -> Result<Vec<CountingPoint>, CountingError> {
    let chosen: Vec<&Link> = if requested.is_empty() {
        links.iter().filter(|link| why_not_counted(links, link).is_none()).collect()
    } else {
        find_requested(links, requested)?
    };
    if chosen.is_empty() {
        let reason = |link: &Link| {
            let why = why_not_counted(links, link)?;
            // A reason may come with advice, which belongs to a device that somebody asked for.
            Some(format!("{}: {}", link.name, why.split(';').next().unwrap_or(why)))
        };
        return Err(CountingError::None { reasons: links.iter().filter_map(reason).collect() });
    }
    let mut points = Vec::new();
    for link in &chosen {
        let above = above(links, link);
        let twice = |upper: &&&Link| above.untagged.contains(&upper.index);
        if let Some(upper) = chosen.iter().find(twice) {
            return Err(CountingError::Twice { upper: upper.name.clone(), lower: link.name.clone() });
        }
        points.push(CountingPoint {
            name: link.name.clone(),
            index: link.index,
            skip_tagged: chosen.iter().any(|upper| above.tagged.contains(&upper.index)),
            tag_bytes: tag_bytes(links, link),
        });
    }
    Ok(points)
}

fn find_requested<'a>(links: &'a [Link], requested: &[String]) -> Result<Vec<&'a Link>, CountingError> {
    let mut chosen: Vec<&Link> = Vec::new();
    for name in requested {
        let link =
            links.iter().find(|link| link.name == *name).ok_or_else(|| CountingError::NoSuchInterface {
                name: name.clone(),
                present: links.iter().map(|link| link.name.clone()).collect(),
            })?;
        if let Some(why) = unfit(link) {
            return Err(CountingError::Unfit { name: name.clone(), why });
        }
        // Named twice is meant once.
        if !chosen.iter().any(|other| other.index == link.index) {
            chosen.push(link);
        }
    }
    Ok(chosen)
}

/// Why a device can never be counted at.
fn unfit(link: &Link) -> Option<&'static str> {
    if link.loopback {
        return Some(
            "it is the loopback device, where each packet is both sent and received, so both ends would be counted \
             as one; use network namespaces for two QEMUs of one host",
        );
    }
    if link.hardware_type != ETHERNET {
        return Some(
            "its packets have no Ethernet header (a tun, WireGuard, IP tunnel or InfiniBand device); count at the \
             Ethernet device that carries it",
        );
    }
    None
}

/// The device of which `link` is a port. The member of a VRF is none: it carries its own route.
fn port_of<'a>(links: &'a [Link], link: &Link) -> Option<&'a Link> {
    let master = by_index(links, link.master?)?;
    (!is_kind(master, &["vrf"])).then_some(master)
}

/// The device that a macvlan or ipvlan shares with others: it sees every packet of theirs, untagged.
fn shared_parent<'a>(links: &'a [Link], link: &Link) -> Option<&'a Link> {
    is_kind(link, &["macvlan", "macvtap", "ipvlan", "ipvtap"]).then(|| by_index(links, link.lower?))?
}

/// Bytes of a VLAN tag.
const VLAN_TAG: u32 = 4;

/// The bytes of the tags that a device's frames get below it. What leaves through a bridge leaves through a port of it that
/// leads to the network, and not to a guest; where such ports differ, the frames are taken for untagged.
fn tag_bytes(links: &[Link], link: &Link) -> u32 {
    let mut bytes = 0;
    let mut at = link;
    // No way down is longer.
    for _ in links {
        let below = if is_kind(at, &["vlan"]) {
            bytes += VLAN_TAG;
            at.lower.and_then(|lower| by_index(links, lower))
        } else if let Some(parent) = shared_parent(links, at) {
            Some(parent)
        } else {
            let is_of_guest = |port: &&Link| is_kind(port, &["tun", "veth"]);
            let mut ports = links.iter().filter(|port| port.master == Some(at.index) && !is_of_guest(port));
            ports.next().filter(|_| ports.next().is_none())
        };
        let Some(below) = below else { break };
        at = below;
    }
    bytes
}

fn by_index(links: &[Link], index: u32) -> Option<&Link> {
    links.iter().find(|link| link.index == index)
}

fn is_kind(link: &Link, kinds: &[&str]) -> bool {
    link.kind.as_deref().is_some_and(|kind| kinds.contains(&kind))
}

/// The devices that a packet of a device passes as well, on its way up or down.
#[derive(Default)]
struct Above {
    /// Those that see the packets which have no tag at the lower device.
    untagged: BTreeSet<u32>,
    /// Those behind a VLAN: their packets have its tag at the lower device.
    tagged: BTreeSet<u32>,
}

fn above(links: &[Link], link: &Link) -> Above {
    let mut above = Above::default();
    let mut stack = vec![(link.index, false)];
    while let Some((index, tagged)) = stack.pop() {
        for upper in links {
            let vlan = is_kind(upper, &["vlan"]) && upper.lower == Some(index);
            let same_packets = shared_parent(links, upper).is_some_and(|parent| parent.index == index)
                || by_index(links, index)
                    .and_then(|lower| port_of(links, lower))
                    .is_some_and(|master| master.index == upper.index);
            if !(vlan || same_packets) {
                continue;
            }
            let tagged = tagged || vlan;
            let set = if tagged { &mut above.tagged } else { &mut above.untagged };
            if set.insert(upper.index) {
                stack.push((upper.index, tagged));
            }
        }
    }
    above
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{in_new_netns, ip};

    fn chosen(requested: &[&str]) -> Result<Vec<(String, bool)>, String> {
        let requested: Vec<String> = requested.iter().copied().map(ToOwned::to_owned).collect();
        let points = counting_points(&requested).map_err(|error| error.to_string())?;
        Ok(points.into_iter().map(|point| (point.name, point.skip_tagged)).collect())
    }

    fn point(name: &str, skip_tagged: bool) -> (String, bool) {
        (name.to_owned(), skip_tagged)
    }

    fn ethernet(name: &str) {
        ip(&format!("link add {name} type veth peer name p-{name}"));
        up(name);
    }

    fn up(name: &str) {
        ip(&format!("link set {name} up"));
    }

    fn address(name: &str, address: &str) {
        ip(&format!("address add {address} dev {name}"));
        up(name);
    }

    /// `upper` of the given kind with the ports.
    fn master(upper: &str, kind: &str, ports: &[&str]) {
        ip(&format!("link add {upper} type {kind}"));
        for port in ports {
            ip(&format!("link set {port} down"));
            ip(&format!("link set {port} master {upper}"));
            up(port);
        }
        up(upper);
    }

    #[test]
    fn a_frame_of_a_vlan_has_its_tags_on_the_wire() {
        let link = |index, kind: Option<&str>, lower, master| Link {
            name: format!("device{index}"),
            index,
            kind: kind.map(Into::into),
            hardware_type: ETHERNET,
            loopback: false,
            up: true,
            master,
            lower,
            mtu: 1500,
            vlan_id: None,
            addresses: Vec::new(),
        };
        let links = [
            link(1, None, None, None),
            link(2, Some("vlan"), Some(1), None),
            // QinQ; its bridge, with a guest; a macvlan of that.
            link(3, Some("vlan"), Some(2), Some(4)),
            link(4, Some("bridge"), None, None),
            link(5, Some("tun"), None, Some(4)),
            link(6, Some("macvlan"), Some(4), None),
            // Its parent is in another network namespace.
            link(7, Some("vlan"), None, None),
        ];
        let bytes: Vec<u32> = links.iter().map(|link| tag_bytes(&links, link)).collect();
        assert_eq!(bytes, [0, 4, 8, 8, 0, 8, 4]);
    }

    #[test]
    fn a_bridge_is_counted_and_its_ports_are_not() {
        in_new_netns(|| {
            ethernet("eth0");
            ip("tuntap add vnet0 mode tap");
            up("vnet0");
            master("br0", "bridge", &["eth0", "vnet0"]);
            address("br0", "192.0.2.1/24");
            assert_eq!(chosen(&[]).unwrap(), [point("br0", false)]);
            assert_eq!(chosen(&["eth0"]).unwrap(), [point("eth0", false)], "a port alone may be asked for");
            assert_eq!(
                chosen(&["br0", "eth0"]).unwrap_err(),
                "cannot count at both `br0` and `eth0`: `eth0` is below `br0`, so each packet would be counted twice; \
                 leave one of them out"
            );
        });
    }

    #[test]
    fn only_a_device_that_is_up_and_has_an_address_is_counted() {
        in_new_netns(|| {
            ethernet("eth0");
            assert_eq!(
                chosen(&[]).unwrap_err(),
                "no interface to count at: lo: it is the loopback device, where each packet is both sent and received, \
                 so both ends would be counted as one; p-eth0: it is down; eth0: it has no IP address of its own; \
                 name one with --interface"
            );
            address("eth0", "192.0.2.1/24");
            assert_eq!(chosen(&[]).unwrap(), [point("eth0", false)]);
            ip("link set eth0 down");
            assert!(chosen(&[]).is_err());
        });
    }

    #[test]
    fn the_link_local_address_that_every_device_gives_itself_is_no_reason_to_count() {
        in_new_netns(|| {
            ip("tuntap add vnet0 mode tap");
            ip("address add fe80::1/64 dev vnet0 nodad");
            up("vnet0");
            ethernet("eth0");
            ip("address add 2001:db8::1/64 dev eth0 nodad");
            assert_eq!(chosen(&[]).unwrap(), [point("eth0", false)]);
        });
    }

    #[test]
    fn a_macvlan_is_counted_at_its_parent() {
        in_new_netns(|| {
            ethernet("eth0");
            ip("link add link eth0 name mv0 type macvlan mode bridge");
            address("mv0", "192.0.2.1/24");
            assert_eq!(chosen(&[]).unwrap(), [point("mv0", false)]);
            address("eth0", "192.0.2.2/24");
            assert_eq!(chosen(&[]).unwrap(), [point("eth0", false)]);
            assert!(chosen(&["eth0", "mv0"]).unwrap_err().contains("counted twice"));
        });
    }

    #[test]
    fn what_cannot_be_counted_at_is_refused_with_the_reason() {
        in_new_netns(|| {
            ethernet("eth0");
            ip("tuntap add tun0 mode tun");
            address("tun0", "192.0.2.1/24");
            assert_eq!(
                chosen(&["eth9"]).unwrap_err(),
                "no interface `eth9`; this network namespace has: lo, p-eth0, eth0, tun0"
            );
            assert!(chosen(&["lo"]).unwrap_err().contains("both ends would be counted"));
            assert!(chosen(&["tun0"]).unwrap_err().contains("no Ethernet header"));
            assert!(chosen(&[]).is_err(), "a tun device is not chosen by its address");
            assert_eq!(
                chosen(&["eth0", "eth0"]).unwrap(),
                [point("eth0", false)],
                "named twice is meant once"
            );
        });
    }

    /// A namespace of made-up devices, for the kinds that not every kernel has.
    #[derive(Default)]
    struct Stack(Vec<Link>);

    impl Stack {
        fn device(mut self, name: &str, kind: Option<&str>) -> Self {
            let index = u32::try_from(self.0.len()).unwrap() + 1;
            self.0.push(Link {
                name: name.into(),
                index,
                kind: kind.map(Into::into),
                hardware_type: ETHERNET,
                loopback: false,
                up: true,
                master: None,
                lower: None,
                mtu: 1500,
                vlan_id: None,
                addresses: Vec::new(),
            });
            self
        }

        fn of(&mut self, name: &str) -> &mut Link {
            self.0.iter_mut().find(|link| link.name == name).unwrap()
        }

        fn vlan(self, name: &str, lower: &str) -> Self {
            let mut stack = self.device(name, Some("vlan"));
            let lower = stack.of(lower).index;
            stack.of(name).lower = Some(lower);
            stack
        }

        fn master(self, name: &str, kind: &str, ports: &[&str]) -> Self {
            let mut stack = self.device(name, Some(kind));
            let master = stack.of(name).index;
            for port in ports {
                stack.of(port).master = Some(master);
            }
            stack
        }

        fn address(mut self, name: &str) -> Self {
            self.of(name).addresses.push("192.0.2.1".parse().unwrap());
            self
        }

        fn chosen(&self, requested: &[&str]) -> Result<Vec<(String, bool)>, String> {
            let requested: Vec<String> = requested.iter().copied().map(ToOwned::to_owned).collect();
            let points = choose(&self.0, &requested).map_err(|error| error.to_string())?;
            Ok(points.into_iter().map(|point| (point.name, point.skip_tagged)).collect())
        }
    }

    #[test]
    fn a_vlan_and_what_carries_it_share_the_packets() {
        let stack = Stack::default().device("eth0", None).vlan("eth0.100", "eth0").address("eth0.100");
        assert_eq!(stack.chosen(&[]).unwrap(), [point("eth0.100", false)]);
        let stack = stack.address("eth0");
        assert_eq!(stack.chosen(&[]).unwrap(), [point("eth0", true), point("eth0.100", false)]);
        assert_eq!(stack.chosen(&["eth0"]).unwrap(), [point("eth0", false)], "the VLAN is not counted then");
    }

    #[test]
    fn a_vlan_of_a_vlan_is_tagged_at_both_below() {
        let stack = Stack::default()
            .device("eth0", None)
            .vlan("eth0.10", "eth0")
            .vlan("eth0.10.20", "eth0.10")
            .address("eth0")
            .address("eth0.10.20");
        assert_eq!(stack.chosen(&[]).unwrap(), [point("eth0", true), point("eth0.10.20", false)]);
    }

    #[test]
    fn a_bridge_over_a_vlan_leaves_the_untagged_packets_to_the_device_below() {
        let stack = Stack::default()
            .device("eth0", None)
            .vlan("eth0.100", "eth0")
            .master("br100", "bridge", &["eth0.100"])
            .address("br100")
            .address("eth0");
        assert_eq!(stack.chosen(&[]).unwrap(), [point("eth0", true), point("br100", false)]);
    }

    #[test]
    fn a_vlan_of_a_bond_is_counted_besides_the_bond_and_its_ports_are_not() {
        let stack = Stack::default()
            .device("eno1", None)
            .device("eno2", None)
            .master("bond0", "bond", &["eno1", "eno2"])
            .vlan("bond0.100", "bond0")
            .address("bond0")
            .address("bond0.100")
            .address("eno1");
        assert_eq!(stack.chosen(&[]).unwrap(), [point("bond0", true), point("bond0.100", false)]);
        assert_eq!(
            stack.chosen(&["eno1", "eno2"]).unwrap(),
            [point("eno1", false), point("eno2", false)],
            "the ports of a bond share the packets between them"
        );
        assert!(stack.chosen(&["eno1", "bond0"]).unwrap_err().contains("counted twice"));
        assert_eq!(
            stack.chosen(&["eno1", "bond0.100"]).unwrap(),
            [point("eno1", true), point("bond0.100", false)],
            "the VLAN's packets have its tag at the port"
        );
    }

    #[test]
    fn a_port_of_a_port_is_still_below() {
        let stack = Stack::default()
            .device("eno1", None)
            .master("bond0", "bond", &["eno1"])
            .master("br0", "bridge", &["bond0"])
            .address("br0");
        assert_eq!(stack.chosen(&[]).unwrap(), [point("br0", false)]);
        assert!(stack.chosen(&["br0", "eno1"]).unwrap_err().contains("`eno1` is below `br0`"));
    }

    #[test]
    fn a_member_of_a_vrf_is_counted_and_the_vrf_is_not() {
        let stack = Stack::default()
            .device("eth0", None)
            .master("vrf0", "vrf", &["eth0"])
            .address("eth0")
            .address("vrf0");
        assert_eq!(stack.chosen(&[]).unwrap(), [point("eth0", false)]);
    }

    #[test]
    fn a_ring_of_devices_comes_to_an_end() {
        let mut stack = Stack::default().vlan_ring();
        stack = stack.address("a").address("b");
        assert_eq!(stack.chosen(&[]).unwrap(), [point("a", true), point("b", true)]);
    }

    impl Stack {
        /// Two devices that each claim to sit on the other, as a namespace's indices can make it seem.
        fn vlan_ring(self) -> Self {
            let mut stack = self.device("a", Some("vlan")).device("b", Some("vlan"));
            (stack.of("a").lower, stack.of("b").lower) = (Some(2), Some(1));
            stack
        }
    }
}
