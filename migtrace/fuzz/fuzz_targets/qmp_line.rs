//! What QEMU writes to its monitor, and whoever else has taken it over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migtrace::invariants::inputs;

fuzz_target!(|bytes: &[u8]| {
    if let Err(why) = inputs::qmp_line(bytes) {
        panic!("{why}");
    }
});
