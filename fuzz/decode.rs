//! A record becomes what it says, however it is written. Without the engine: hundreds of times as fast as `records`.

#![no_main]
// As in tests/main.rs: what is shared with the tests panics when it finds something.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, unreachable_pub, dead_code)]
// The macro for changes of inputs is how libFuzzer calls them.
#![allow(unsafe_code)]

#[path = "../tests/support/decoded.rs"]
mod decoded;
mod last;
mod mutation;
#[path = "../tests/support/reading.rs"]
mod reading;
#[path = "../tests/support/records.rs"]
mod records;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|bytes: &[u8]| {
    last::keep(bytes);
    decoded::check(&records::odd_record_of(bytes));
});

fuzz_mutator!(|bytes: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutation::mutate(bytes, size, max_size, seed)
});
