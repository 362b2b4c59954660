//! Walks a frame like the kernel programs, and compares the result with what another parser finds.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv6Addr};

use etherparse::{LinkExtSlice, NetSlice, SlicedPacket, TcpSlice, TransportSlice};
use migtrace_ebpf::abi::shared;
use migtrace_ebpf::handshake::HandshakeStep;
use migtrace_ebpf::packet::{self, Frame, Metadata, Packet, Tcp, Wanted, announcement, echo, encapsulation};
use migtrace_ebpf::stream;

/// How many bytes of an input describe the frame, which follows them.
const FRONT: usize = 6;
/// How many VLAN tags, and how many extension headers, the walk follows.
const TAGS: usize = 2;
const EXTENSIONS: usize = 6;
/// How the jumbo header of BIG TCP begins, which never reaches the wire, and how long it is.
const JUMBO_HEADER: [u8; 3] = [6, 0, 0xc2];
const JUMBO: u64 = 8;
const TAG: u64 = 4;

/// A frame, and what the kernel would know about it besides.
struct Input<'a> {
    bytes: &'a [u8],
    metadata: Metadata,
    encapsulations: u32,
}

impl<'a> Input<'a> {
    /// Reads the size of segments, the encapsulations and the tag, how much longer the buffer is than the frame's bytes, and
    /// these bytes.
    fn new(input: &'a [u8]) -> Option<Self> {
        let (&[gso_low, gso_high, set, _, more_low, more_high], bytes) =
            input.split_first_chunk::<FRONT>()?;
        let more = u32::from(u16::from_le_bytes([more_low, more_high]));
        let metadata = Metadata {
            length: u32::try_from(bytes.len()).ok()? + more,
            gso_size: u32::from(u16::from_le_bytes([gso_low, gso_high])),
            vlan_present: u32::from(set >> 2 & 1),
        };
        Some(Self { bytes, metadata, encapsulations: u32::from(set & 3) })
    }
}

impl Frame for Input<'_> {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.bytes.get(offset as usize..)?.first_chunk().copied()
    }

    fn metadata(&self) -> Metadata {
        self.metadata
    }
}

/// Walks the frame of an input.
///
/// # Errors
/// When the walk disagrees with its short form or with the other parser, or does not count exactly the bytes of the frames
/// into which the packet is cut.
pub fn check(input: &[u8]) -> Result<(), String> {
    let Some(input) = Input::new(input) else { return Ok(()) };
    let wanted = Wanted { encapsulations: input.encapsulations, ports: |_, _| true };
    let found = packet::parse(&input, &wanted);
    if let Some(plain) = packet::parse_plain(&input, &wanted) {
        same("the short walk", plain, found)?;
    }
    if let Packet::Tcp(tcp) | Packet::Fragment(tcp) = &found {
        is_counted_as_it_is_cut(tcp, &input)?;
        is_taken_in(tcp);
    }
    if let Some((theirs, tagged)) = tcp_in(input.bytes, input.encapsulations) {
        let Packet::Tcp(ours) = found else { return Err(format!("{theirs:?} is mistaken for {found:?}")) };
        is_what_they_found(&ours, &theirs, &input)?;
        same("a tag", ours.tagged != 0, tagged || input.metadata.vlan_present != 0)?;
    }
    let announced = announcement::parse(&input);
    if let announcement::PlainAnnouncement::Known(plain) = announcement::parse_plain(&input) {
        same("the short look for an announcement", plain, announced)?;
    }
    match echo::parse_plain(&input) {
        echo::PlainEcho::Echo(plain) => same("the short look for an echo", Some(plain), echo::parse(&input)),
        echo::PlainEcho::Other => same("the short look for an echo", None, echo::parse(&input)),
        echo::PlainEcho::Unknown => Ok(()),
    }
}

fn same<T: Debug + PartialEq>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?} and not {expected:?}")) }
}

/// Cuts the packet, and adds up the frames.
fn is_counted_as_it_is_cut(tcp: &Tcp, input: &Input<'_>) -> Result<(), String> {
    let metadata = input.metadata;
    let (length, headers) = (u64::from(metadata.length), u64::from(tcp.payload_offset));
    let payload = u64::from(tcp.payload_bytes);
    let tag = if metadata.vlan_present == 0 { 0 } else { TAG };
    if metadata.gso_size == 0 {
        return same("one frame", (u64::from(tcp.segments), tcp.wire_bytes), (1, length + tag));
    }
    if headers > length {
        return same("payload after the end", (payload, tcp.segments), (0, 1));
    }
    same("payload", payload, length - headers)?;
    let size = u64::from(metadata.gso_size);
    let pieces = (0..payload.max(1)).step_by(metadata.gso_size as usize);
    let cut = |headers: u64| {
        let frames = pieces.clone().map(|at| headers + size.min(payload - at) + tag);
        frames.fold((0, 0), |(number, bytes), frame| (number + 1, bytes + frame))
    };
    let counted = (u64::from(tcp.segments), tcp.wire_bytes);
    let may_have_jumbo = input.bytes.windows(3).any(|bytes| bytes == JUMBO_HEADER);
    if may_have_jumbo && counted == cut(headers - JUMBO) {
        Ok(())
    } else {
        same("frames", counted, cut(headers))
    }
}

