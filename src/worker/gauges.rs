//! What gauges and health endpoints say, once a turn.

use std::time::{Duration, Instant};

use super::Worker;
use crate::core::breaker::BreakerState;
use crate::core::effect::PauseCause;
use crate::core::engine::Stats;
use crate::http::health::NotReady;
use crate::telemetry::events::{DependencyChanged, Drained, PausedPartitions, Polled};
use crate::telemetry::gauge_value;
use crate::telemetry::labels::{Dependency, Queue};

/// The consumer thread polls every 20 ms; without a poll for this long its turn is not counted.
const CONSUMER_SILENCE: Duration = Duration::from_secs(1);

/// What was shown last: counters take differences, gauges are set when they changed.
#[derive(Debug, Default)]
pub(super) struct Shown {
    polled: u64,
    stats: Stats,
    brokers: BreakerState,
    draining_since: Option<Instant>,
}

impl Shown {
    pub(super) fn drain_began(&mut self) {
        self.draining_since.get_or_insert_with(Instant::now);
    }
}

impl Worker {
    /// Said once: what lengths and used bytes are to be compared with.
    pub(super) fn show_limits(&self, polled: usize) {
        let metrics = self.telemetry.metrics();
        let capacities = [
            (Queue::Polled, polled),
            (Queue::Commands, self.consumer.queue().1),
            (Queue::Deliveries, self.settings.delivery.max_concurrent),
            (Queue::Records, self.settings.limits.records),
        ];
        for (queue, capacity) in capacities {
            metrics.queue_capacity.with_label_values(&[queue.as_str()]).set(gauge_value(capacity));
        }
        metrics.memory_limit_bytes.with_label_values(&["records"]).set(gauge_value(self.settings.limits.bytes));
    }

    pub(super) fn show(&mut self, polled_batches: usize) {
        self.health.worker_turned();
        if self.membership.is_waiting() || self.consumer.health().last_poll_age() < CONSUMER_SILENCE {
            self.health.consumer_turned();
        }
        let polled = self.engine.accounting().polled;
        let records = usize::try_from(polled - self.shown.polled).unwrap_or_default();
        Polled { records }.emit(&self.telemetry);
        self.shown.polled = polled;

        let queued = &self.telemetry.metrics().queue_length;
        queued.with_label_values(&[Queue::Polled.as_str()]).set(gauge_value(polled_batches));

        let stats = self.engine.stats();
        if stats != self.shown.stats {
            self.show_stats(&stats);
            self.shown.stats = stats;
        }
        if stats.draining == 0
            && let Some(since) = self.shown.draining_since.take()
        {
            Drained { duration: since.elapsed() }.emit(&self.telemetry);
        }
    }

    /// Nothing is decided by it: librdkafka goes on trying, and what was fetched is delivered meanwhile.
    pub(super) fn brokers_changed(&mut self, reached: Result<(), String>) {
        let after = match reached {
            Ok(()) => {
                self.health.resolve(NotReady::Kafka);
                BreakerState::Closed
            }
            Err(error) => {
                self.health.hold(NotReady::Kafka, error);
                BreakerState::Open
            }
        };
        let before = std::mem::replace(&mut self.shown.brokers, after);
        if before != after {
            DependencyChanged { dependency: Dependency::Kafka, before, after }.emit(&self.telemetry);
        }
    }

    fn show_stats(&mut self, stats: &Stats) {
        let metrics = self.telemetry.metrics();
        metrics.busy_records.set(gauge_value(stats.busy));
        metrics.crash_loop_partitions.set(gauge_value(stats.crash_loops));
        metrics.memory_used_bytes.with_label_values(&["records"]).set(gauge_value(stats.bytes));
        let queue = |queue: Queue, length: usize| {
            metrics.queue_length.with_label_values(&[queue.as_str()]).set(gauge_value(length));
        };
        queue(Queue::Commands, self.consumer.queue().0);
        queue(Queue::Deliveries, stats.delivering);
        queue(Queue::Records, stats.in_flight);
        let before = self.shown.stats;
        for cause in PauseCause::ALL {
            let paused = |stats: &Stats| if stats.paused == Some(cause) { stats.partitions } else { 0 };
            let count = paused(stats);
            if count != paused(&before) {
                PausedPartitions { cause, count }.emit(&self.telemetry);
            }
        }
        let ledger = |stats: &Stats| if stats.is_ledger_failing { BreakerState::Open } else { BreakerState::Closed };
        for (dependency, before, after) in [
            (Dependency::Gateway, before.breaker, stats.breaker),
            (Dependency::Postgres, ledger(&before), ledger(stats)),
        ] {
            if before != after {
                DependencyChanged { dependency, before, after }.emit(&self.telemetry);
            }
        }
    }
}
