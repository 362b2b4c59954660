//! The Ethernet header, with the VLAN tags after it.

use super::Frame;

pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(super) const ETHERTYPE_VLAN: u16 = 0x8100;
pub(super) const ETHERTYPE_QINQ: u16 = 0x88a8;

pub(super) const ETHERNET_HEADER: u32 = 14;
pub(super) const VLAN_TAG: u32 = 4;

/// How many in-band VLAN tags are walked: QinQ has two.
const MAX_VLAN_TAGS: u32 = 2;

/// The EtherType after all tags, where its packet begins, and how many tags there are.
#[inline(always)]
pub(super) fn ethernet<F: Frame>(frame: &F, offset: u32) -> Option<(u16, u32, u32)> {
    let mut l3 = offset + ETHERNET_HEADER;
    let mut ethertype = u16::from_be_bytes(frame.read(offset + 12)?);
    let mut tags = 0;
    while tags < MAX_VLAN_TAGS && matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
        ethertype = u16::from_be_bytes(frame.read(l3 + 2)?);
        l3 += VLAN_TAG;
        tags += 1;
    }
    Some((ethertype, l3, tags))
}
