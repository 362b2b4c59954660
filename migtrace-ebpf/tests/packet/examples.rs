//! One packet for each rule of the walk.

use migtrace_ebpf::packet::{self, encapsulation};
use migtrace_ebpf::testing::frames::{
    self, BuiltPacket, DESTINATION, DESTINATION_6, Header, SOURCE, SOURCE_6, UDP, WireCost,
};
use migtrace_ebpf::testing::frames::{ipv4, ipv6, outer_ipv4, outer_ipv6, tcp};

use crate::walk::{BOTH, CountingBuffer, counted, counts_as_it_is_cut, fragment_in, parse};

#[test]
fn three_segments_cost_three_copies_of_the_headers() {
    let packet = BuiltPacket::new([Header::Ethernet, ipv4(), tcp(40000, 49152)], vec![0; 3000]).cut_at(1448);
    let tcp = counts_as_it_is_cut(&packet);
    // By hand, so that the helpers are checked too: 14 + 20 + 32 bytes of headers.
    assert_eq!(counted(&tcp), WireCost { wire_bytes: 3 * 66 + 3000, payload_bytes: 3000, segments: 3 });
    assert_eq!((tcp.tuple.source_port, tcp.tuple.destination_port), (40000, 49152));
    assert_eq!(tcp.tuple.source, [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(SOURCE)]);
    assert_eq!(tcp.tuple.destination, [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(DESTINATION)]);
    assert_eq!(tcp.tagged, 0);
}

#[test]
fn the_last_segment_may_be_full_or_a_single_byte() {
    for payload in [1448, 2896, 2897, 1, 1447] {
        let headers = [Header::Ethernet, ipv4(), tcp(40000, 49152)];
        counts_as_it_is_cut(&BuiltPacket::new(headers, vec![0; payload]).cut_at(1448));
    }
}

#[test]
fn a_packet_without_payload_is_one_frame_even_with_a_segment_size() {
    let packet = BuiltPacket::new([Header::Ethernet, ipv4(), tcp(40000, 49152)], []).cut_at(1448);
    assert_eq!(counts_as_it_is_cut(&packet).segments, 1);
}

#[test]
fn an_accelerated_tag_is_on_every_segment_but_not_in_the_length() {
    let mut packet =
        BuiltPacket::new([Header::Ethernet, ipv4(), tcp(40000, 49152)], vec![0; 14480]).cut_at(1448);
    packet.accelerated_tag = true;
    let tcp = counts_as_it_is_cut(&packet);
    assert_eq!(tcp.wire_bytes, 10 * (66 + 4) + 14480);
    assert_eq!(tcp.tagged, 1);
}

#[test]
fn both_tags_of_qinq_are_on_every_segment() {
    let tags = [Header::Ethernet, Header::Tag(0x88a8), Header::Tag(0x8100), ipv4(), tcp(40000, 49152)];
    let mut packet = BuiltPacket::new(tags, vec![0; 14480]).cut_at(1448);
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
    let tcp = counts_as_it_is_cut(&BuiltPacket::new(headers, vec![0; 5000]).cut_at(1000));
    assert_eq!(tcp.tuple.source.map(u32::to_ne_bytes).concat(), SOURCE_6);
    assert_eq!(tcp.tuple.destination.map(u32::to_ne_bytes).concat(), DESTINATION_6);
    assert_eq!((tcp.tuple.source_port, tcp.tuple.destination_port), (40000, 49152));
}

#[test]
fn big_tcp_is_counted_by_the_buffers_length_where_ip_has_none() {
    counts_as_it_is_cut(
        &BuiltPacket::new([Header::Ethernet, ipv4(), tcp(1, 2)], vec![0; 200_000]).cut_at(1448),
    );
    counts_as_it_is_cut(
        &BuiltPacket::new([Header::Ethernet, ipv6(), tcp(1, 2)], vec![0; 200_000]).cut_at(1428),
    );
}

#[test]
fn the_jumbo_header_of_big_tcp_never_reaches_the_wire() {
    let headers = [Header::Ethernet, ipv6(), Header::Jumbo, tcp(1, 2)];
    let packet = BuiltPacket::new(headers, vec![0; 200_000]).cut_at(1428);
    let tcp = counts_as_it_is_cut(&packet);
    assert_eq!(tcp.wire_bytes, 141 * (14 + 40 + 32) + 200_000);
}

#[test]
fn the_jumbo_header_of_a_packet_that_is_not_cut_stays() {
    let headers = [Header::Ethernet, ipv6(), Header::Jumbo, tcp(1, 2)];
    counts_as_it_is_cut(&BuiltPacket::new(headers, vec![0; 70_000]));
}

#[test]
fn padding_is_on_the_wire_but_is_not_payload() {
    let headers = [
        Header::Ethernet,
        ipv4(),
        Header::Tcp { source_port: 1, destination_port: 2, flags: 0x10, option_words: 0 },
    ];
    let tcp = counts_as_it_is_cut(&BuiltPacket::new(headers, []).padded(6));
    assert_eq!((tcp.wire_bytes, tcp.payload_bytes), (60, 0));
}

