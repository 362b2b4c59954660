//! An event log from somebody else, or from a damaged disk: read, written again, and folded.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use migtrace::invariants::inputs;
use migtrace_fuzz::lines;

fuzz_target!(|bytes: &[u8]| {
    if let Err(why) = inputs::event_log(bytes) {
        panic!("{why}");
    }
});

// Nearly every change of a byte ends the log there. So most changes are of whole lines and of the values in them.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed.is_multiple_of(8) {
        return fuzzer_mutate(data, size, max_size);
    }
    let changed = lines::mutate(&data[..size], seed);
    let kept = changed.len().min(max_size);
    data[..kept].copy_from_slice(&changed[..kept]);
    kept
});
