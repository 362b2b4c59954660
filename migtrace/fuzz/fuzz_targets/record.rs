//! A record from somebody else, shown.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use migtrace::invariants::inputs;
use migtrace_fuzz::lines;

fuzz_target!(|bytes: &[u8]| {
    if let Err(why) = inputs::record_file(bytes) {
        panic!("{why}");
    }
});

// As for event logs: a changed byte seldom leaves a record.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed.is_multiple_of(8) {
        return fuzzer_mutate(data, size, max_size);
    }
    let changed = lines::mutate_value(&data[..size], seed);
    let kept = changed.len().min(max_size);
    data[..kept].copy_from_slice(&changed[..kept]);
    kept
});
