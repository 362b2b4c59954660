//! What holds for every packet, and for any bytes.

use migtrace_ebpf::packet::{self, Metadata};
use migtrace_ebpf::testing::frames::{self, BuiltPacket, DESTINATION, Header, SOURCE, WireCost};
use migtrace_ebpf::testing::frames::{ipv6, outer_ipv4, outer_ipv6};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::walk::{BOTH, CountingBuffer, counted, counts_as_it_is_cut, header_bytes, parse, tcp_in};

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

/// Payload and segment size; little of it for Miri, which is slow.
fn any_payload() -> impl Strategy<Value = (usize, Option<usize>)> {
    let most: usize = if cfg!(miri) { 600 } else { 200_000 };
    let length = prop_oneof![Just(0), 0..600_usize, 0..=most];
    (length, proptest::option::weighted(0.7, 48..9000_usize))
}

/// Any packet in which a TCP header can be found.
fn any_packet() -> impl Strategy<Value = BuiltPacket> {
    let ip = prop_oneof![any_ipv4(), any_ipv6()];
    (any_tunnel(), any_link(), ip, any_tcp(), any_payload(), any::<bool>(), 0..47_usize).prop_map(
        |(tunnel, link, mut ip, tcp, (payload, segment_size), accelerated_tag, padding)| {
            if matches!(ip[..], [Header::Ipv6 { .. }]) && payload > 65_000 {
                ip.push(Header::Jumbo);
            }
            BuiltPacket {
                headers: [tunnel, link, ip, vec![tcp]].concat(),
                payload: vec![0x5a; payload],
                segment_size,
                accelerated_tag,
                // Only a frame that arrives alone is padded, and only where IP says where the packet ends.
                padding: if segment_size.is_none() && payload < 46 { padding } else { 0 },
            }
        },
    )
}

/// Any bytes, mostly with a beginning that leads the walk somewhere.
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
        // A failure is printed with its minimal input; Miri has no directory in which to keep it.
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
    fn a_packet_counts_like_its_frames_one_by_one(mut packet in any_packet()) {
        // An accelerated tag and two more would be three among the bytes, which are not walked.
        packet.accelerated_tag = false;
        let whole = tcp_in(&packet);
        let mut sum = WireCost { wire_bytes: 0, payload_bytes: 0, segments: 0 };
        for (frame, _) in packet.cut() {
            let metadata = Metadata { length: frame.len() as u32, ..Metadata::default() };
            let packet::Packet::Tcp(tcp) = CountingBuffer::new(&frame, metadata).parse(BOTH) else {
                panic!("a frame of {:?} is not TCP", packet.headers);
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
    fn the_short_walk_agrees_with_the_long_one_or_leaves_the_packet_to_it(packet in any_packet(), tunnels in 0..4_u32) {
        let bytes = packet.bytes();
        let long = CountingBuffer::new(&bytes, packet.metadata()).parse(tunnels);
        let short = CountingBuffer::new(&bytes, packet.metadata()).parse_plain(tunnels);
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
    fn any_bytes_and_any_lengths_are_walked_without_a_panic(
        bytes in any_bytes(),
        metadata in any_metadata(),
        tunnels in 0..4_u32,
    ) {
        let long = CountingBuffer::new(&bytes, metadata).parse(tunnels);
        let short = CountingBuffer::new(&bytes, metadata).parse_plain(tunnels);
        prop_assert!(short.is_none_or(|short| short == long), "{short:?} but {long:?}");
        if let packet::Packet::Tcp(tcp) | packet::Packet::Fragment(tcp) = long {
            prop_assert!(tcp.segments >= 1);
            prop_assert!(tcp.payload_bytes <= metadata.length);
        }
    }

    #[test]
    fn only_headers_are_read_and_without_all_of_them_nothing_is_found(packet in any_packet()) {
        let bytes = packet.bytes();
        let metadata = packet.metadata();
        let whole = parse(&packet);
        let headers = header_bytes(&packet);
        prop_assert_eq!(CountingBuffer::new(&bytes[..headers], metadata).parse(BOTH), whole);
        // Without the flags, a TCP header is not enough.
        let Some(Header::Tcp { option_words, .. }) = packet.headers.last().copied() else { unreachable!() };
        let needed = headers - 20 - 4 * usize::from(option_words) + 14;
        for length in 0..needed {
            let cut_off = CountingBuffer::new(&bytes[..length], metadata);
            prop_assert_eq!(cut_off.parse(BOTH), packet::Packet::Other);
            prop_assert_eq!(cut_off.refused.get(), 1, "the first missing byte ends the walk");
        }
        prop_assert_eq!(CountingBuffer::new(&bytes[..needed], metadata).parse(BOTH), whole);
    }
}
