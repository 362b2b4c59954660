//! The IP headers, of both versions, with the extension headers of IPv6.

use super::Frame;

const PROTOCOL_HOP_BY_HOP: u8 = 0;
pub(super) const PROTOCOL_TCP: u8 = 6;
pub(super) const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ROUTING: u8 = 43;
const PROTOCOL_FRAGMENT: u8 = 44;
const PROTOCOL_AUTHENTICATION: u8 = 51;
const PROTOCOL_DESTINATION_OPTIONS: u8 = 60;

const IPV4_HEADER: u32 = 20;
pub(super) const IPV6_HEADER: u32 = 40;

/// How many IPv6 extension headers are walked.
const MAX_EXTENSION_HEADERS: u32 = 6;

const OPTION_JUMBO: u8 = 0xc2;
/// The hop-by-hop header that Linux puts before a BIG TCP packet, and leaves out of its segments
/// (`ipv6_has_hopopt_jumbo`, include/net/ipv6.h).
const JUMBO_HEADER: u32 = 8;

/// What an IP header says, of either version.
#[derive(Clone, Copy)]
pub struct Ip {
    pub(super) version: Version,
    /// Where it begins.
    pub(super) start: u32,
    pub(super) protocol: u8,
    /// A fragment other than the first: it does not have the next header.
    pub(super) later_fragment: bool,
    /// Where the next header begins.
    pub(super) next: u32,
    /// Where the packet ends according to the header; 0 when the header does not say (BIG TCP).
    pub(super) end: u32,
    /// Bytes of the jumbo header among the headers; 0 without one.
    pub(super) jumbo: u32,
    /// How many VLAN tags are among the bytes before it.
    pub(super) in_band_tags: u32,
    /// 1 when it is in a tunnel.
    pub(super) tunnelled: u8,
}

#[derive(Clone, Copy)]
pub(super) enum Version {
    V4,
    V6,
}

/// Reads the IPv4 header at `offset`.
#[inline(always)]
pub(super) fn ipv4<F: Frame>(frame: &F, offset: u32) -> Option<Ip> {
    let header: [u8; 10] = frame.read(offset)?;
    let header_length = u32::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_length < IPV4_HEADER {
        return None;
    }
    let total_length = u16::from_be_bytes([header[2], header[3]]);
    let fragment_offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    Some(Ip {
        version: Version::V4,
        start: offset,
        protocol: header[9],
        later_fragment: fragment_offset != 0,
        next: offset + header_length,
        end: if total_length == 0 { 0 } else { offset + u32::from(total_length) },
        jumbo: 0,
        in_band_tags: 0,
        tunnelled: 0,
    })
}

/// An IPv4 address as `::ffff:a.b.c.d`.
#[inline(always)]
pub(super) fn mapped(address: [u8; 4]) -> [u32; 4] {
    [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(address)]
}

/// Reads the fixed IPv6 header at `offset`, without extension headers.
#[inline(always)]
pub(super) fn ipv6_fixed<F: Frame>(frame: &F, offset: u32) -> Option<Ip> {
    let header: [u8; 8] = frame.read(offset)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let payload_length = u16::from_be_bytes([header[4], header[5]]);
    Some(Ip {
        version: Version::V6,
        start: offset,
        protocol: header[6],
        later_fragment: false,
        next: offset + IPV6_HEADER,
        end: if payload_length == 0 { 0 } else { offset + IPV6_HEADER + u32::from(payload_length) },
        jumbo: 0,
        in_band_tags: 0,
        tunnelled: 0,
    })
}

/// Whether a protocol is an extension header.
#[inline(always)]
pub(super) const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        PROTOCOL_HOP_BY_HOP
            | PROTOCOL_ROUTING
            | PROTOCOL_FRAGMENT
            | PROTOCOL_AUTHENTICATION
            | PROTOCOL_DESTINATION_OPTIONS
    )
}

/// Reads the IPv6 header at `offset`, and the extension headers after it.
///
/// The loop has few exits, and early ones, for the sake of older verifiers. They follow every combination of values
/// that it may leave: of a million instructions that a verifier may look at, Linux 6.1 needs a tenth.
#[inline(always)]
pub(super) fn ipv6<F: Frame>(frame: &F, offset: u32) -> Option<Ip> {
    let mut ip = ipv6_fixed(frame, offset)?;
    if ip.protocol == PROTOCOL_HOP_BY_HOP && ip.end == 0 {
        let header: [u8; 3] = frame.read(ip.next)?;
        if header == [PROTOCOL_TCP, 0, OPTION_JUMBO] {
            return Some(Ip {
                protocol: PROTOCOL_TCP,
                next: ip.next + JUMBO_HEADER,
                jumbo: JUMBO_HEADER,
                ..ip
            });
        }
    }
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !is_extension(ip.protocol) {
            return Some(ip);
        }
        let header: [u8; 4] = frame.read(ip.next)?;
        // In units of 8 bytes without the first 8, RFC 8200; the authentication header counts in 4, RFC 4302.
        let mut length = (u32::from(header[1]) + 1) * 8;
        if ip.protocol == PROTOCOL_AUTHENTICATION {
            length = (u32::from(header[1]) + 2) * 4;
        } else if ip.protocol == PROTOCOL_FRAGMENT {
            length = 8;
            ip.later_fragment = u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0;
        }
        ip.protocol = header[0];
        ip.next += length;
        if ip.later_fragment {
            return Some(ip);
        }
    }
    (!is_extension(ip.protocol)).then_some(ip)
}

/// An IPv6 address as words.
#[inline(always)]
pub(super) fn address(bytes: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

/// Source and destination address, in network order as they are in memory.
#[inline(always)]
pub(super) fn addresses<F: Frame>(frame: &F, ip: &Ip) -> Option<([u32; 4], [u32; 4])> {
    Some(match ip.version {
        Version::V4 => (mapped(frame.read(ip.start + 12)?), mapped(frame.read(ip.start + 16)?)),
        Version::V6 => (address(frame.read(ip.start + 8)?), address(frame.read(ip.start + 24)?)),
    })
}
