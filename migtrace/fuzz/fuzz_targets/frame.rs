//! A frame from the network, or from a guest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migtrace_fuzz::frame;

fuzz_target!(|input: &[u8]| {
    if let Err(why) = frame::check(input) {
        panic!("{why}");
    }
});