#[test]
fn tunnels_are_only_looked_into_on_request() {
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
        let packet = BuiltPacket::new(packet, vec![0; 5000]).cut_at(1000);
        let tcp = counts_as_it_is_cut(&packet);
        assert_eq!(tcp.tuple.source, [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(SOURCE)]);
        let bytes = packet.bytes();
        assert_eq!(CountingBuffer::new(&bytes, packet.metadata()).parse(wanted), packet::Packet::Tcp(tcp));
        for not_asked in [other, encapsulation::NONE] {
            assert_eq!(
                CountingBuffer::new(&bytes, packet.metadata()).parse(not_asked),
                packet::Packet::Other
            );
        }
    }
}

#[test]
fn only_one_tunnel_with_ethernet_inside_is_looked_into() {
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
        assert_eq!(parse(&BuiltPacket::new(headers, [0; 100])), packet::Packet::Other);
    }
}

#[test]
fn geneve_without_ethernet_inside_is_not_looked_into() {
    let headers = [
        Header::Ethernet,
        outer_ipv4(),
        Header::Udp { port: 6081 },
        Header::Geneve { option_words: 0 },
        Header::Ethernet,
        ipv4(),
        tcp(40000, 49152),
    ];
    let packet = BuiltPacket::new(headers, [0; 100]);
    counts_as_it_is_cut(&packet);
    let mut bytes = packet.bytes();
    let protocol_type = 14 + 20 + 8 + 2;
    assert_eq!(bytes[protocol_type..][..2], [0x65, 0x58]);
    bytes[protocol_type] = 0x66;
    assert_eq!(CountingBuffer::new(&bytes, packet.metadata()).parse(BOTH), packet::Packet::Other);
}

#[test]
fn a_first_fragment_has_ports_and_a_later_one_only_addresses() {
    const MORE: u16 = 0x2000;
    let v4 = |fragment| Header::Ipv4 { source: SOURCE, destination: DESTINATION, option_words: 2, fragment };
    let first = BuiltPacket::new([Header::Ethernet, v4(MORE), tcp(40000, 49152)], [0; 800]);
    assert_eq!(counts_as_it_is_cut(&first).tuple.destination_port, 49152);

    let last = BuiltPacket::new([Header::Ethernet, v4(100), Header::RestOf(frames::TCP)], [0; 300]);
    let fragment = fragment_in(&last);
    assert_eq!(counted(&fragment), last.wire_cost());
    assert_eq!((fragment.tuple.source_port, fragment.tuple.destination_port), (0, 0));
    assert_eq!(fragment.tuple.source, [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(SOURCE)]);
    assert_eq!(fragment.tcp_flags, 0);

    let v6 = |field| Header::Fragment { field };
    let first = BuiltPacket::new([Header::Ethernet, ipv6(), v6(1), tcp(40000, 49152)], [0; 800]);
    assert_eq!(counts_as_it_is_cut(&first).tuple.destination_port, 49152);
    for field in [8, 9, 0xfff8] {
        let headers = [Header::Ethernet, ipv6(), v6(field), Header::RestOf(frames::TCP)];
        let later = BuiltPacket::new(headers, [0; 300]);
        assert_eq!(counted(&fragment_in(&later)), later.wire_cost());
    }

    let udp = BuiltPacket::new([Header::Ethernet, v4(100), Header::RestOf(UDP)], [0; 300]);
    assert_eq!(parse(&udp), packet::Packet::Other);
}

#[test]
fn a_packet_with_an_impossible_header_length_is_ignored() {
    let packet = BuiltPacket::new([Header::Ethernet, ipv4(), tcp(40000, 49152)], [0; 100]);
    for (offset, value) in [(14, 0x44), (14, 0x40), (14, 0x55), (46, 0x40), (46, 0x00)] {
        let mut bytes = packet.bytes();
        bytes[offset] = value;
        assert_eq!(
            CountingBuffer::new(&bytes, packet.metadata()).parse(BOTH),
            packet::Packet::Other,
            "{offset}"
        );
    }
}

#[test]
fn a_packet_with_more_headers_than_are_walked_is_ignored() {
    let mut headers = vec![Header::Ethernet, ipv6()];
    headers.extend([Header::DestinationOptions { more: 0 }; 6]);
    headers.push(tcp(1, 2));
    counts_as_it_is_cut(&BuiltPacket::new(headers.clone(), [0; 100]));
    headers.insert(2, Header::DestinationOptions { more: 0 });
    assert_eq!(parse(&BuiltPacket::new(headers, [0; 100])), packet::Packet::Other);

    let tags = [Header::Tag(0x88a8); 3];
    let headers = [&[Header::Ethernet], &tags[..], &[ipv4(), tcp(1, 2)]].concat();
    assert_eq!(parse(&BuiltPacket::new(headers, [0; 100])), packet::Packet::Other);
}
