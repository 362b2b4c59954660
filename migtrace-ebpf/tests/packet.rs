//! The packet walk against frames that are really cut: whatever a packet looks like, what is counted is what
//! crosses the wire.

mod frames;

use std::cell::Cell;

use frames::{DESTINATION, DESTINATION_6, Header, Packet, SOURCE, SOURCE_6, Truth, UDP};
use frames::{ipv4, ipv6, outer_ipv4, outer_ipv6, tcp};
use migtrace_ebpf::packet::{self, Frame, Metadata, Tcp, Wanted, encapsulation};
use proptest::collection::vec;
use proptest::prelude::*;

const BOTH: u32 = encapsulation::VXLAN | encapsulation::GENEVE;

/// Bytes, what the kernel would know of them, and how often more were asked for.
struct Buffer<'a> {
    bytes: &'a [u8],
    metadata: Metadata,
    refused: Cell<u32>,
}

impl<'a> Buffer<'a> {
    fn new(bytes: &'a [u8], metadata: Metadata) -> Self {
        Self { bytes, metadata, refused: Cell::new(0) }
    }

    fn parse(&self, encapsulations: u32) -> packet::Packet {
        packet::parse(self, &any_ports(encapsulations))
    }

    fn parse_plain(&self, encapsulations: u32) -> Option<packet::Packet> {
        packet::parse_plain(self, &any_ports(encapsulations))
    }
}

impl Frame for Buffer<'_> {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let read = self.bytes.get(offset as usize..).and_then(|rest| rest.first_chunk());
        self.refused.set(self.refused.get() + u32::from(read.is_none()));
        read.copied()
    }

    fn metadata(&self) -> Metadata {
        self.metadata
    }
}

fn any_ports(encapsulations: u32) -> Wanted<impl Fn(u16, u16) -> bool> {
    Wanted { encapsulations, ports: |_, _| true }
}

fn parse(packet: &Packet) -> packet::Packet {
    Buffer::new(&packet.bytes(), packet.metadata()).parse(BOTH)
}

fn header_bytes(packet: &Packet) -> usize {
    packet.bytes().len() - packet.payload.len() - packet.padding
}

/// What is found in a packet that is TCP with ports.
fn tcp_in(packet: &Packet) -> Tcp {
    match parse(packet) {
        packet::Packet::Tcp(tcp) => tcp,
        other => panic!("{other:?} in {:?}", packet.headers),
    }
}

fn fragment_in(packet: &Packet) -> Tcp {
    match parse(packet) {
        packet::Packet::Fragment(fragment) => fragment,
        other => panic!("{other:?} in {:?}", packet.headers),
    }
}

fn counted(tcp: &Tcp) -> Truth {
    Truth {
        wire_bytes: tcp.wire_bytes,
        payload_bytes: u64::from(tcp.payload_bytes),
        segments: u64::from(tcp.segments),
    }
}

/// Asserts that a packet is counted as what it becomes, and gives what was found.
#[track_caller]
fn counts_as_it_is_cut(packet: &Packet) -> Tcp {
    let tcp = tcp_in(packet);
    assert_eq!(counted(&tcp), packet.truth(), "{:?}", packet.headers);
    assert_eq!(tcp.payload_offset as usize, header_bytes(packet));
    tcp
}

#[test]
fn three_segments_cost_three_copies_of_the_headers() {
    let packet = Packet::new([Header::Ethernet, ipv4(), tcp(40000, 49152)], vec![0; 3000]).cut_at(1448);
    let tcp = counts_as_it_is_cut(&packet);
    // By hand, so that the ruler is measured too: 14 + 20 + 32 bytes of headers.
    assert_eq!(counted(&tcp), Truth { wire_bytes: 3 * 66 + 3000, payload_bytes: 3000, segments: 3 });
    assert_eq!((tcp.tuple.source_port, tcp.tuple.destination_port), (40000, 49152));
    assert_eq!(tcp.tuple.source, [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(SOURCE)]);
    assert_eq!(tcp.tuple.destination, [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(DESTINATION)]);
    assert_eq!(tcp.tagged, 0);
}

