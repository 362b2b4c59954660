//! From a frame's bytes to the ICMP echo request or reply in it.

use super::Frame;
use super::ethernet::{
    ETHERNET_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, ethernet,
};
use super::ip::{IPV6_HEADER, address, ipv4, ipv6, ipv6_fixed, is_extension, mapped};

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;

// RFC 792 and RFC 4443.
const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO_REQUEST: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;

/// An echo request or reply, or the first fragment of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EchoMessage {
    /// Who is asked: the destination of a request, the source of a reply. Network order, IPv4 as `::ffff:a.b.c.d`.
    pub target: [u32; 4],
    /// Who asks, in the same form.
    pub peer: [u32; 4],
    /// Whether this is the reply.
    pub is_reply: bool,
    /// The asker's identifier.
    pub identifier: u16,
    /// The request's number.
    pub sequence: u16,
}

/// What [`parse_plain`] finds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PlainEcho {
    /// An echo request or reply.
    Echo(EchoMessage),
    /// Anything else.
    Other,
    /// The frame has another shape: use [`parse`].
    Unknown,
}

/// Finds the echo message in a frame of the common shape: no VLAN tag among the bytes, no IPv4 option, no extension
/// header.
///
/// Every offset here is a constant: without `CAP_PERFMON` in the loader, the verifier allows only these in direct
/// packet access.
#[inline(always)]
pub fn parse_plain<F: Frame>(frame: &F) -> PlainEcho {
    const IPV4: u32 = ETHERNET_HEADER;
    const IPV4_MESSAGE: u32 = IPV4 + 20;
    const IPV6: u32 = ETHERNET_HEADER;
    const IPV6_MESSAGE: u32 = IPV6 + IPV6_HEADER;
    let Some(ethertype) = frame.read(12) else { return PlainEcho::Unknown };
    match u16::from_be_bytes(ethertype) {
        ETHERTYPE_IPV4 => {
            let Some(ip) = ipv4(frame, IPV4) else { return PlainEcho::Unknown };
            if ip.protocol != PROTOCOL_ICMP || ip.later_fragment {
                return PlainEcho::Other;
            }
            if ip.next != IPV4_MESSAGE {
                return PlainEcho::Unknown;
            }
            echo(frame, IPV4_MESSAGE, IPV4, false).unwrap_or(PlainEcho::Unknown)
        }
        ETHERTYPE_IPV6 => {
            let Some(ip) = ipv6_fixed(frame, IPV6) else { return PlainEcho::Unknown };
            if is_extension(ip.protocol) {
                return PlainEcho::Unknown;
            }
            if ip.protocol != PROTOCOL_ICMPV6 {
                return PlainEcho::Other;
            }
            echo(frame, IPV6_MESSAGE, IPV6, true).unwrap_or(PlainEcho::Unknown)
        }
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => PlainEcho::Unknown,
        _ => PlainEcho::Other,
    }
}

/// Finds the echo message in a frame.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F) -> Option<EchoMessage> {
    let (ethertype, l3, _) = ethernet(frame, 0)?;
    let (ip, is_ipv6) = match ethertype {
        ETHERTYPE_IPV4 => (ipv4(frame, l3)?, false),
        ETHERTYPE_IPV6 => (ipv6(frame, l3)?, true),
        _ => return None,
    };
    let icmp = if is_ipv6 { PROTOCOL_ICMPV6 } else { PROTOCOL_ICMP };
    if ip.protocol != icmp || ip.later_fragment {
        return None;
    }
    match echo(frame, ip.next, l3, is_ipv6)? {
        PlainEcho::Echo(echo) => Some(echo),
        PlainEcho::Other | PlainEcho::Unknown => None,
    }
}

/// Reads the message at `start`, whose IP header is at `l3`. `None`: the frame is too short.
#[inline(always)]
fn echo<F: Frame>(frame: &F, start: u32, l3: u32, is_ipv6: bool) -> Option<PlainEcho> {
    let message: [u8; 8] = frame.read(start)?;
    let is_reply = match (is_ipv6, message[0], message[1]) {
        (false, ICMP_ECHO_REQUEST, 0) | (true, ICMPV6_ECHO_REQUEST, 0) => false,
        (false, ICMP_ECHO_REPLY, 0) | (true, ICMPV6_ECHO_REPLY, 0) => true,
        _ => return Some(PlainEcho::Other),
    };
    let (source, destination) = if is_ipv6 {
        (address(frame.read(l3 + 8)?), address(frame.read(l3 + 24)?))
    } else {
        (mapped(frame.read(l3 + 12)?), mapped(frame.read(l3 + 16)?))
    };
    let (target, peer) = if is_reply { (source, destination) } else { (destination, source) };
    Some(PlainEcho::Echo(EchoMessage {
        target,
        peer,
        is_reply,
        identifier: u16::from_be_bytes([message[4], message[5]]),
        sequence: u16::from_be_bytes([message[6], message[7]]),
    }))
}
