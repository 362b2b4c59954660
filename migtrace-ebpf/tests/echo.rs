//! Echo messages are found after all headers that may precede them, and other packets are not mistaken for one.

use migtrace_ebpf::packet::echo::{self, EchoMessage, PlainEcho};
use migtrace_ebpf::testing::Buffer;
use migtrace_ebpf::testing::frames::{BuiltPacket, DESTINATION, DESTINATION_6, Header, SOURCE, SOURCE_6};
use migtrace_ebpf::testing::frames::{ipv4, ipv6, tcp};
use proptest::prelude::*;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// A message with identifier 0x1234 and sequence number 0x5678.
fn message(kind: u8) -> Vec<u8> {
    vec![kind, 0, 0xaa, 0xbb, 0x12, 0x34, 0x56, 0x78, 1, 2, 3]
}

fn words(octets: [u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}

fn mapped(address: [u8; 4]) -> [u32; 4] {
    words(std::net::Ipv4Addr::from(address).to_ipv6_mapped().octets())
}

fn expected(source: [u32; 4], destination: [u32; 4], is_reply: bool) -> EchoMessage {
    let (target, peer) = if is_reply { (source, destination) } else { (destination, source) };
    EchoMessage { target, peer, is_reply, identifier: 0x1234, sequence: 0x5678 }
}

/// Finds the message as the program does: first in a frame of the common shape, else by the whole walk.
fn find(bytes: &[u8]) -> Option<EchoMessage> {
    match echo::parse_plain(&Buffer(bytes)) {
        PlainEcho::Echo(echo) => {
            assert_eq!(echo::parse(&Buffer(bytes)), Some(echo), "both walks agree");
            Some(echo)
        }
        PlainEcho::Other => {
            assert_eq!(echo::parse(&Buffer(bytes)), None, "both walks agree");
            None
        }
        PlainEcho::Unknown => echo::parse(&Buffer(bytes)),
    }
}

fn with_ipv4(option_words: u8, fragment: u16) -> Header {
    Header::Ipv4 { source: SOURCE, destination: DESTINATION, option_words, fragment }
}

#[test]
fn requests_and_replies_are_found_after_ipv4_options_and_tags() {
    const MORE_FRAGMENTS: u16 = 0x2000;
    let tag = Header::Tag(0x8100);
    for ip in [with_ipv4(0, 0), with_ipv4(1, 0), with_ipv4(10, 0), with_ipv4(0, MORE_FRAGMENTS)] {
        for tags in [&[][..], &[tag], &[Header::Tag(0x88a8), tag]] {
            for (kind, is_reply) in [(8, false), (0, true)] {
                let headers = [&[Header::Ethernet], tags, &[ip, Header::RestOf(ICMP)]].concat();
                let found = find(&BuiltPacket::new(headers, message(kind)).bytes());
                let wanted = expected(mapped(SOURCE), mapped(DESTINATION), is_reply);
                assert_eq!(found, Some(wanted), "{ip:?} {tags:?}");
            }
        }
    }
}

#[test]
fn requests_and_replies_are_found_after_ipv6_extension_headers() {
    let extensions: [&[Header]; 5] = [
        &[],
        &[Header::HopByHop { more: 0 }],
        &[Header::HopByHop { more: 1 }, Header::Routing { more: 2 }, Header::DestinationOptions { more: 0 }],
        &[Header::Authentication { check_words: 3 }],
        // The first fragment: more follow.
        &[Header::Fragment { field: 1 }],
    ];
    for extensions in extensions {
        for (kind, is_reply) in [(128, false), (129, true)] {
            let headers = [&[Header::Ethernet, ipv6()], extensions, &[Header::RestOf(ICMPV6)]].concat();
            let found = find(&BuiltPacket::new(headers, message(kind)).bytes());
            let wanted = expected(words(SOURCE_6), words(DESTINATION_6), is_reply);
            assert_eq!(found, Some(wanted), "{extensions:?}");
        }
    }
}

#[test]
fn other_messages_later_fragments_and_other_protocols_are_not_echo_messages() {
    let of = |headers: &[Header], kind| {
        find(&BuiltPacket::new([&[Header::Ethernet], headers].concat(), message(kind)).bytes())
    };
    // Unreachable, time exceeded, and the request and reply of the other version.
    for kind in [3, 11, 128, 129] {
        assert_eq!(of(&[ipv4(), Header::RestOf(ICMP)], kind), None);
    }
    for kind in [1, 8, 0, 135] {
        assert_eq!(of(&[ipv6(), Header::RestOf(ICMPV6)], kind), None);
    }
    assert_eq!(of(&[with_ipv4(0, 185), Header::RestOf(ICMP)], 8), None);
    assert_eq!(of(&[ipv6(), Header::Fragment { field: 185 << 3 }, Header::RestOf(ICMPV6)], 128), None);
    assert_eq!(of(&[ipv4(), Header::RestOf(ICMPV6)], 128), None);
    assert_eq!(of(&[ipv6(), Header::RestOf(ICMP)], 8), None);
    assert_eq!(of(&[ipv4(), tcp(8, 0)], 8), None);
    // A code that no echo message has.
    let mut odd = message(8);
    odd[1] = 1;
    assert_eq!(find(&BuiltPacket::new([Header::Ethernet, ipv4(), Header::RestOf(ICMP)], odd).bytes()), None);
}

#[test]
fn a_message_that_is_cut_off_is_not_found() {
    for headers in
        [[Header::Ethernet, ipv4(), Header::RestOf(ICMP)], [Header::Ethernet, ipv6(), Header::RestOf(ICMPV6)]]
    {
        let kind = if matches!(headers[1], Header::Ipv4 { .. }) { 8 } else { 128 };
        let bytes = BuiltPacket::new(headers, &message(kind)[..8]).bytes();
        assert!(find(&bytes).is_some());
        for length in 0..bytes.len() {
            assert_eq!(find(&bytes[..length]), None, "{length} bytes of {headers:?}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        find(&bytes);
    }
}
