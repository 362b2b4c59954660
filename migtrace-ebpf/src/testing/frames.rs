//! Packets built header by header, and the frames that they become on the wire. The packet walk must count as many
//! bytes as these have.
//!
//! Nothing here walks headers or divides: [`BuiltPacket::cut`] makes the frames that leave the host, and
//! [`BuiltPacket::wire_cost`] adds up their lengths.

use std::fmt;
use std::vec;
use std::vec::Vec;

use crate::packet::Metadata;

/// A header. What depends on its neighbours (lengths, next protocols) is filled in when the frame is built.
#[derive(Clone, Copy, Debug)]
pub enum Header {
    /// Ethernet.
    Ethernet,
    /// A VLAN tag among the bytes, with its EtherType.
    Tag(u16),
    /// IPv4.
    Ipv4 {
        /// Source address.
        source: [u8; 4],
        /// Destination address.
        destination: [u8; 4],
        /// Words of options.
        option_words: u8,
        /// The fragment's flags and offset, as they are in the header.
        fragment: u16,
    },
    /// IPv6.
    Ipv6 {
        /// Source address.
        source: [u8; 16],
        /// Destination address.
        destination: [u8; 16],
    },
    /// A hop-by-hop header.
    HopByHop {
        /// How many times eight bytes it has after the first eight.
        more: u8,
    },
    /// The hop-by-hop header of a packet of more than 64 KiB (RFC 2675).
    Jumbo,
    /// A routing header.
    Routing {
        /// As in a hop-by-hop header.
        more: u8,
    },
    /// A header with options for the destination.
    DestinationOptions {
        /// As in a hop-by-hop header.
        more: u8,
    },
    /// A fragment header.
    Fragment {
        /// The offset and the flags, as they are in the header.
        field: u16,
    },
    /// An authentication header.
    Authentication {
        /// How many times four bytes it has after the first twelve.
        check_words: u8,
    },
    /// UDP.
    Udp {
        /// Destination port.
        port: u16,
    },
    /// VXLAN.
    Vxlan,
    /// Geneve.
    Geneve {
        /// Words of options.
        option_words: u8,
    },
    /// TCP.
    Tcp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
        /// The flags, as they are in the header.
        flags: u8,
        /// Words of options.
        option_words: u8,
    },
    /// No bytes. What follows belongs to this protocol; its header is in the payload, or was in an earlier fragment.
    RestOf(u8),
}

/// The number of the protocol TCP.
pub const TCP: u8 = 6;
/// The number of the protocol UDP.
pub const UDP: u8 = 17;

/// The source of [`ipv4`].
pub const SOURCE: [u8; 4] = [10, 0, 0, 1];
/// The destination of [`ipv4`].
pub const DESTINATION: [u8; 4] = [10, 0, 0, 2];
/// The source of [`ipv6`].
pub const SOURCE_6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5];
/// The destination of [`ipv6`].
pub const DESTINATION_6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 6, 0, 7, 0, 8, 0, 9, 0, 10];

/// An IPv4 header without options.
#[must_use]
pub const fn ipv4() -> Header {
    Header::Ipv4 { source: SOURCE, destination: DESTINATION, option_words: 0, fragment: 0 }
}

/// An IPv6 header.
#[must_use]
pub const fn ipv6() -> Header {
    Header::Ipv6 { source: SOURCE_6, destination: DESTINATION_6 }
}

/// The IPv4 header around a tunnel, with the addresses of the hosts.
#[must_use]
pub const fn outer_ipv4() -> Header {
    Header::Ipv4 { source: [192, 0, 2, 1], destination: [192, 0, 2, 2], option_words: 0, fragment: 0 }
}

/// The IPv6 header around a tunnel, with the addresses of the hosts.
#[must_use]
pub const fn outer_ipv6() -> Header {
    Header::Ipv6 { source: [0x20; 16], destination: [0x21; 16] }
}

/// The sequence number of every TCP packet.
pub const SEQUENCE: u32 = 0x0102_0304;

/// A TCP header with time stamps as options, as Linux sends it.
#[must_use]
pub const fn tcp(source_port: u16, destination_port: u16) -> Header {
    Header::Tcp { source_port, destination_port, flags: 0x10, option_words: 3 }
}

