//! Events in any order become records.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migtrace::invariants::inputs;
use migtrace_fuzz::events;

fuzz_target!(|bytes: &[u8]| {
    let events = events::from_bytes(bytes);
    if let Err(why) = inputs::fold(&events) {
        let log = inputs::log(&events).unwrap_or_default();
        panic!("{why}\nfrom the events\n{}", String::from_utf8_lossy(&log));
    }
});