#[test]
fn the_last_segment_may_be_full_or_a_single_byte() {
    for payload in [1448, 2896, 2897, 1, 1447] {
        let headers = [Header::Ethernet, ipv4(), tcp(40000, 49152)];
        counts_as_it_is_cut(&Packet::new(headers, vec![0; payload]).cut_at(1448));
    }
}

#[test]
fn a_packet_without_payload_is_one_frame_even_with_a_segment_size() {
    let packet = Packet::new([Header::Ethernet, ipv4(), tcp(40000, 49152)], []).cut_at(1448);
    assert_eq!(counts_as_it_is_cut(&packet).segments, 1);
}

#[test]
fn an_accelerated_tag_is_on_every_segment_but_not_in_the_length() {
    let mut packet = Packet::new([Header::Ethernet, ipv4(), tcp(40000, 49152)], vec![0; 14480]).cut_at(1448);
    packet.accelerated_tag = true;
    let tcp = counts_as_it_is_cut(&packet);
    assert_eq!(tcp.wire_bytes, 10 * (66 + 4) + 14480);
    assert_eq!(tcp.tagged, 1);
}

#[test]
fn both_tags_of_qinq_are_on_every_segment() {
    let tags = [Header::Ethernet, Header::Tag(0x88a8), Header::Tag(0x8100), ipv4(), tcp(40000, 49152)];
    let mut packet = Packet::new(tags, vec![0; 14480]).cut_at(1448);
    assert_eq!(counts_as_it_is_cut(&packet).tagged, 1);
    packet.accelerated_tag = true;
    counts_as_it_is_cut(&packet);
}

#[test]
fn the_addresses_of_ipv6_are_found_behind_its_extension_headers() {
    let headers = [
        Header::Ethernet,
        ipv6(),
        Header::HopByHop { more: 2 },
        Header::Routing { more: 1 },
        Header::Authentication { check_words: 3 },
        Header::DestinationOptions { more: 0 },
        tcp(40000, 49152),
    ];
    let tcp = counts_as_it_is_cut(&Packet::new(headers, vec![0; 5000]).cut_at(1000));
    assert_eq!(tcp.tuple.source.map(u32::to_ne_bytes).concat(), SOURCE_6);
    assert_eq!(tcp.tuple.destination.map(u32::to_ne_bytes).concat(), DESTINATION_6);
    assert_eq!((tcp.tuple.source_port, tcp.tuple.destination_port), (40000, 49152));
}

#[test]
fn big_tcp_is_counted_from_the_buffer_where_ip_does_not_know_the_length() {
    counts_as_it_is_cut(&Packet::new([Header::Ethernet, ipv4(), tcp(1, 2)], vec![0; 200_000]).cut_at(1448));
    counts_as_it_is_cut(&Packet::new([Header::Ethernet, ipv6(), tcp(1, 2)], vec![0; 200_000]).cut_at(1428));
}

#[test]
fn the_jumbo_header_of_big_tcp_never_reaches_the_wire() {
    let headers = [Header::Ethernet, ipv6(), Header::Jumbo, tcp(1, 2)];
    let packet = Packet::new(headers, vec![0; 200_000]).cut_at(1428);
    let tcp = counts_as_it_is_cut(&packet);
    assert_eq!(tcp.wire_bytes, 141 * (14 + 40 + 32) + 200_000);
}

#[test]
fn the_jumbo_header_of_a_packet_that_is_not_cut_stays() {
    let headers = [Header::Ethernet, ipv6(), Header::Jumbo, tcp(1, 2)];
    counts_as_it_is_cut(&Packet::new(headers, vec![0; 70_000]));
}

