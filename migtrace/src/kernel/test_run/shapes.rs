//! The shapes of headers that a packet may have.

use migtrace_ebpf::testing::frames::outer_ipv6;

use super::*;

pub(super) fn ipv4_with(option_words: u8, fragment: u16) -> Header {
    Header::Ipv4 { source: SOURCE, destination: DESTINATION, option_words, fragment }
}

/// Every shape of headers outside tunnels, with its name.
fn shapes() -> Vec<(&'static str, Vec<Header>)> {
    let ports = tcp(40000, FIRST);
    let bare = Header::Tcp { source_port: 40000, destination_port: FIRST, flags: ACK, option_words: 0 };
    let full = Header::Tcp { source_port: 40000, destination_port: FIRST, flags: ACK, option_words: 10 };
    let link = Header::Ethernet;
    let extensions = [
        Header::HopByHop { more: 1 },
        Header::Routing { more: 2 },
        Header::Fragment { field: 1 },
        Header::Authentication { check_words: 3 },
        Header::DestinationOptions { more: 0 },
        Header::DestinationOptions { more: 1 },
    ];
    vec![
        ("IPv4", vec![link, ipv4(), ports]),
        ("IPv4, TCP without options", vec![link, ipv4(), bare]),
        ("IPv4, TCP with all options", vec![link, ipv4(), full]),
        ("IPv4 with one word of options", vec![link, ipv4_with(1, 0), ports]),
        ("IPv4 with all options, TCP too", vec![link, ipv4_with(10, 0x4000), full]),
        ("IPv6", vec![link, ipv6(), ports]),
        ("IPv6 with one extension header", vec![link, ipv6(), extensions[3], ports]),
        ("IPv6 with six extension headers", [&[link, ipv6()], &extensions[..], &[full]].concat()),
        ("IPv6, BIG TCP's jumbo header", vec![link, ipv6(), Header::Jumbo, ports]),
        ("a VLAN tag among the bytes", vec![link, Header::Tag(0x8100), ipv4(), ports]),
        ("QinQ", vec![link, Header::Tag(0x88a8), Header::Tag(0x8100), ipv4_with(3, 0), full]),
        (
            "QinQ, IPv6",
            [&[link, Header::Tag(0x88a8), Header::Tag(0x8100), ipv6()], &extensions[..2], &[ports]].concat(),
        ),
    ]
}

/// Every shape of headers around a packet in a tunnel, with its name.
fn outer(tunnel: Tunnel) -> Vec<(&'static str, Vec<Header>)> {
    let (link, tag) = (Header::Ethernet, Header::Tag(0x8100));
    match tunnel {
        Tunnel::Vxlan => {
            let assigned = [Header::Udp { port: 4789 }, Header::Vxlan];
            let linux = [Header::Udp { port: 8472 }, Header::Vxlan];
            vec![
                ("VXLAN", [&[link, outer_ipv4()], &assigned[..]].concat()),
                ("VXLAN over IPv6", [&[link, outer_ipv6()], &linux[..]].concat()),
                ("VXLAN in a VLAN", [&[link, tag, outer_ipv4()], &assigned[..]].concat()),
            ]
        }
        Tunnel::Geneve => {
            let plain = [Header::Udp { port: 6081 }, Header::Geneve { option_words: 0 }];
            let all_options = [Header::Udp { port: 6081 }, Header::Geneve { option_words: 63 }];
            vec![
                ("Geneve", [&[link, outer_ipv4()], &plain[..]].concat()),
                ("Geneve with all options", [&[link, outer_ipv6()], &all_options[..]].concat()),
            ]
        }
    }
}

/// Every shape of headers in a tunnel, with its name.
pub(super) fn in_tunnel(tunnel: Tunnel) -> Vec<(String, Vec<Header>)> {
    let ports = tcp(40000, FIRST);
    let inner = [
        ("IPv4", vec![Header::Ethernet, ipv4(), ports]),
        (
            "tagged IPv6",
            vec![Header::Ethernet, Header::Tag(0x8100), ipv6(), Header::HopByHop { more: 0 }, ports],
        ),
    ];
    let shape = |(outer, around): &(&str, Vec<Header>), (inner, inside): &(&str, Vec<Header>)| {
        (format!("{inner} in {outer}"), [&around[..], inside].concat())
    };
    let around = outer(tunnel);
    around.iter().flat_map(|outer| inner.iter().map(move |inner| shape(outer, inner))).collect()
}

/// Every shape of headers, with its name.
pub(super) fn all_shapes() -> Vec<(String, Vec<Header>)> {
    let outside = shapes().into_iter().map(|(name, headers)| (name.to_owned(), headers));
    outside.chain(Tunnel::ALL.into_iter().flat_map(in_tunnel)).collect()
}
