//! No text makes reading the configuration panic.

#![allow(unreachable_pub)]

#[path = "../tests/support/configured.rs"]
mod configured;
mod driver;

use driver::main;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| configured::check(bytes));
