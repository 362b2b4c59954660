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

pub mod echo;

/// The bytes of a frame, from its L2 header on.
pub trait Frame {
    /// The `N` bytes at `offset`, or `None` when the frame is shorter.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

impl Frame for [u8] {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = usize::try_from(offset).ok()?;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
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
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tcp {
    /// Its ends.
    pub tuple: Tuple,
    /// Byte 13 of the TCP header: FIN 1, SYN 2, RST 4.
    pub tcp_flags: u8,
    /// 1 when the frame carries a VLAN tag, in its bytes or beside them.
    pub tagged: u8,
    /// Where the TCP payload begins.
    pub payload_offset: u32,
    /// Payload bytes of all segments.
    pub payload_bytes: u32,
    /// What it costs.
    pub cost: Cost,
}

/// What a socket buffer costs on the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cost {
    /// Frames.
    pub segments: u32,
    /// L2 bytes of all frames.
    pub wire_bytes: u64,
}

/// What a frame is to a counter of TCP flows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Packet {
    /// TCP with ports.
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
const IPV6_HEADER: u32 = 40;
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
/// The hop-by-hop header that Linux puts before a BIG TCP packet for its own use; it leaves at segmentation
/// (`ipv6_hopopt_jumbo_remove`, include/net/ipv6.h) and is never on the wire.
const JUMBO_HEADER: u32 = 8;

/// What an IP header says, whichever its version.
#[derive(Clone, Copy)]
struct Ip {
    source: [u32; 4],
    destination: [u32; 4],
    protocol: u8,
    /// A fragment that is not the first, so without the next header.
    later_fragment: bool,
    /// Where the next header begins.
    next: u32,
    /// Where the packet ends by its own account; 0 when it does not say (BIG TCP).
    end: u32,
    /// Bytes among the headers that are not on the wire.
    phantom: u32,
}

/// Finds the TCP packet in a frame of the common shape: no tag among the bytes, no extension header, no tunnel.
/// `None`: ask [`parse`].
///
/// Nearly every packet of a host has this shape, and without loops the verifier follows direct packet access.
#[inline(always)]
pub fn parse_plain<F: Frame + ?Sized>(frame: &F, metadata: Metadata, encapsulations: u32) -> Option<Packet> {
    let ip = match u16::from_be_bytes(frame.read(12)?) {
        ETHERTYPE_IPV4 => ipv4(frame, ETHERNET_HEADER)?,
        ETHERTYPE_IPV6 => ipv6_fixed(frame, ETHERNET_HEADER)?,
        _ => return None,
    };
    if ip.protocol == PROTOCOL_TCP {
        return tcp(frame, metadata, &ip, u8::from(metadata.vlan_present != 0));
    }
    let done = !is_extension(ip.protocol) && encapsulations == encapsulation::NONE;
    done.then_some(Packet::Other)
}

/// Finds the TCP packet in a frame.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F, metadata: Metadata, encapsulations: u32) -> Packet {
    walk(frame, metadata, encapsulations).unwrap_or(Packet::Other)
}

#[inline(always)]
fn walk<F: Frame + ?Sized>(frame: &F, metadata: Metadata, encapsulations: u32) -> Option<Packet> {
    let mut offset = 0;
    let mut tagged = u8::from(metadata.vlan_present != 0);
    for _ in 0..MAX_LAYERS {
        let (ethertype, l3, in_band_tag) = ethernet(frame, offset)?;
        tagged |= in_band_tag;
        let ip = match ethertype {
            ETHERTYPE_IPV4 => ipv4(frame, l3)?,
            ETHERTYPE_IPV6 => ipv6(frame, l3)?,
            _ => return Some(Packet::Other),
        };
        if ip.protocol == PROTOCOL_TCP {
            return tcp(frame, metadata, &ip, tagged);
        }
        if encapsulations == encapsulation::NONE || ip.protocol != PROTOCOL_UDP || ip.later_fragment {
            return Some(Packet::Other);
        }
        offset = inner_frame(frame, ip.next, encapsulations)?;
    }
    None
}

