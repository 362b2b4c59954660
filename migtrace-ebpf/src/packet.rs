//! From a frame's bytes to the flow that it belongs to and what it costs on the wire.
//!
//! A socket buffer may stand for many frames: TCP hands down up to 64 KiB (512 KiB with BIG TCP) at once and the
//! kernel or the NIC cuts it into segments of `gso_size` payload bytes, each with a copy of the headers. So
//!
//! ```text
//! segments = ceil(payload / gso_size)                       1 if gso_size is 0
//! wire     = length + (segments - 1) * headers              + 4 * segments with an accelerated VLAN tag
//! ```
//!
//! which is exact because all segments but the last are full. Neither `__sk_buff.wire_len` (wrong at ingress, and
//! for tunnels on some kernels) nor `gso_segs` (0 from a tap) gives this.

pub mod announcement;
pub mod echo;

/// A frame, from its L2 header on.
pub trait Frame {
    /// The `N` bytes at `offset`, or `None` when the frame is shorter.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// What the kernel knows of it besides.
    fn metadata(&self) -> Metadata;

    /// Returns `ip` as it is, by a way that the verifier does not follow. `None`: there is no such way.
    ///
    /// There are dozens of ways to a packet's IP header, and old verifiers look at all that follows once for each of
    /// them that they can tell apart: of the million instructions that they look at, Linux 6.1 needed a tenth
    /// without this, and a million was not enough to look into tunnels.
    #[inline(always)]
    fn forget_the_way(&self, ip: Ip) -> Option<Ip> {
        Some(ip)
    }
}

/// What the kernel knows of a frame besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metadata {
    /// `__sk_buff.len`: bytes from the L2 header on, headers once.
    pub length: u32,
    /// `__sk_buff.gso_size`: payload bytes of a segment; 0 when the buffer is one frame.
    pub gso_size: u32,
    /// `__sk_buff.vlan_present`: nonzero when a VLAN tag is held beside the bytes.
    pub vlan_present: u32,
}

/// Encapsulations to look into; a set of bits.
pub mod encapsulation {
    /// None.
    pub const NONE: u32 = 0;
    /// VXLAN (RFC 7348), UDP ports 4789 and 8472.
    pub const VXLAN: u32 = 1;
    /// Geneve (RFC 8926), UDP port 6081.
    pub const GENEVE: u32 = 2;
}

/// Bits of [`Tcp::tcp_flags`].
pub mod tcp_flags {
    /// Its sender has no more to say.
    pub const FIN: u8 = 0x01;
    /// Its sender opens the connection.
    pub const SYN: u8 = 0x02;
    /// Its sender breaks the connection off.
    pub const RST: u8 = 0x04;
    /// It acknowledges.
    pub const ACK: u8 = 0x10;
}

/// Addresses and ports of a packet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tuple {
    /// Source address in network order; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u32; 4],
    /// Destination address, likewise.
    pub destination: [u32; 4],
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
}

/// A TCP packet, with its ports (not a later fragment).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tcp {
    /// Its ends.
    pub tuple: Tuple,
    /// Sequence number of the first payload byte (or of the SYN).
    pub sequence: u32,
    /// The sequence number that its sender expects next; means something with ACK.
    pub acknowledgement: u32,
    /// Byte 13 of the TCP header, a set of [`tcp_flags`].
    pub tcp_flags: u8,
    /// 1 when the frame carries a VLAN tag, in its bytes or beside them.
    pub tagged: u8,
    /// 1 when the packet is in a tunnel.
    pub tunnelled: u8,
    /// Where the TCP payload begins.
    pub payload_offset: u32,
    /// Payload bytes of all segments.
    pub payload_bytes: u32,
    /// Frames on the wire.
    pub segments: u32,
    /// L2 bytes of all frames on the wire.
    pub wire_bytes: u64,
}

/// What a frame is to a counter of TCP flows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Packet {
    /// TCP with ports that are wanted.
    Tcp(Tcp),
    /// A later fragment of a TCP packet: ports are 0, `payload_bytes` is what follows the IP headers.
    Fragment(Tcp),
    /// Anything else, and what is too short to be told.
    Other,
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

const PROTOCOL_HOP_BY_HOP: u8 = 0;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ROUTING: u8 = 43;
const PROTOCOL_FRAGMENT: u8 = 44;
const PROTOCOL_AUTHENTICATION: u8 = 51;
const PROTOCOL_DESTINATION_OPTIONS: u8 = 60;

const ETHERNET_HEADER: u32 = 14;
const VLAN_TAG: u32 = 4;
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
const TCP_HEADER: u32 = 20;
const UDP_HEADER: u32 = 8;
const VXLAN_HEADER: u32 = 8;
const GENEVE_HEADER: u32 = 8;

/// In-band VLAN tags that are walked: QinQ is two.
const MAX_VLAN_TAGS: u32 = 2;
/// IPv6 extension headers that are walked.
const MAX_EXTENSION_HEADERS: u32 = 6;
/// Tunnel header, then the frame inside.
const MAX_LAYERS: u32 = 2;