/// A packet as a socket buffer holds it, with what the kernel knows about it besides.
#[derive(Clone)]
pub struct BuiltPacket {
    /// Its headers, beginning with Ethernet.
    pub headers: Vec<Header>,
    /// What follows them.
    pub payload: Vec<u8>,
    /// Payload bytes of a segment, if the buffer is cut into segments.
    pub segment_size: Option<usize>,
    /// Whether a VLAN tag is held beside the bytes.
    pub accelerated_tag: bool,
    /// Bytes of zeros after the packet, which devices append to short frames.
    pub padding: usize,
}

impl fmt::Debug for BuiltPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { headers, payload, segment_size, accelerated_tag, padding } = self;
        write!(f, "{headers:?}, {} bytes of payload cut at {segment_size:?}, ", payload.len())?;
        write!(f, "{padding} of padding, accelerated tag: {accelerated_tag}")
    }
}

/// What a packet costs on the wire, measured on the frames that it becomes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WireCost {
    /// L2 bytes of all frames.
    pub wire_bytes: u64,
    /// Payload bytes of all frames.
    pub payload_bytes: u64,
    /// How many frames there are.
    pub segments: u64,
}

impl BuiltPacket {
    /// A packet that is one frame.
    pub fn new(headers: impl Into<Vec<Header>>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            headers: headers.into(),
            payload: payload.into(),
            segment_size: None,
            accelerated_tag: false,
            padding: 0,
        }
    }

    /// The same, but it is cut into segments of this many payload bytes.
    #[must_use]
    pub fn cut_at(self, segment_size: usize) -> Self {
        Self { segment_size: Some(segment_size), ..self }
    }

    /// The same with this many zeros after it.
    #[must_use]
    pub fn padded(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// The socket buffer's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = build(&self.headers, &self.payload);
        bytes.resize(bytes.len() + self.padding, 0);
        bytes
    }

    /// What the kernel knows about the socket buffer.
    #[must_use]
    pub fn metadata(&self) -> Metadata {
        Metadata {
            length: self.bytes().len() as u32,
            gso_size: self.segment_size.unwrap_or(0) as u32,
            vlan_present: u32::from(self.accelerated_tag),
        }
    }

    /// The frames that leave the host, each with its number of payload bytes.
    #[must_use]
    pub fn cut(&self) -> Vec<(Vec<u8>, usize)> {
        let mut headers = self.headers.clone();
        let pieces: Vec<&[u8]> = match self.segment_size {
            Some(size) => {
                // Segments are small and need none: `ipv6_gso_segment` takes it out.
                headers.retain(|header| !matches!(header, Header::Jumbo));
                self.payload.chunks(size).collect()
            }
            None => vec![&self.payload],
        };
        // A packet without payload is one frame too.
        let pieces = if pieces.is_empty() { vec![&self.payload[..]] } else { pieces };
        if self.accelerated_tag {
            headers.insert(1, Header::Tag(0x8100));
        }
        pieces
            .into_iter()
            .map(|piece| {
                let mut frame = build(&headers, piece);
                frame.resize(frame.len() + self.padding, 0);
                (frame, piece.len())
            })
            .collect()
    }

    /// What the packet costs on the wire.
    #[must_use]
    pub fn wire_cost(&self) -> WireCost {
        let frames = self.cut();
        WireCost {
            wire_bytes: frames.iter().map(|(frame, _)| frame.len() as u64).sum(),
            payload_bytes: frames.iter().map(|(_, payload)| *payload as u64).sum(),
            segments: frames.len() as u64,
        }
    }
}

fn build(headers: &[Header], payload: &[u8]) -> Vec<u8> {
    let mut fronts = Vec::new();
    let mut behind = payload.len();
    for (index, header) in headers.iter().enumerate().rev() {
        let bytes = header.bytes(headers.get(index + 1), behind);
        behind += bytes.len();
        fronts.push(bytes);
    }
    let mut frame: Vec<u8> = fronts.into_iter().rev().flatten().collect();
    frame.extend_from_slice(payload);
    frame
}

