//! The statements of `src/postgres` against a real Postgres: what is in the tables after them, whoever runs them how often.

mod claims;
mod dead_letters;
mod epochs;
pub(crate) mod fixture;
mod model;
mod outages;
mod parking;
mod retention;
mod settling;
pub(crate) mod starts;
