//! Configuration: one struct per area, checked once into [`Settings`].
//!
//! Defaults < `herald.toml` < environment < flags. The structs are the only place where keys, ranges, defaults and
//! descriptions are written: reading, errors, the JSON schema and the documentation all follow from them.
//!
//! | module | what it holds |
//! |---|---|
//! | `areas`, `kafka` | the structs: one per area, their defaults and ranges |
//! | `secret` | values and URLs that cannot be printed by accident |
//! | `sources` | where values come from: file, environment, flags; the only reader of the process environment |
//! | `file`, `environment` | one layer each, as assignments of keys |
//! | `schema` | the keys, as read from the structs |
//! | `value`, `formats`, `units` | what a key takes and how it is read |
//! | `load` | layers into `Settings`, with every problem at once |
//! | `checks` | rules between keys |
//! | `problem` | what is wrong, where it was set and what is allowed |
//! | `print`, `docs` | the effective configuration; the documentation and the example file |

mod areas;
mod checks;
mod docs;
mod environment;
mod file;
mod formats;
mod kafka;
mod load;
mod print;
mod problem;
#[cfg(test)]
mod samples;
mod schema;
mod secret;
mod sources;
mod units;
mod value;

pub use areas::{
    Breaker, ChannelKind, Database, DeadLetters, Delivery, Http, Ledger, Limits, LogFormat, Notification, Ordering,
    OrderingKey, Retry, Semantics, Settings, Telemetry, Webhook,
};
pub use checks::Purpose;
pub use docs::{example, markdown};
pub(crate) use kafka::reserved_option;
pub use kafka::{GroupProtocol, Kafka, OnLostOffsets, StartFrom};
pub use load::{Loaded, load};
pub use problem::{ConfigError, Origin, Problem};
pub use schema::schema;
pub use secret::{Secret, redacted_url};
pub use sources::{Flag, SourceFile, Sources, Surroundings};
pub(crate) use units::duration;
