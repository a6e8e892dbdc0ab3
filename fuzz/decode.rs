//! A record becomes what it says, however it is written. Without the engine: hundreds of times as fast as `records`.

#![no_main]
// As in tests/main.rs: what is shared with the tests panics when it finds something.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, unreachable_pub, dead_code)]

#[path = "../tests/support/decoded.rs"]
mod decoded;
mod last;
#[path = "../tests/support/reading.rs"]
mod reading;
#[path = "../tests/support/records.rs"]
mod records;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    last::keep(bytes);
    decoded::check(&records::odd_record_of(bytes));
});