#[test]
fn padding_is_on_the_wire_but_no_payload() {
    let headers = [
        Header::Ethernet,
        ipv4(),
        Header::Tcp { source_port: 1, destination_port: 2, flags: 0x10, option_words: 0 },
    ];
    let tcp = counts_as_it_is_cut(&Packet::new(headers, []).padded(6));
    assert_eq!((tcp.wire_bytes, tcp.payload_bytes), (60, 0));
}

#[test]
fn tunnels_are_looked_into_only_when_asked_for() {
    let inside = [Header::Ethernet, ipv4(), tcp(40000, 49152)];
    let vxlan = [&[Header::Ethernet, outer_ipv4(), Header::Udp { port: 4789 }, Header::Vxlan], &inside[..]];
    let geneve = [
        &[Header::Ethernet, outer_ipv6(), Header::Udp { port: 6081 }, Header::Geneve { option_words: 5 }],
        &inside[..],
    ];
    for (packet, wanted, other) in [
        (vxlan.concat(), encapsulation::VXLAN, encapsulation::GENEVE),
        (geneve.concat(), encapsulation::GENEVE, encapsulation::VXLAN),
    ] {
        let packet = Packet::new(packet, vec![0; 5000]).cut_at(1000);
        let tcp = counts_as_it_is_cut(&packet);
        assert_eq!(tcp.tuple.source, [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(SOURCE)]);
        let bytes = packet.bytes();
        assert_eq!(Buffer::new(&bytes, packet.metadata()).parse(wanted), packet::Packet::Tcp(tcp));
        for not_asked in [other, encapsulation::NONE] {
            assert_eq!(Buffer::new(&bytes, packet.metadata()).parse(not_asked), packet::Packet::Other);
        }
    }
}

#[test]
fn only_what_is_a_tunnel_with_ethernet_in_it_is_looked_into() {
    let inside = [Header::Ethernet, ipv4(), tcp(40000, 49152)];
    let other_port =
        [&[Header::Ethernet, outer_ipv4(), Header::Udp { port: 4790 }, Header::Vxlan], &inside[..]];
    let no_ethernet = [
        &[Header::Ethernet, outer_ipv4(), Header::Udp { port: 6081 }, Header::Geneve { option_words: 0 }],
        &inside[1..],
    ];
    let vxlan = [Header::Udp { port: 4789 }, Header::Vxlan];
    let twice = [&[Header::Ethernet, outer_ipv4()], &vxlan[..], &[Header::Ethernet, ipv4()], &vxlan, &inside];
    for headers in [other_port.concat(), no_ethernet.concat(), twice.concat()] {
        assert_eq!(parse(&Packet::new(headers, [0; 100])), packet::Packet::Other);
    }
}

#[test]
fn geneve_that_says_that_it_carries_no_ethernet_is_believed() {
    let headers = [
        Header::Ethernet,
        outer_ipv4(),
        Header::Udp { port: 6081 },
        Header::Geneve { option_words: 0 },
        Header::Ethernet,
        ipv4(),
        tcp(40000, 49152),
    ];
    let packet = Packet::new(headers, [0; 100]);
    counts_as_it_is_cut(&packet);
    let mut bytes = packet.bytes();
    let protocol_type = 14 + 20 + 8 + 2;
    assert_eq!(bytes[protocol_type..][..2], [0x65, 0x58]);
    bytes[protocol_type] = 0x66;
    assert_eq!(Buffer::new(&bytes, packet.metadata()).parse(BOTH), packet::Packet::Other);
}

