//! At which interfaces packets are counted, so that each is counted once.
//!
//! A packet passes the TC hook of every device of a stack: of a bridge and of its port, of a VLAN and of the device below
//! it. So packets are counted only at the devices that carry an IP route. Where a counted VLAN sits on a counted device,
//! the lower one leaves tagged packets to the VLAN.

mod error;
mod stack;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use super::table::{Link, list};
pub use error::CountingError;
use stack::{above, below, is_kind, port_of, shared_parent, tag_bytes};

/// The kernel's `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// An interface at which packets are counted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct CountingPoint {
    /// Its name.
    pub(crate) name: String,
    /// Its index.
    pub(crate) index: u32,
    /// Do not count packets with a VLAN tag: they are counted at a VLAN above.
    pub(crate) skip_tagged: bool,
    /// Bytes of VLAN tags that its frames have on the wire, but not at this device.
    pub(crate) tag_bytes: u32,
    /// What kind of device it is; none for a physical one.
    pub(crate) kind: Option<String>,
    /// The devices that its frames pass below it, with their kinds, as far as they are the same for all of them.
    pub(crate) below: Vec<(String, Option<String>)>,
}

/// The interfaces at which to count in the calling thread's network namespace. These are `requested` or, when that is
/// empty, every Ethernet device that is up, has an IP address and is not a port of another device. Link-local IPv6
/// addresses do not count, since each device gives itself one.
///
/// # Errors
/// See [`CountingError`].
pub(crate) fn counting_points(requested: &[String]) -> Result<Vec<CountingPoint>, CountingError> {
    choose(&list()?, requested)
}

/// Why a device is not counted at unless it is requested, in a few words; `None` when it is.
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
            // Advice in a reason is meant for somebody who requested the device.
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
            kind: link.kind.clone(),
            below: below(links, link).map(|device| (device.name.clone(), device.kind.clone())).collect(),
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
        // An interface that is named twice counts once.
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
