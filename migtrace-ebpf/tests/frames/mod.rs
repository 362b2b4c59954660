//! Frames built header by header, and what becomes of them on the wire: the truth that the packet walk is held to.
//!
//! Nothing here walks headers or divides: [`Packet::cut`] makes the frames that leave the host, and they are
//! measured with a ruler.

use std::fmt;

use migtrace_ebpf::packet::Metadata;

/// A header; what depends on its neighbours (lengths, next protocols) is filled in when the frame is built.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Header {
    Ethernet,
    /// A VLAN tag among the bytes, with its EtherType.
    Tag(u16),
    Ipv4 {
        source: [u8; 4],
        destination: [u8; 4],
        option_words: u8,
        /// The flags and the offset, as they are in the header.
        fragment: u16,
    },
    Ipv6 {
        source: [u8; 16],
        destination: [u8; 16],
    },
    /// Eight bytes and eight times `more`.
    HopByHop {
        more: u8,
    },
    /// The hop-by-hop header of a packet of more than 64 KiB (RFC 2675).
    Jumbo,
    Routing {
        more: u8,
    },
    DestinationOptions {
        more: u8,
    },
    Fragment {
        /// The offset and the flags, as they are in the header.
        field: u16,
    },
    /// Twelve bytes and four times `check_words`.
    Authentication {
        check_words: u8,
    },
    Udp {
        port: u16,
    },
    Vxlan,
    Geneve {
        option_words: u8,
    },
    Tcp {
        source_port: u16,
        destination_port: u16,
        flags: u8,
        option_words: u8,
    },
    /// No bytes: what follows belongs to this protocol, whose header was in an earlier fragment.
    RestOf(u8),
}

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

pub(crate) const SOURCE: [u8; 4] = [10, 0, 0, 1];
pub(crate) const DESTINATION: [u8; 4] = [10, 0, 0, 2];
pub(crate) const SOURCE_6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5];
pub(crate) const DESTINATION_6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 6, 0, 7, 0, 8, 0, 9, 0, 10];

pub(crate) const fn ipv4() -> Header {
    Header::Ipv4 { source: SOURCE, destination: DESTINATION, option_words: 0, fragment: 0 }
}

pub(crate) const fn ipv6() -> Header {
    Header::Ipv6 { source: SOURCE_6, destination: DESTINATION_6 }
}

/// The host's own address pair, around a tunnel.
pub(crate) const fn outer_ipv4() -> Header {
    Header::Ipv4 { source: [192, 0, 2, 1], destination: [192, 0, 2, 2], option_words: 0, fragment: 0 }
}

/// As [`outer_ipv4`].
pub(crate) const fn outer_ipv6() -> Header {
    Header::Ipv6 { source: [0x20; 16], destination: [0x21; 16] }
}

/// A header with time stamps among its options, as Linux sends it.
/// Sequence number of every TCP packet.
pub(crate) const SEQUENCE: u32 = 0x0102_0304;

pub(crate) const fn tcp(source_port: u16, destination_port: u16) -> Header {
    Header::Tcp { source_port, destination_port, flags: 0x10, option_words: 3 }
}

/// What a socket buffer holds, and what the kernel knows besides.
#[derive(Clone)]
pub(crate) struct Packet {
    pub(crate) headers: Vec<Header>,
    pub(crate) payload: Vec<u8>,
    /// Payload bytes of a segment, when the buffer is to be cut.
    pub(crate) segment_size: Option<usize>,
    /// Whether a VLAN tag is held beside the bytes.
    pub(crate) accelerated_tag: bool,
    /// Zeros behind the packet, as devices append them to short frames.
    pub(crate) padding: usize,
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { headers, payload, segment_size, accelerated_tag, padding } = self;
        write!(f, "{headers:?}, {} bytes of payload cut at {segment_size:?}, ", payload.len())?;
        write!(f, "{padding} of padding, accelerated tag: {accelerated_tag}")
    }
}

/// What a packet costs, measured on the frames that it becomes.
#[derive(Debug, PartialEq)]
pub(crate) struct Truth {
    pub(crate) wire_bytes: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) segments: u64,
}

impl Packet {
    pub(crate) fn new(headers: impl Into<Vec<Header>>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            headers: headers.into(),
            payload: payload.into(),
            segment_size: None,
            accelerated_tag: false,
            padding: 0,
        }
    }

    pub(crate) fn cut_at(self, segment_size: usize) -> Self {
        Self { segment_size: Some(segment_size), ..self }
    }

    pub(crate) fn padded(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// The socket buffer's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = build(&self.headers, &self.payload);
        bytes.resize(bytes.len() + self.padding, 0);
        bytes
    }

    pub(crate) fn metadata(&self) -> Metadata {
        Metadata {
            length: self.bytes().len() as u32,
            gso_size: self.segment_size.unwrap_or(0) as u32,
            vlan_present: u32::from(self.accelerated_tag),
        }
    }

    /// The frames that leave the host, with the payload bytes in each.
    pub(crate) fn cut(&self) -> Vec<(Vec<u8>, usize)> {
        let mut headers = self.headers.clone();
        let pieces: Vec<&[u8]> = match self.segment_size {
            Some(size) => {
                // A segment is small enough to do without; `ipv6_gso_segment` takes it out.
                headers.retain(|header| !matches!(header, Header::Jumbo));
                self.payload.chunks(size).collect()
            }
            None => vec![&self.payload],
        };
        // A SYN, an ACK or a FIN is a frame without payload.
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

    pub(crate) fn truth(&self) -> Truth {
        let frames = self.cut();
        Truth {
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
    fn bytes(self, next: Option<&Self>, behind: usize) -> Vec<u8> {
        match self {
            Self::Ethernet => [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &ethertype(next)[..]].concat(),
            // Priority 5, VLAN 100.
            Self::Tag(_) => [&[0xa0, 100], &ethertype(next)[..]].concat(),
            Self::Ipv4 { source, destination, option_words, fragment } => {
                let length = 20 + 4 * usize::from(option_words);
                // Linux leaves it 0 when it does not fit (BIG TCP).
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
                // The second byte is reserved, and no length.
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
                // The low bits of the first byte are no part of the length.
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