const OPTION_JUMBO: u8 = 0xc2;
/// The hop-by-hop header that Linux puts before a BIG TCP packet; the segments do without
/// (`ipv6_has_hopopt_jumbo`, include/net/ipv6.h).
const JUMBO_HEADER: u32 = 8;

/// What an IP header says, whichever its version.
#[derive(Clone, Copy)]
pub struct Ip {
    version: Version,
    /// Where it begins.
    start: u32,
    protocol: u8,
    /// A fragment that is not the first, so without the next header.
    later_fragment: bool,
    /// Where the next header begins.
    next: u32,
    /// Where the packet ends by its own account; 0 when it does not say (BIG TCP).
    end: u32,
    /// Bytes of the jumbo header among the headers, 0 without.
    jumbo: u32,
    /// VLAN tags among the bytes before it.
    in_band_tags: u32,
    /// 1 when it is in a tunnel.
    tunnelled: u8,
}

#[derive(Clone, Copy)]
enum Version {
    V4,
    V6,
}

/// What is looked for.
#[derive(Clone, Copy)]
pub struct Wanted<P> {
    /// A set of [`encapsulation`]s to look into.
    pub encapsulations: u32,
    /// Whether a packet with this source and this destination port is wanted. Asked before anything is read that
    /// only a wanted packet needs: most packets of a host are not.
    pub ports: P,
}

/// Finds the wanted TCP packet in a frame of the common shape: one tag among the bytes at most, no extension header, no
/// tunnel. `None`: ask [`parse`].
///
/// Nearly every packet of a host has this shape, and without loops the verifier follows direct packet access.
#[inline(always)]
pub fn parse_plain<F, P>(frame: &F, wanted: &Wanted<P>) -> Option<Packet>
where
    F: Frame,
    P: Fn(u16, u16) -> bool,
{
    let (mut ethertype, mut l3, mut in_band_tags) = (u16::from_be_bytes(frame.read(12)?), ETHERNET_HEADER, 0);
    if matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
        ethertype = u16::from_be_bytes(frame.read(l3 + 2)?);
        l3 += VLAN_TAG;
        in_band_tags = 1;
    }
    let ip = match ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, l3)?,
        ETHERTYPE_IPV6 => ipv6_fixed(frame, l3)?,
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => return None,
        _ => return Some(Packet::Other),
    };
    let ip = Ip { in_band_tags, ..ip };
    if ip.protocol == PROTOCOL_TCP {
        return tcp(frame, wanted, &ip);
    }
    let done = !is_extension(ip.protocol) && wanted.encapsulations == encapsulation::NONE;
    done.then_some(Packet::Other)
}

/// Finds the wanted TCP packet in a frame.
#[inline(always)]
pub fn parse<F, P>(frame: &F, wanted: &Wanted<P>) -> Packet
where
    F: Frame,
    P: Fn(u16, u16) -> bool,
{
    walk(frame, wanted).unwrap_or(Packet::Other)
}

#[inline(always)]
fn walk<F, P>(frame: &F, wanted: &Wanted<P>) -> Option<Packet>
where
    F: Frame,
    P: Fn(u16, u16) -> bool,
{
    let mut offset = 0;
    let mut in_band_tags = 0;
    for layer in 0..MAX_LAYERS {
        let (ethertype, l3, tags) = ethernet(frame, offset)?;
        let ip = match ethertype {
            ETHERTYPE_IPV4 => ipv4(frame, l3)?,
            ETHERTYPE_IPV6 => ipv6(frame, l3)?,
            _ => return Some(Packet::Other),
        };
        let tunnelled = layer as u8;
        let ip = frame.forget_the_way(Ip { in_band_tags: in_band_tags + tags, tunnelled, ..ip })?;
        if ip.protocol == PROTOCOL_TCP {
            return tcp(frame, wanted, &ip);
        }
        let encapsulations = wanted.encapsulations;
        if encapsulations == encapsulation::NONE || ip.protocol != PROTOCOL_UDP || ip.later_fragment {
            return Some(Packet::Other);
        }
        offset = inner_frame(frame, ip.next, encapsulations)?;
        in_band_tags = ip.in_band_tags;
    }
    None
}

