//! Announcements are found with and without VLAN tags, and nothing else is taken for one.

mod announcements;
mod buffer;

use announcements::FRAMES;
use buffer::Buffer;
use migtrace_ebpf::abi::announcement::NONE;
use migtrace_ebpf::packet::announcement::{Plain, parse, parse_plain};
use proptest::prelude::*;

#[test]
fn each_frame_is_what_it_is_with_and_without_tags() {
    for (name, bytes, expected) in FRAMES {
        let bytes = bytes();
        assert_eq!(parse_plain(&Buffer(&bytes)), Plain::Known(expected), "{name}");
        assert_eq!(parse(&Buffer(&bytes)), expected, "{name}");
        for tags in [&[0x8100][..], &[0x88a8, 0x8100]] {
            let tagged = announcements::tagged(&bytes, tags);
            assert_eq!(parse_plain(&Buffer(&tagged)), Plain::Unknown, "{name}, tagged");
            assert_eq!(parse(&Buffer(&tagged)), expected, "{name}, tagged");
        }
    }
}

#[test]
fn what_is_cut_off_announces_nothing() {
    for (_, bytes, _) in FRAMES {
        for length in 0..22 {
            assert_eq!(parse(&Buffer(&bytes()[..length])), NONE);
        }
    }
}

proptest! {
    #[test]
    fn both_ways_agree_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        if let Plain::Known(announcement) = parse_plain(&Buffer(&bytes)) {
            prop_assert_eq!(parse(&Buffer(&bytes)), announcement);
        }
    }
}