#[test]
fn a_first_fragment_has_ports_and_a_later_one_only_addresses() {
    const MORE: u16 = 0x2000;
    let v4 = |fragment| Header::Ipv4 { source: SOURCE, destination: DESTINATION, option_words: 2, fragment };
    let first = Packet::new([Header::Ethernet, v4(MORE), tcp(40000, 49152)], [0; 800]);
    assert_eq!(counts_as_it_is_cut(&first).tuple.destination_port, 49152);

    let last = Packet::new([Header::Ethernet, v4(100), Header::RestOf(frames::TCP)], [0; 300]);
    let fragment = fragment_in(&last);
    assert_eq!(counted(&fragment), last.truth());
    assert_eq!((fragment.tuple.source_port, fragment.tuple.destination_port), (0, 0));
    assert_eq!(fragment.tuple.source, [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(SOURCE)]);
    assert_eq!(fragment.tcp_flags, 0);

    let v6 = |field| Header::Fragment { field };
    let first = Packet::new([Header::Ethernet, ipv6(), v6(1), tcp(40000, 49152)], [0; 800]);
    assert_eq!(counts_as_it_is_cut(&first).tuple.destination_port, 49152);
    for field in [8, 9, 0xfff8] {
        let headers = [Header::Ethernet, ipv6(), v6(field), Header::RestOf(frames::TCP)];
        let later = Packet::new(headers, [0; 300]);
        assert_eq!(counted(&fragment_in(&later)), later.truth());
    }

    let udp = Packet::new([Header::Ethernet, v4(100), Header::RestOf(UDP)], [0; 300]);
    assert_eq!(parse(&udp), packet::Packet::Other);
}

#[test]
fn impossible_header_lengths_are_not_believed() {
    let packet = Packet::new([Header::Ethernet, ipv4(), tcp(40000, 49152)], [0; 100]);
    for (offset, value) in [(14, 0x44), (14, 0x40), (14, 0x55), (46, 0x40), (46, 0x00)] {
        let mut bytes = packet.bytes();
        bytes[offset] = value;
        assert_eq!(Buffer::new(&bytes, packet.metadata()).parse(BOTH), packet::Packet::Other, "{offset}");
    }
}

#[test]
fn more_headers_than_are_walked_end_the_walk() {
    let mut headers = vec![Header::Ethernet, ipv6()];
    headers.extend([Header::DestinationOptions { more: 0 }; 6]);
    headers.push(tcp(1, 2));
    counts_as_it_is_cut(&Packet::new(headers.clone(), [0; 100]));
    headers.insert(2, Header::DestinationOptions { more: 0 });
    assert_eq!(parse(&Packet::new(headers, [0; 100])), packet::Packet::Other);

    let tags = [Header::Tag(0x88a8); 3];
    let headers = [&[Header::Ethernet], &tags[..], &[ipv4(), tcp(1, 2)]].concat();
    assert_eq!(parse(&Packet::new(headers, [0; 100])), packet::Packet::Other);
}

fn option_words() -> impl Strategy<Value = u8> {
    0..=10_u8
}

fn any_ipv4() -> impl Strategy<Value = Vec<Header>> {
    // The reserved flag, "don't fragment" and "more fragments" change nothing.
    (option_words(), 0..8_u16).prop_map(|(option_words, flags)| {
        let fragment = flags << 13;
        vec![Header::Ipv4 { source: SOURCE, destination: DESTINATION, option_words, fragment }]
    })
}

fn any_ipv6() -> impl Strategy<Value = Vec<Header>> {
    let extension = prop_oneof![
        (0..4_u8).prop_map(|more| Header::HopByHop { more }),
        (0..4_u8).prop_map(|more| Header::Routing { more }),
        (0..4_u8).prop_map(|more| Header::DestinationOptions { more }),
        (0..9_u8).prop_map(|check_words| Header::Authentication { check_words }),
        (0..8_u16).prop_map(|field| Header::Fragment { field }),
    ];
    vec(extension, 0..=6).prop_map(|extensions| [vec![ipv6()], extensions].concat())
}

fn any_link() -> impl Strategy<Value = Vec<Header>> {
    vec(prop_oneof![Just(Header::Tag(0x8100)), Just(Header::Tag(0x88a8))], 0..=2)
        .prop_map(|tags| [vec![Header::Ethernet], tags].concat())
}

