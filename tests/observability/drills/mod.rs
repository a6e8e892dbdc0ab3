//! What breaks, and what has to be told of it. Each drill has a Herald of its own; all of them run at once.

mod daily;
mod operators;
mod records;
mod surroundings;

use futures_util::future::LocalBoxFuture;

pub use daily::Daily;

use crate::prometheus::Prometheus;

/// Every drill but the daily life beside which they run.
pub fn all(prometheus: &Prometheus) -> Vec<LocalBoxFuture<'_, ()>> {
    vec![
        Box::pin(surroundings::postgres_down(prometheus)),
        Box::pin(surroundings::gateway_down(prometheus)),
        Box::pin(surroundings::dlq_topic_gone(prometheus)),
        Box::pin(surroundings::workers_killed(prometheus)),
        Box::pin(surroundings::commits_refused_and_then_kafka_hangs(prometheus)),
        Box::pin(surroundings::rebalances_without_end(prometheus)),
        Box::pin(records::poison_burst(prometheus)),
        Box::pin(records::old_records(prometheus)),
        Box::pin(records::some_fail_and_some_are_late(prometheus)),
        Box::pin(records::partition_held(prometheus)),
        Box::pin(records::gateway_too_slow(prometheus)),
        Box::pin(records::backlog_near_retention(prometheus)),
        Box::pin(records::records_lost(prometheus)),
        Box::pin(records::retries_pile_up(prometheus)),
        Box::pin(operators::nobody_looks(prometheus)),
        Box::pin(operators::refused_and_a_replay_fails(prometheus)),
        Box::pin(operators::replay_stuck(prometheus)),
    ]
}