/// The EtherType behind all tags, where its packet begins, and whether there was a tag.
#[inline(always)]
fn ethernet<F: Frame + ?Sized>(frame: &F, offset: u32) -> Option<(u16, u32, u8)> {
    let mut l3 = offset + ETHERNET_HEADER;
    let mut ethertype = u16::from_be_bytes(frame.read(offset + 12)?);
    let mut tagged = 0;
    for _ in 0..MAX_VLAN_TAGS {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        tagged = 1;
        ethertype = u16::from_be_bytes(frame.read(l3 + 2)?);
        l3 += VLAN_TAG;
    }
    Some((ethertype, l3, tagged))
}

#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F, offset: u32) -> Option<Ip> {
    let header: [u8; 20] = frame.read(offset)?;
    let header_length = u32::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_length < 20 {
        return None;
    }
    let total_length = u16::from_be_bytes([header[2], header[3]]);
    let fragment_offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    Some(Ip {
        source: mapped([header[12], header[13], header[14], header[15]]),
        destination: mapped([header[16], header[17], header[18], header[19]]),
        protocol: header[9],
        later_fragment: fragment_offset != 0,
        next: offset + header_length,
        end: if total_length == 0 { 0 } else { offset + u32::from(total_length) },
        phantom: 0,
    })
}

/// An IPv4 address as `::ffff:a.b.c.d`, in network order as it lies in memory.
#[inline(always)]
fn mapped(address: [u8; 4]) -> [u32; 4] {
    [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(address)]
}

#[inline(always)]
fn ipv6_fixed<F: Frame + ?Sized>(frame: &F, offset: u32) -> Option<Ip> {
    let header: [u8; 8] = frame.read(offset)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let payload_length = u16::from_be_bytes([header[4], header[5]]);
    Some(Ip {
        source: address(frame.read(offset + 8)?),
        destination: address(frame.read(offset + 24)?),
        protocol: header[6],
        later_fragment: false,
        next: offset + IPV6_HEADER,
        end: if payload_length == 0 { 0 } else { offset + IPV6_HEADER + u32::from(payload_length) },
        phantom: 0,
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

#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &F, offset: u32) -> Option<Ip> {
    let mut ip = ipv6_fixed(frame, offset)?;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !is_extension(ip.protocol) || ip.later_fragment {
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
        } else if ip.protocol == PROTOCOL_HOP_BY_HOP && ip.end == 0 && header[2] == OPTION_JUMBO {
            ip.phantom = JUMBO_HEADER;
        }
        ip.protocol = header[0];
        ip.next += length;
    }
    (!is_extension(ip.protocol) || ip.later_fragment).then_some(ip)
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
fn inner_frame<F: Frame + ?Sized>(frame: &F, udp: u32, encapsulations: u32) -> Option<u32> {
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
fn tcp<F: Frame + ?Sized>(frame: &F, metadata: Metadata, ip: &Ip, tagged: u8) -> Option<Packet> {
    let mut packet = Tcp {
        tuple: Tuple { source: ip.source, destination: ip.destination, source_port: 0, destination_port: 0 },
        tcp_flags: 0,
        tagged,
        payload_offset: ip.next,
        payload_bytes: 0,
        cost: Cost { segments: 1, wire_bytes: 0 },
    };
    if !ip.later_fragment {
        let ports: [u8; 4] = frame.read(ip.next)?;
        let [data_offset, tcp_flags] = frame.read(ip.next + 12)?;
        packet.tuple.source_port = u16::from_be_bytes([ports[0], ports[1]]);
        packet.tuple.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
        packet.tcp_flags = tcp_flags;
        packet.payload_offset = ip.next + u32::from(data_offset >> 4) * 4;
    }
    packet.payload_bytes = payload(metadata, ip, packet.payload_offset);
    packet.cost = cost(metadata, packet.payload_offset, packet.payload_bytes, ip.phantom);
    Some(if ip.later_fragment { Packet::Fragment(packet) } else { Packet::Tcp(packet) })
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

/// What `payload` bytes behind `headers` bytes cost on the wire.
#[inline(always)]
fn cost(metadata: Metadata, headers: u32, payload: u32, phantom: u32) -> Cost {
    let segments =
        if metadata.gso_size == 0 || payload == 0 { 1 } else { payload.div_ceil(metadata.gso_size) };
    let tags = if metadata.vlan_present == 0 { 0 } else { u64::from(VLAN_TAG) * u64::from(segments) };
    let repeated = u64::from(segments - 1) * u64::from(headers - phantom);
    let wire_bytes = u64::from(metadata.length - phantom.min(metadata.length)) + repeated + tags;
    Cost { segments, wire_bytes }
}
