//! Announcements as they are seen at a tap, and frames that resemble them.

use std::vec;
use std::vec::Vec;

use crate::abi::announcement::{GRATUITOUS_ARP, NEIGHBOUR_ADVERTISEMENT, NONE, RARP};

const GUEST: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const ADDRESS: [u8; 4] = [192, 0, 2, 7];
const GATEWAY: [u8; 4] = [192, 0, 2, 1];

/// A name, the frame, and one of [`announcement`](crate::abi::announcement).
pub type Named = (&'static str, fn() -> Vec<u8>, u32);

/// Each kind of announcement, and frames that are none.
pub const FRAMES: [Named; 10] = [
    ("RARP request of QEMU", || arp(0x8035, 3, [0; 4], [0; 4]), RARP),
    ("RARP reply", || arp(0x8035, 4, [0; 4], [0; 4]), NONE),
    ("gratuitous ARP request", || arp(0x0806, 1, ADDRESS, ADDRESS), GRATUITOUS_ARP),
    ("gratuitous ARP reply", || arp(0x0806, 2, ADDRESS, ADDRESS), GRATUITOUS_ARP),
    ("ARP request", || arp(0x0806, 1, ADDRESS, GATEWAY), NONE),
    ("ARP probe", || arp(0x0806, 1, [0; 4], ADDRESS), NONE),
    ("unsolicited neighbour advertisement", || icmpv6(136, 0x20), NEIGHBOUR_ADVERTISEMENT),
    ("solicited neighbour advertisement", || icmpv6(136, 0x60), NONE),
    ("neighbour solicitation", || icmpv6(135, 0), NONE),
    ("IPv4", || ethernet(0x0800, &[0x45; 46]), NONE),
];

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(GUEST);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn arp(ethertype: u16, operation: u16, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(operation.to_be_bytes());
    body.extend(GUEST);
    body.extend(sender);
    body.extend(GUEST);
    body.extend(target);
    ethernet(ethertype, &body)
}

/// An ICMPv6 message of this kind; `flags` is where a neighbour advertisement has its flags.
fn icmpv6(kind: u8, flags: u8) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
    packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([kind, 0, 0, 0, flags, 0, 0, 0]);
    packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    ethernet(0x86dd, &packet)
}

/// The frame with VLAN tags of these EtherTypes among its bytes.
#[must_use]
pub fn tagged(frame: &[u8], ethertypes: &[u16]) -> Vec<u8> {
    let tags = ethertypes.iter().flat_map(|ethertype| [(ethertype >> 8) as u8, *ethertype as u8, 0, 5]);
    frame[..12].iter().copied().chain(tags).chain(frame[12..].iter().copied()).collect()
}
