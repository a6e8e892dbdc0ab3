//! No record is left without an outcome or holds up others.

// As in tests/main.rs: what is shared with the tests panics when it finds something.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, unreachable_pub)]

mod driver;
#[path = "../tests/support/undisturbed.rs"]
mod undisturbed;

use driver::main;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| undisturbed::check(&undisturbed::records_of(bytes)));
