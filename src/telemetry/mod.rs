//! Metrics, noteworthy events and logs.
//!
//! What happens is reported once, as a value: [`core::effect::Report`](crate::core::effect::Report) from the engine, one
//! struct of [`events`] from the shell. Taking it in logs and counts it, so the two never tell different stories.

pub mod docs;
pub mod events;
pub mod labels;
pub mod lag;
pub mod logs;
pub mod metrics;
pub mod operators;
pub mod traces;

mod define;
mod limit;
mod present;
mod report;
mod series;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::Registry;
use prometheus::process_collector::ProcessCollector;

use self::lag::LagBoard;
use self::limit::RateLimit;
use self::metrics::Metrics;
use self::operators::OperatorBoard;
use self::series::Series;
use self::traces::Traces;
use crate::core::effect::{Delivery, RecordName};
use crate::core::trace::TraceParent;
use crate::preflight::Retention;

/// Between two lines that say the same.
const LINE_INTERVAL: Duration = Duration::from_mins(1);

/// What holds for the life of the process: label values of nearly every series.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub topic: &'a str,
    pub channel: &'a str,
}

/// Takes in all that is worth a count or a line in the log. Shared by reference; every method takes `&self` and none waits.
pub struct Telemetry {
    metrics: Metrics,
    series: Series,
    lag: LagBoard,
    operators: OperatorBoard,
    topic: Arc<str>,
    channel: Arc<str>,
    repeated: RateLimit,
    ignored_types: RateLimit,
    traces: Option<Traces>,
}

impl Telemetry {
    /// Registers every metric, all series of enumerated labels at 0. Fails if the registry has them already.
    pub fn new(registry: &Registry, subject: Subject<'_>) -> prometheus::Result<Self> {
        let metrics = Metrics::register(registry)?;
        present::present_all(&metrics, subject);
        let lag = LagBoard::register(registry, subject.topic)?;
        let operators = OperatorBoard::register(registry)?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self {
            series: Series::of(&metrics, subject),
            metrics,
            lag,
            operators,
            topic: subject.topic.into(),
            channel: subject.channel.into(),
            repeated: RateLimit::new(LINE_INTERVAL),
            ignored_types: RateLimit::new(LINE_INTERVAL),
            traces: None,
        })
    }

    /// From here on what is reported is written as spans as well.
    #[must_use]
    pub fn with_traces(self, traces: Option<Traces>) -> Self {
        Self { traces, ..self }
    }

    /// What is sent along with an attempt: its own span where spans are written, else what the producer sent.
    pub fn attempt_trace(&self, delivery: &Delivery) -> Option<TraceParent> {
        let Some(traces) = &self.traces else { return delivery.trace };
        Some(traces.attempt((delivery.ticket, delivery.attempt), delivery.coordinates, delivery.trace))
    }

    /// For log lines about a record that has a trace.
    fn trace_id(&self, record: &RecordName) -> Option<String> {
        let own = self.traces.as_ref().map(|traces| traces.trace_id(record.coordinates, record.trace));
        let trace_id = own.or(record.trace.map(|origin| origin.trace_id))?;
        Some(format!("{trace_id:032x}"))
    }

    /// Nothing is reported after this. Blocks for a moment while the collector takes the last spans.
    pub fn shutdown(&self) {
        if let Some(traces) = &self.traces {
            traces.shutdown();
        }
    }

    /// For gauges that are measured and not reported: queues, pools, table sizes.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How long the source topic keeps its records for certain; infinite while that is unknown, so that no alert fires over it.
    pub fn topic_retention(&self, retention: Retention) {
        let seconds = match retention {
            Retention::Between { least, .. } => least.as_secs_f64(),
            Retention::Forever | Retention::Unknown => f64::INFINITY,
        };
        self.metrics.topic_retention_seconds.with_label_values(&[&*self.topic]).set(seconds);
    }

    /// Where the lag sampler leaves what it saw.
    pub fn lag(&self) -> &LagBoard {
        &self.lag
    }

    /// Where the totals of the audit are left.
    pub fn operators(&self) -> &OperatorBoard {
        &self.operators
    }
}

/// For gauges that hold a point in time.
pub fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// For gauges that hold a count.
pub fn gauge_value(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}
