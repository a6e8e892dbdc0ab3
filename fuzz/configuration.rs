//! No text makes reading the configuration panic.

#![no_main]
#![allow(clippy::expect_used, unreachable_pub)]

#[path = "../tests/support/configured.rs"]
mod configured;
mod last;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    last::keep(bytes);
    configured::check(bytes);
});
