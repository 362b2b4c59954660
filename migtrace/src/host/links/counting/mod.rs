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
mod tests;