fn any_tunnel() -> impl Strategy<Value = Vec<Header>> {
    let outer = prop_oneof![Just(outer_ipv4()), Just(outer_ipv6())];
    let vxlan =
        prop_oneof![Just(4789), Just(8472)].prop_map(|port| vec![Header::Udp { port }, Header::Vxlan]);
    let geneve =
        (0..64_u8).prop_map(|option_words| vec![Header::Udp { port: 6081 }, Header::Geneve { option_words }]);
    let tunnel = (any_link(), outer, prop_oneof![vxlan, geneve])
        .prop_map(|(link, outer, tunnel)| [link, vec![outer], tunnel].concat());
    prop_oneof![3 => Just(Vec::new()), 1 => tunnel]
}

fn any_tcp() -> impl Strategy<Value = Header> {
    (any::<u16>(), any::<u16>(), any::<u8>(), option_words()).prop_map(
        |(source_port, destination_port, flags, option_words)| Header::Tcp {
            source_port,
            destination_port,
            flags,
            option_words,
        },
    )
}

/// Payload and segment size; the interpreter that looks for undefined behaviour is slow.
fn any_payload() -> impl Strategy<Value = (usize, Option<usize>)> {
    let most: usize = if cfg!(miri) { 600 } else { 200_000 };
    let length = prop_oneof![Just(0), 0..600_usize, 0..=most];
    (length, proptest::option::weighted(0.7, 48..9000_usize))
}

/// Any packet in which a TCP header can be found.
fn any_packet() -> impl Strategy<Value = Packet> {
    let ip = prop_oneof![any_ipv4(), any_ipv6()];
    (any_tunnel(), any_link(), ip, any_tcp(), any_payload(), any::<bool>(), 0..47_usize).prop_map(
        |(tunnel, link, mut ip, tcp, (payload, segment_size), accelerated_tag, padding)| {
            if matches!(ip[..], [Header::Ipv6 { .. }]) && payload > 65_000 {
                ip.push(Header::Jumbo);
            }
            Packet {
                headers: [tunnel, link, ip, vec![tcp]].concat(),
                payload: vec![0x5a; payload],
                segment_size,
                accelerated_tag,
                // Only a frame that arrives alone is padded, and only where IP tells the end.
                padding: if segment_size.is_none() && payload < 46 { padding } else { 0 },
            }
        },
    )
}

/// Any bytes, more often than not with a beginning that leads the walk somewhere.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let bent = (any_packet(), vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)).prop_map(
        |(packet, changes)| {
            let mut bytes = packet.bytes();
            bytes.truncate(header_bytes(&packet) + 8);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes
        },
    );
    prop_oneof![vec(any::<u8>(), 0..300), bent]
}

