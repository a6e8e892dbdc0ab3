//! Reaching the Kafka cluster. No type of the client library leaves this folder.
//!
//! * [`client`]: the configuration of every client, and what an operator may not override.
//! * [`headers`]: headers as bytes, in and out; `membership`, what the group says of this member; `topic_identity`, which topic the name
//!   stands for; `queue`, where the answers to both come. The only modules with `unsafe`.
//! * `context`, `record`, `offsets`, `assignment`, `back_pressure`, `outbox`: the parts of the consumer that can be understood alone.
//! * [`consumer`]: the handle of the consumer thread; `poller` is the thread itself, `rebalance` how it answers the group,
//!   `brokers` how it finds out that none answers, `confirmation` how it asks whose partitions are.
//! * [`dead_letters`]: publishes dead letters; `letter_headers` is their format. [`source_topic`] publishes the original again.
//!   `producer` is what both produce with.
//! * [`readers`]: which groups read a topic.
//! * [`letter_reader`]: a dead-letter topic read once; [`foreign_letters`]: its records, whoever wrote them.
//! * [`lag`]: committed and end offsets, read by a client of their own.
//! * [`preflight`]: what `herald check` and a start look at; `topics` asks the cluster.

pub mod client;
pub mod headers;

mod assignment;
mod back_pressure;
mod brokers;
mod confirmation;
mod context;
mod letter_headers;
mod membership;
mod offsets;
mod outbox;
mod poller;
mod producer;
mod queue;
mod rebalance;
mod record;
mod topic_identity;
mod topics;

pub mod consumer;
pub mod dead_letters;
pub mod foreign_letters;
pub mod lag;
pub mod letter_reader;
pub mod preflight;
pub mod readers;
pub mod source_topic;
