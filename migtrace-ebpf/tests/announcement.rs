//! Announcements are found with and without VLAN tags, and other frames are not mistaken for one.

use migtrace_ebpf::abi::announcement::NONE;
use migtrace_ebpf::packet::announcement::{PlainAnnouncement, parse, parse_plain};
use migtrace_ebpf::testing::Buffer;
use migtrace_ebpf::testing::announcements::{FRAMES, tagged};
use proptest::prelude::*;

#[test]
fn each_announcement_is_found_with_and_without_tags() {
    for (name, bytes, expected) in FRAMES {
        let bytes = bytes();
        assert_eq!(parse_plain(&Buffer(&bytes)), PlainAnnouncement::Known(expected), "{name}");
        assert_eq!(parse(&Buffer(&bytes)), expected, "{name}");
        for tags in [&[0x8100][..], &[0x88a8, 0x8100]] {
            let frame = tagged(&bytes, tags);
            assert_eq!(parse_plain(&Buffer(&frame)), PlainAnnouncement::Unknown, "{name}, tagged");
            assert_eq!(parse(&Buffer(&frame)), expected, "{name}, tagged");
        }
    }
}

#[test]
fn a_frame_that_is_cut_off_announces_nothing() {
    for (_, bytes, _) in FRAMES {
        for length in 0..22 {
            assert_eq!(parse(&Buffer(&bytes()[..length])), NONE);
        }
    }
}

proptest! {
    #[test]
    fn the_short_walk_and_the_long_one_agree_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        if let PlainAnnouncement::Known(announcement) = parse_plain(&Buffer(&bytes)) {
            prop_assert_eq!(parse(&Buffer(&bytes)), announcement);
        }
    }
}