fn any_metadata() -> impl Strategy<Value = Metadata> {
    let number = || prop_oneof![0..3000_u32, any::<u32>()];
    (number(), number(), 0..2_u32).prop_map(|(length, gso_size, vlan_present)| Metadata {
        length,
        gso_size,
        vlan_present,
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 8 } else { 512 },
        // A failure is reported with its shrunken input; Miri has no directory to keep it in.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_packet_is_counted_as_it_is_cut(packet in any_packet()) {
        let tcp = counts_as_it_is_cut(&packet);
        let Some(Header::Tcp { source_port, destination_port, flags, .. }) = packet.headers.last().copied() else {
            unreachable!("every packet ends with its TCP header");
        };
        prop_assert_eq!((tcp.tuple.source_port, tcp.tuple.destination_port), (source_port, destination_port));
        prop_assert_eq!(tcp.tcp_flags, flags);
        prop_assert_eq!(tcp.sequence, frames::SEQUENCE);
        let has_tag = packet.headers.iter().any(|header| matches!(header, Header::Tag(_)));
        prop_assert_eq!(tcp.tagged != 0, has_tag || packet.accelerated_tag);
    }

    #[test]
    fn a_packet_counts_like_the_frames_that_it_becomes_one_by_one(mut packet in any_packet()) {
        // An accelerated tag and two more are three among the bytes: not walked.
        packet.accelerated_tag = false;
        let whole = tcp_in(&packet);
        let mut sum = Truth { wire_bytes: 0, payload_bytes: 0, segments: 0 };
        for (frame, _) in packet.cut() {
            let metadata = Metadata { length: frame.len() as u32, ..Metadata::default() };
            let packet::Packet::Tcp(tcp) = Buffer::new(&frame, metadata).parse(BOTH) else {
                panic!("a frame of {:?} is no TCP", packet.headers);
            };
            prop_assert_eq!(tcp.tuple, whole.tuple);
            let frame = counted(&tcp);
            sum.wire_bytes += frame.wire_bytes;
            sum.payload_bytes += frame.payload_bytes;
            sum.segments += frame.segments;
        }
        prop_assert_eq!(sum, counted(&whole));
    }

    #[test]
    fn the_short_walk_agrees_with_the_long_one_or_passes(packet in any_packet(), tunnels in 0..4_u32) {
        let bytes = packet.bytes();
        let long = Buffer::new(&bytes, packet.metadata()).parse(tunnels);
        let short = Buffer::new(&bytes, packet.metadata()).parse_plain(tunnels);
        prop_assert!(short.is_none_or(|short| short == long), "{short:?} but {long:?}");
        let behind_link = match &packet.headers[..] {
            [Header::Ethernet, Header::Tag(_), behind @ ..] | [Header::Ethernet, behind @ ..] => behind,
            _ => unreachable!("every packet begins with its Ethernet header"),
        };
        let is_plain = match behind_link {
            [Header::Ipv4 { .. } | Header::Ipv6 { .. }, Header::Tcp { .. }, ..] => true,
            [Header::Ipv4 { .. } | Header::Ipv6 { .. }, Header::Udp { .. }, ..] => tunnels == 0,
            _ => false,
        };
        prop_assert_eq!(short.is_some(), is_plain);
    }

    #[test]
    fn no_bytes_and_no_lengths_break_the_walk(
        bytes in any_bytes(),
        metadata in any_metadata(),
        tunnels in 0..4_u32,
    ) {
        let long = Buffer::new(&bytes, metadata).parse(tunnels);
        let short = Buffer::new(&bytes, metadata).parse_plain(tunnels);
        prop_assert!(short.is_none_or(|short| short == long), "{short:?} but {long:?}");
        if let packet::Packet::Tcp(tcp) | packet::Packet::Fragment(tcp) = long {
            prop_assert!(tcp.segments >= 1);
            prop_assert!(tcp.payload_bytes <= metadata.length);
        }
    }

    #[test]
    fn the_headers_are_all_that_is_read_and_without_them_nothing_is_found(packet in any_packet()) {
        let bytes = packet.bytes();
        let metadata = packet.metadata();
        let whole = parse(&packet);
        let headers = header_bytes(&packet);
        prop_assert_eq!(Buffer::new(&bytes[..headers], metadata).parse(BOTH), whole);
        // Without its last byte before the flags, a TCP header tells nothing.
        let Some(Header::Tcp { option_words, .. }) = packet.headers.last().copied() else { unreachable!() };
        let needed = headers - 20 - 4 * usize::from(option_words) + 14;
        for length in 0..needed {
            let cut_off = Buffer::new(&bytes[..length], metadata);
            prop_assert_eq!(cut_off.parse(BOTH), packet::Packet::Other);
            prop_assert_eq!(cut_off.refused.get(), 1, "the first missing byte ends the walk");
        }
        prop_assert_eq!(Buffer::new(&bytes[..needed], metadata).parse(BOTH), whole);
    }
}