impl Header {
    #[expect(clippy::too_many_lines, reason = "one arm a header, each a few lines")]
    fn bytes(self, next: Option<&Self>, behind: usize) -> Vec<u8> {
        match self {
            Self::Ethernet => [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &ethertype(next)[..]].concat(),
            // Priority 5, VLAN 100.
            Self::Tag(_) => [&[0xa0, 100], &ethertype(next)[..]].concat(),
            Self::Ipv4 { source, destination, option_words, fragment } => {
                let length = 20 + 4 * usize::from(option_words);
                // Linux sets it to 0 when it does not fit (BIG TCP).
                let total_length = u16::try_from(length + behind).unwrap_or(0).to_be_bytes();
                let fragment = fragment.to_be_bytes();
                let mut bytes = vec![0x45 + option_words, 0];
                bytes.extend(total_length);
                bytes.extend([0x12, 0x34, fragment[0], fragment[1], 64, protocol(next), 0xab, 0xcd]);
                bytes.extend(source);
                bytes.extend(destination);
                // No-operation options.
                bytes.resize(length, 1);
                bytes
            }
            Self::Ipv6 { source, destination } => {
                let is_jumbo = matches!(next, Some(Self::Jumbo));
                let length = if is_jumbo { 0 } else { u16::try_from(behind).unwrap_or(0) };
                let mut bytes = vec![0x6a, 0xbc, 0xde, 0xf0];
                bytes.extend(length.to_be_bytes());
                bytes.extend([protocol(next), 64]);
                bytes.extend(source);
                bytes.extend(destination);
                bytes
            }
            Self::HopByHop { more } | Self::Routing { more } | Self::DestinationOptions { more } => {
                let mut bytes = vec![protocol(next), more, 1, 4];
                bytes.resize(8 + 8 * usize::from(more), 0);
                bytes
            }
            Self::Jumbo => {
                let length = (behind as u32 + 8).to_be_bytes();
                [&[protocol(next), 0, 0xc2, 4], &length[..]].concat()
            }
            Self::Fragment { field } => {
                let field = field.to_be_bytes();
                // The second byte is reserved, not a length.
                vec![protocol(next), 7, field[0], field[1], 1, 2, 3, 4]
            }
            Self::Authentication { check_words } => {
                let mut bytes = vec![protocol(next), 1 + check_words];
                bytes.resize(12 + 4 * usize::from(check_words), 0x33);
                bytes
            }
            Self::Udp { port } => {
                let length = u16::try_from(8 + behind).unwrap_or(0).to_be_bytes();
                [49152_u16.to_be_bytes(), port.to_be_bytes(), length, [0, 0]].concat()
            }
            Self::Vxlan => vec![8, 0, 0, 0, 0, 0, 42, 0],
            Self::Geneve { option_words } => {
                let carries =
                    if matches!(next, Some(Self::Ethernet)) { [0x65, 0x58] } else { ethertype(next) };
                // The bit beside the length says that there are critical options.
                let mut bytes = vec![option_words, 0x40, carries[0], carries[1], 0, 0, 42, 0];
                bytes.resize(8 + 4 * usize::from(option_words), 0x77);
                bytes
            }
            Self::Tcp { source_port, destination_port, flags, option_words } => {
                let length = 20 + 4 * usize::from(option_words);
                let mut bytes = [source_port.to_be_bytes(), destination_port.to_be_bytes()].concat();
                bytes.extend(SEQUENCE.to_be_bytes());
                bytes.extend([5, 6, 7, 8]);
                // The low bits of the first byte do not belong to the length.
                bytes.extend([(5 + option_words) << 4 | 0x01, flags, 0xff, 0xff, 0, 0, 0, 0]);
                bytes.resize(length, 1);
                bytes
            }
            Self::RestOf(_) => Vec::new(),
        }
    }
}

fn ethertype(next: Option<&Header>) -> [u8; 2] {
    match next {
        Some(Header::Tag(ethertype)) => ethertype.to_be_bytes(),
        Some(Header::Ipv4 { .. }) => [0x08, 0x00],
        Some(Header::Ipv6 { .. }) => [0x86, 0xdd],
        // ARP
        _ => [0x08, 0x06],
    }
}

fn protocol(next: Option<&Header>) -> u8 {
    match next {
        Some(Header::HopByHop { .. } | Header::Jumbo) => 0,
        Some(Header::Tcp { .. }) => TCP,
        Some(Header::Udp { .. }) => UDP,
        Some(Header::Routing { .. }) => 43,
        Some(Header::Fragment { .. }) => 44,
        Some(Header::Authentication { .. }) => 51,
        Some(Header::DestinationOptions { .. }) => 60,
        Some(Header::RestOf(protocol)) => *protocol,
        // ICMP
        _ => 1,
    }
}
