//! From a frame's bytes to the announcement in it, by which the network learns where a guest is.

use super::Frame;
use super::ethernet::{ETHERNET_HEADER, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, ethernet};
use crate::abi::announcement::{GRATUITOUS_ARP, NEIGHBOUR_ADVERTISEMENT, NONE, RARP};

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_RARP: u16 = 0x8035;
const PROTOCOL_ICMPV6: u8 = 58;

// RFC 903, RFC 826 and RFC 4861.
const RARP_REQUEST: [u8; 2] = [0, 3];
const ICMPV6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const SOLICITED: u8 = 0x40;

// Offsets into ARP for Ethernet and IPv4.
const ARP_OPERATION: u32 = 6;
const ARP_SENDER: u32 = 14;
const ARP_TARGET: u32 = 24;

const IPV6_NEXT_HEADER: u32 = 6;
const IPV6_MESSAGE: u32 = 40;

/// What [`parse_plain`] finds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PlainAnnouncement {
    /// One of [`crate::abi::announcement`].
    Known(u32),
    /// The frame has another shape: use [`parse`].
    Unknown,
}

/// Finds the announcement in a frame without a VLAN tag among its bytes.
#[inline(always)]
pub fn parse_plain<F: Frame>(frame: &F) -> PlainAnnouncement {
    let Some(ethertype) = frame.read(12) else { return PlainAnnouncement::Unknown };
    match u16::from_be_bytes(ethertype) {
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => PlainAnnouncement::Unknown,
        ethertype => {
            of(frame, ethertype, ETHERNET_HEADER).map_or(PlainAnnouncement::Unknown, PlainAnnouncement::Known)
        }
    }
}

/// Finds the announcement in a frame; one of [`crate::abi::announcement`].
#[inline(always)]
pub fn parse<F: Frame>(frame: &F) -> u32 {
    ethernet(frame, 0).and_then(|(ethertype, l3, _)| of(frame, ethertype, l3)).unwrap_or(NONE)
}

/// The announcement in the packet at `l3`. `None`: the frame is too short.
#[inline(always)]
fn of<F: Frame>(frame: &F, ethertype: u16, l3: u32) -> Option<u32> {
    match ethertype {
        ETHERTYPE_RARP => {
            let operation: [u8; 2] = frame.read(l3 + ARP_OPERATION)?;
            Some(if operation == RARP_REQUEST { RARP } else { NONE })
        }
        ETHERTYPE_ARP => {
            let sender: [u8; 4] = frame.read(l3 + ARP_SENDER)?;
            let target: [u8; 4] = frame.read(l3 + ARP_TARGET)?;
            // The probe by which a host checks that an address is free (RFC 5227) has no sender address.
            let gratuitous = sender == target && sender != [0; 4];
            Some(if gratuitous { GRATUITOUS_ARP } else { NONE })
        }
        ETHERTYPE_IPV6 => {
            let next: [u8; 1] = frame.read(l3 + IPV6_NEXT_HEADER)?;
            if next[0] != PROTOCOL_ICMPV6 {
                return Some(NONE);
            }
            let message: [u8; 5] = frame.read(l3 + IPV6_MESSAGE)?;
            let unsolicited = message[0] == ICMPV6_NEIGHBOUR_ADVERTISEMENT && message[4] & SOLICITED == 0;
            Some(if unsolicited { NEIGHBOUR_ADVERTISEMENT } else { NONE })
        }
        _ => Some(NONE),
    }
}
