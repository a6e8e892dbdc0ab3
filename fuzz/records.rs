//! No record is left without an outcome or holds up others.

#![no_main]
// As in tests/main.rs: what is shared with the tests panics when it finds something.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, unreachable_pub, dead_code)]

mod last;
#[path = "../tests/support/records.rs"]
mod records;
#[path = "../tests/support/undisturbed.rs"]
mod undisturbed;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    last::keep(bytes);
    undisturbed::check(&records::records_of(bytes));
});