/// The EtherType behind all tags, where its packet begins, and how many tags there are.
#[inline(always)]
fn ethernet<F: Frame>(frame: &F, offset: u32) -> Option<(u16, u32, u32)> {
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

#[inline(always)]
fn ipv4<F: Frame>(frame: &F, offset: u32) -> Option<Ip> {
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
fn mapped(address: [u8; 4]) -> [u32; 4] {
    [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(address)]
}

#[inline(always)]
fn ipv6_fixed<F: Frame>(frame: &F, offset: u32) -> Option<Ip> {
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

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        PROTOCOL_HOP_BY_HOP
            | PROTOCOL_ROUTING
            | PROTOCOL_FRAGMENT
            | PROTOCOL_AUTHENTICATION
            | PROTOCOL_DESTINATION_OPTIONS
    )
}

/// The ways out of the loop are early and few for the sake of older verifiers, which follow every combination of what
/// it may leave behind: of a million instructions that may be looked at, Linux 6.1 needs a tenth.
#[inline(always)]
fn ipv6<F: Frame>(frame: &F, offset: u32) -> Option<Ip> {
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

#[inline(always)]
fn address(bytes: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

/// Where the frame inside a VXLAN or Geneve packet begins.
#[inline(always)]
fn inner_frame<F: Frame>(frame: &F, udp: u32, encapsulations: u32) -> Option<u32> {
    let port = u16::from_be_bytes(frame.read(udp + 2)?);
    let tunnel = udp + UDP_HEADER;
    if encapsulations & encapsulation::VXLAN != 0 && matches!(port, 4789 | 8472) {
        return Some(tunnel + VXLAN_HEADER);
    }
    if encapsulations & encapsulation::GENEVE != 0 && port == 6081 {
        let header: [u8; 4] = frame.read(tunnel)?;
        // RFC 8926: options in 4-byte units; 0x6558 is Ethernet.
        if u16::from_be_bytes([header[2], header[3]]) != 0x6558 {
            return None;
        }
        return Some(tunnel + GENEVE_HEADER + u32::from(header[0] & 0x3f) * 4);
    }
    None
}

#[inline(always)]
fn tcp<F, P>(frame: &F, wanted: &Wanted<P>, ip: &Ip) -> Option<Packet>
where
    F: Frame,
    P: Fn(u16, u16) -> bool,
{
    let mut packet = Tcp { tunnelled: ip.tunnelled, payload_offset: ip.next, ..Tcp::default() };
    if !ip.later_fragment {
        let ports: [u8; 4] = frame.read(ip.next)?;
        packet.tuple.source_port = u16::from_be_bytes([ports[0], ports[1]]);
        packet.tuple.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
        if !(wanted.ports)(packet.tuple.source_port, packet.tuple.destination_port) {
            return Some(Packet::Other);
        }
        packet.sequence = u32::from_be_bytes(frame.read(ip.next + 4)?);
        packet.acknowledgement = u32::from_be_bytes(frame.read(ip.next + 8)?);
        let [data_offset, tcp_flags] = frame.read(ip.next + 12)?;
        let header_length = u32::from(data_offset >> 4) * 4;
        if header_length < TCP_HEADER {
            return None;
        }
        packet.tcp_flags = tcp_flags;
        packet.payload_offset = ip.next + header_length;
    }
    (packet.tuple.source, packet.tuple.destination) = addresses(frame, ip)?;
    let metadata = frame.metadata();
    packet.tagged = u8::from(ip.in_band_tags != 0 || metadata.vlan_present != 0);
    packet.payload_bytes = payload(metadata, ip, packet.payload_offset);
    (packet.segments, packet.wire_bytes) =
        cost(metadata, packet.payload_offset, packet.payload_bytes, ip.jumbo);
    Some(if ip.later_fragment { Packet::Fragment(packet) } else { Packet::Tcp(packet) })
}

/// Source and destination, in network order as they lie in memory.
#[inline(always)]
fn addresses<F: Frame>(frame: &F, ip: &Ip) -> Option<([u32; 4], [u32; 4])> {
    Some(match ip.version {
        Version::V4 => (mapped(frame.read(ip.start + 12)?), mapped(frame.read(ip.start + 16)?)),
        Version::V6 => (address(frame.read(ip.start + 8)?), address(frame.read(ip.start + 24)?)),
    })
}

/// Payload bytes: up to the end of the buffer, or to where IP says the packet ends. A frame of fewer than 60
/// bytes arrives padded, and the padding is no payload.
#[inline(always)]
fn payload(metadata: Metadata, ip: &Ip, payload_offset: u32) -> u32 {
    let mut end = metadata.length;
    if metadata.gso_size == 0 && ip.end != 0 && ip.end < end {
        end = ip.end;
    }
    end.saturating_sub(payload_offset)
}

/// The frames, and the bytes, that `payload` bytes behind `headers` bytes cost on the wire. `jumbo` of the headers stay
/// out of segments.
#[inline(always)]
fn cost(metadata: Metadata, headers: u32, payload: u32, jumbo: u32) -> (u32, u64) {
    let mut length = metadata.length;
    let mut segments = 1;
    if metadata.gso_size != 0 {
        length = length.saturating_sub(jumbo);
        segments = payload.div_ceil(metadata.gso_size).max(1);
    }
    let tags = if metadata.vlan_present == 0 { 0 } else { u64::from(VLAN_TAG) * u64::from(segments) };
    let repeated = u64::from(segments - 1) * u64::from(headers - jumbo);
    (segments, u64::from(length) + repeated + tags)
}
