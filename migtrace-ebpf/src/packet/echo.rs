//! From a frame's bytes to the ICMP echo request or reply in it.

use super::{ETHERNET_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, is_extension};

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;

// RFC 792 and RFC 4443.
const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO_REQUEST: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;

/// An echo request or reply, or the first fragment of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Echo {
    /// Who is asked: the destination of a request, the source of a reply. Network order, IPv4 as `::ffff:a.b.c.d`.
    pub target: [u32; 4],
    /// Who asks, likewise.
    pub peer: [u32; 4],
    /// Whether this is the reply.
    pub is_reply: bool,
    /// The asker's identifier.
    pub identifier: u16,
    /// The request's number.
    pub sequence: u16,
}

/// What a look at the common shape of a frame gives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Plain {
    /// An echo request or reply.
    Echo(Echo),
    /// None.
    Other,
    /// The frame has another shape: ask [`parse`].
    Unknown,
}

/// Finds the echo message in a frame of the common shape: no tag among the bytes, no option, no extension header.
///
/// Every offset here is a constant: for a loader without `CAP_PERFMON` the verifier allows no others into a packet
/// that is read where it lies.
#[inline(always)]
pub fn parse_plain<F: Frame>(frame: &F) -> Plain {
    const IPV4: u32 = ETHERNET_HEADER;
    const IPV4_MESSAGE: u32 = IPV4 + 20;
    const IPV6: u32 = ETHERNET_HEADER;
    const IPV6_MESSAGE: u32 = IPV6 + super::IPV6_HEADER;
    let Some(ethertype) = frame.read(12) else { return Plain::Unknown };
    match u16::from_be_bytes(ethertype) {
        ETHERTYPE_IPV4 => {
            let Some(ip) = super::ipv4(frame, IPV4) else { return Plain::Unknown };
            if ip.protocol != PROTOCOL_ICMP || ip.later_fragment {
                return Plain::Other;
            }
            if ip.next != IPV4_MESSAGE {
                return Plain::Unknown;
            }
            echo(frame, IPV4_MESSAGE, IPV4, false).unwrap_or(Plain::Unknown)
        }
        ETHERTYPE_IPV6 => {
            let Some(ip) = super::ipv6_fixed(frame, IPV6) else { return Plain::Unknown };
            if is_extension(ip.protocol) {
                return Plain::Unknown;
            }
            if ip.protocol != PROTOCOL_ICMPV6 {
                return Plain::Other;
            }
            echo(frame, IPV6_MESSAGE, IPV6, true).unwrap_or(Plain::Unknown)
        }
        super::ETHERTYPE_VLAN | super::ETHERTYPE_QINQ => Plain::Unknown,
        _ => Plain::Other,
    }
}

/// Finds the echo message in a frame.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F) -> Option<Echo> {
    let (ethertype, l3, _) = super::ethernet(frame, 0)?;
    let (ip, is_ipv6) = match ethertype {
        ETHERTYPE_IPV4 => (super::ipv4(frame, l3)?, false),
        ETHERTYPE_IPV6 => (super::ipv6(frame, l3)?, true),
        _ => return None,
    };
    let icmp = if is_ipv6 { PROTOCOL_ICMPV6 } else { PROTOCOL_ICMP };
    if ip.protocol != icmp || ip.later_fragment {
        return None;
    }
    match echo(frame, ip.next, l3, is_ipv6)? {
        Plain::Echo(echo) => Some(echo),
        Plain::Other | Plain::Unknown => None,
    }
}

/// Reads the message at `start`, of the IP header at `l3`; `None` when the frame is too short.
#[inline(always)]
fn echo<F: Frame>(frame: &F, start: u32, l3: u32, is_ipv6: bool) -> Option<Plain> {
    let message: [u8; 8] = frame.read(start)?;
    let is_reply = match (is_ipv6, message[0], message[1]) {
        (false, ICMP_ECHO_REQUEST, 0) | (true, ICMPV6_ECHO_REQUEST, 0) => false,
        (false, ICMP_ECHO_REPLY, 0) | (true, ICMPV6_ECHO_REPLY, 0) => true,
        _ => return Some(Plain::Other),
    };
    let (source, destination) = if is_ipv6 {
        (super::address(frame.read(l3 + 8)?), super::address(frame.read(l3 + 24)?))
    } else {
        (super::mapped(frame.read(l3 + 12)?), super::mapped(frame.read(l3 + 16)?))
    };
    let (target, peer) = if is_reply { (source, destination) } else { (destination, source) };
    Some(Plain::Echo(Echo {
        target,
        peer,
        is_reply,
        identifier: u16::from_be_bytes([message[4], message[5]]),
        sequence: u16::from_be_bytes([message[6], message[7]]),
    }))
}
