//! Starts libFuzzer from a main function of Rust's, which has a stack for signals. Without one an input that nests too deep would end the
//! process before libFuzzer could keep it.

#![allow(unsafe_code)]

use std::env;
use std::ffi::{CString, c_char, c_int};
use std::process::exit;
use std::ptr;

unsafe extern "C" {
    fn LLVMFuzzerRunDriver(
        count: *mut c_int,
        arguments: *mut *mut *mut c_char,
        target: unsafe extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;

    /// Calls what `fuzz_target!` was given.
    fn LLVMFuzzerTestOneInput(bytes: *const u8, length: usize) -> c_int;
}

pub fn main() {
    let arguments = env::args().filter_map(|argument| CString::new(argument).ok());
    let mut arguments: Vec<*mut c_char> = arguments.map(CString::into_raw).collect();
    let mut count = c_int::try_from(arguments.len()).unwrap_or(c_int::MAX);
    arguments.push(ptr::null_mut());
    let mut arguments = arguments.as_mut_ptr();
    // SAFETY: as in any main function there are `count` arguments, each ends with NUL, and so does their list.
    let code = unsafe { LLVMFuzzerRunDriver(&raw mut count, &raw mut arguments, LLVMFuzzerTestOneInput) };
    exit(code);
}
