//! The statements of `src/postgres` against a real Postgres: what is in the tables after them, whoever runs them how often.

// A helper of a test fails the test, as the test itself does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod claims;
mod dead_letters;
mod epochs;
mod outages;
mod retention;
mod settling;
mod support;
