//! How the devices of a namespace sit on each other.

use std::collections::BTreeSet;

use crate::host::links::table::Link;

/// The device of which `link` is a port. The member of a VRF is not a port: it carries its own route.
pub(super) fn port_of<'a>(links: &'a [Link], link: &Link) -> Option<&'a Link> {
    let master = by_index(links, link.master?)?;
    (!is_kind(master, &["vrf"])).then_some(master)
}

/// The device below a macvlan or ipvlan, which shares it with others. It sees each packet of them, untagged.
pub(super) fn shared_parent<'a>(links: &'a [Link], link: &Link) -> Option<&'a Link> {
    is_kind(link, &["macvlan", "macvtap", "ipvlan", "ipvtap"]).then(|| by_index(links, link.lower?))?
}

/// Bytes of a VLAN tag.
const VLAN_TAG: u32 = 4;

/// The bytes of the tags that a device's frames get below it. A frame leaves a bridge through a port that leads to the
/// network rather than to a guest. Where there are several such ports, frames are taken for untagged.
pub(super) fn tag_bytes(links: &[Link], link: &Link) -> u32 {
    let path = std::iter::once(link).chain(below(links, link));
    path.filter(|device| is_kind(device, &["vlan"])).map(|_| VLAN_TAG).sum()
}

/// The devices that a device's frames pass below it, as far as they are the same for all of them.
pub(super) fn below<'a>(links: &'a [Link], link: &'a Link) -> impl Iterator<Item = &'a Link> {
    let next = |at: &&'a Link| {
        if is_kind(at, &["vlan"]) {
            return at.lower.and_then(|lower| by_index(links, lower));
        }
        shared_parent(links, at).or_else(|| {
            let is_of_guest = |port: &&Link| is_kind(port, &["tun", "veth"]);
            let mut ports = links.iter().filter(|port| port.master == Some(at.index) && !is_of_guest(port));
            ports.next().filter(|_| ports.next().is_none())
        })
    };
    // No path down is longer than this.
    std::iter::successors(Some(link), next).skip(1).take(links.len())
}

fn by_index(links: &[Link], index: u32) -> Option<&Link> {
    links.iter().find(|link| link.index == index)
}

pub(super) fn is_kind(link: &Link, kinds: &[&str]) -> bool {
    link.kind.as_deref().is_some_and(|kind| kinds.contains(&kind))
}

/// The other devices that a packet of a device passes, on its way up or down.
#[derive(Default)]
pub(super) struct Above {
    /// Those that see the packets without a tag at the lower device.
    pub(super) untagged: BTreeSet<u32>,
    /// Those above a VLAN: their packets have its tag at the lower device.
    pub(super) tagged: BTreeSet<u32>,
}

pub(super) fn above(links: &[Link], link: &Link) -> Above {
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