/// Whatever is in a packet, the arithmetic after the walk takes it in without a panic.
fn is_taken_in(tcp: &Tcp) {
    let (direction, handshake) = (shared::Direction::default(), shared::Handshake::default());
    for direction_of_packet in [0, 1] {
        match HandshakeStep::of(tcp) {
            HandshakeStep::Syn => handshake.begin(direction_of_packet, tcp, 1, 1),
            HandshakeStep::Answer => _ = handshake.answer(direction_of_packet, tcp, 1, 1),
            HandshakeStep::Other => _ = handshake.is_completed_by(direction_of_packet, tcp),
        }
    }
    direction.start(1, 4, 1);
    direction.count(tcp, 2);
    let is_new = direction.advance(tcp, 2);
    direction.note(stream::flags_of(tcp), is_new);
}

/// The TCP segment that the other parser finds in a whole frame, and whether there is a VLAN tag before it. `None` also where
/// the two follow different headers.
fn tcp_in(frame: &[u8], encapsulations: u32) -> Option<(Found<'_>, bool)> {
    let (outer, tagged) = sliced(frame)?;
    let TransportSlice::Udp(udp) = &outer.transport.clone()? else {
        return Some((Found::of(&outer, frame)?, tagged));
    };
    let tunnel = udp.payload();
    let header = match udp.destination_port() {
        4789 | 8472 if encapsulations & encapsulation::VXLAN != 0 => 8,
        6081 if encapsulations & encapsulation::GENEVE != 0 && tunnel.get(2..4)? == [0x65, 0x58] => {
            8 + 4 * usize::from(tunnel.first()? & 0x3f)
        }
        _ => return None,
    };
    let (inner, inner_tagged) = sliced(tunnel.get(header..)?)?;
    Some((Found::of(&inner, frame)?, tagged || inner_tagged))
}

/// What the other parser finds in a frame, and whether there is a VLAN tag in it. `None` where the walk does not follow the
/// same headers.
fn sliced(frame: &[u8]) -> Option<(SlicedPacket<'_>, bool)> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let is_vlan = |extension: &LinkExtSlice<'_>| matches!(extension, LinkExtSlice::Vlan(_));
    let is_old = frame.windows(2).take(24).any(|bytes| bytes == [0x91, 0]);
    let is_followed = match sliced.net.as_ref()? {
        NetSlice::Ipv4(ip) => ip.extensions().is_empty(),
        NetSlice::Ipv6(ip) => ip.extensions().clone().into_iter().count() <= EXTENSIONS,
        NetSlice::Arp(_) => false,
    };
    let tags = &sliced.link_exts;
    let is_followed = is_followed && !is_old && tags.len() <= TAGS && tags.iter().all(is_vlan);
    let tagged = !tags.is_empty();
    is_followed.then_some((sliced, tagged))
}

/// A TCP segment, as the other parser finds it.
#[derive(Debug)]
struct Found<'a> {
    source: IpAddr,
    destination: IpAddr,
    tcp: TcpSlice<'a>,
    /// Where its payload begins.
    payload_offset: usize,
}

impl<'a> Found<'a> {
    fn of(sliced: &SlicedPacket<'a>, frame: &'a [u8]) -> Option<Self> {
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport.clone() else { return None };
        let (source, destination) = match sliced.net.as_ref()? {
            NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Arp(_) => return None,
        };
        let payload_offset = tcp.payload().as_ptr().addr() - frame.as_ptr().addr();
        Some(Self { source, destination, tcp, payload_offset })
    }
}

fn is_what_they_found(ours: &Tcp, theirs: &Found<'_>, input: &Input<'_>) -> Result<(), String> {
    let tcp = &theirs.tcp;
    let (source, destination) = (theirs.source.to_canonical(), theirs.destination.to_canonical());
    same("source", (address(ours.tuple.source), ours.tuple.source_port), (source, tcp.source_port()))?;
    let ours_destination = (address(ours.tuple.destination), ours.tuple.destination_port);
    same("destination", ours_destination, (destination, tcp.destination_port()))?;
    same(
        "numbers",
        (ours.sequence, ours.acknowledgement),
        (tcp.sequence_number(), tcp.acknowledgment_number()),
    )?;
    same("flags", ours.tcp_flags, tcp.header_slice()[13])?;
    same("the payload's offset", ours.payload_offset as usize, theirs.payload_offset)?;
    let is_whole = input.metadata.gso_size == 0 && input.metadata.length as usize == input.bytes.len();
    // In a tunnel the other parser also uses the outer lengths, if the inner packet does not say how long it is.
    if !is_whole || ours.tunnelled != 0 {
        return Ok(());
    }
    same("payload", ours.payload_bytes as usize, tcp.payload().len())
}

/// An address; IPv4 in its own form, even if it came mapped.
fn address(words: [u32; 4]) -> IpAddr {
    let octets: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    let octets: [u8; 16] = octets.try_into().expect("four words");
    Ipv6Addr::from(octets).to_canonical()
}
