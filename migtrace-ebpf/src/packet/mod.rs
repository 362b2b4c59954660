//! From a frame's bytes to the flow that it belongs to, and what it costs on the wire.
//!
//! A socket buffer may stand for many frames. TCP hands down up to 64 KiB at once (512 KiB with BIG TCP), and the
//! kernel or the NIC cuts that into segments of `gso_size` payload bytes, each with a copy of the headers. So
//!
//! ```text
//! segments = ceil(payload / gso_size)                       1 if gso_size is 0
//! wire     = length + (segments - 1) * headers              + 4 * segments with an accelerated VLAN tag
//! ```
//!
//! This is exact, because all segments except the last are full. Neither `__sk_buff.wire_len` gives this (it is wrong
//! at ingress, and for tunnels on some kernels) nor `gso_segs` (it is 0 from a tap).

pub mod announcement;
pub mod echo;
mod ethernet;
mod ip;
mod tcp;
mod tunnel;

pub use ip::Ip;

use ethernet::{
    ETHERNET_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, VLAN_TAG, ethernet,
};
use ip::{PROTOCOL_TCP, PROTOCOL_UDP, ipv4, ipv6, ipv6_fixed, is_extension};

/// How many layers are walked: the tunnel's headers, then the frame inside.
const MAX_LAYERS: u32 = 2;

/// A frame, beginning with its L2 header.
pub trait Frame {
    /// The `N` bytes at `offset`, or `None` when the frame is shorter.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// What the kernel knows about it besides.
    fn metadata(&self) -> Metadata;

    /// Returns `ip` unchanged, but in a way that makes the verifier forget how it was found. `None`: that was not
    /// possible.
    ///
    /// Dozens of paths lead to a packet's IP header, and old verifiers check all that follows once for each path that
    /// they can distinguish. Without this, Linux 6.1 needed a tenth of the million instructions that a verifier looks
    /// at, and with tunnels a million was not enough.
    #[inline(always)]
    fn forget_the_way(&self, ip: Ip) -> Option<Ip> {
        Some(ip)
    }
}

/// What the kernel knows about a frame besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metadata {
    /// `__sk_buff.len`: bytes beginning with the L2 header, with all headers once.
    pub length: u32,
    /// `__sk_buff.gso_size`: payload bytes of a segment; 0 when the buffer is one frame.
    pub gso_size: u32,
    /// `__sk_buff.vlan_present`: nonzero when a VLAN tag is held beside the bytes.
    pub vlan_present: u32,
}

/// Tunnels to look into: a set of bits.
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
    /// The sender has no more to send.
    pub const FIN: u8 = 0x01;
    /// The sender opens the connection.
    pub const SYN: u8 = 0x02;
    /// The sender resets the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

/// Addresses and ports of a packet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tuple {
    /// Source address in network order; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u32; 4],
    /// Destination address, in the same form.
    pub destination: [u32; 4],
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
}

/// A TCP packet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tcp {
    /// Its ends.
    pub tuple: Tuple,
    /// Sequence number of the first payload byte (or of the SYN).
    pub sequence: u32,
    /// The sequence number that the sender expects next; valid with ACK.
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

/// What a frame is for the counting of TCP flows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Packet {
    /// TCP with ports that are wanted.
    Tcp(Tcp),
    /// A later fragment of a TCP packet: the ports are 0, and `payload_bytes` is what follows the IP headers.
    Fragment(Tcp),
    /// Anything else, and frames that are too short to decide.
    Other,
}

/// Which packets are looked for.
#[derive(Clone, Copy)]
pub struct Wanted<P> {
    /// The tunnels to look into: a set of [`encapsulation`].
    pub encapsulations: u32,
    /// Whether a packet with this source and this destination port is wanted. Called before anything is read that
    /// only a wanted packet needs: most packets of a host are not wanted.
    pub ports: P,
}

/// Finds the wanted TCP packet in a frame of the common shape: at most one VLAN tag among the bytes, no extension
/// header, no tunnel. `None`: use [`parse`].
///
/// Nearly every packet of a host has this shape. Without loops, the verifier can follow direct packet access.
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
        return tcp::tcp(frame, wanted, &ip);
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
            return tcp::tcp(frame, wanted, &ip);
        }
        let encapsulations = wanted.encapsulations;
        if encapsulations == encapsulation::NONE || ip.protocol != PROTOCOL_UDP || ip.later_fragment {
            return Some(Packet::Other);
        }
        offset = tunnel::inner_frame(frame, ip.next, encapsulations)?;
        in_band_tags = ip.in_band_tags;
    }
    None
}
