//! Spans over OTLP, for whoever names a collector in `telemetry.otlp_endpoint`.
//!
//! A span is written when what it tells of has ended, from the same facts as log and metrics: nothing is carried along but the
//! producer's `traceparent`, which the record has. What a span is called follows from the record, so that its attempts, its parking,
//! its dead letter and its replays are found in one trace, and a replay is linked to the dead letter, whichever worker wrote them.
//!
//! The exporter reads the standard variables for the rest, `OTEL_EXPORTER_OTLP_HEADERS` among them.

mod exporter;

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};
use sha2::{Digest, Sha256};

use crate::config::Settings;
use crate::core::dead_letter::Letter;
use crate::core::effect::{Outcome, RecordName};
use crate::core::failure::DeliveryFailure;
use crate::core::input::Ticket;
use crate::core::record::Coordinates;
use crate::core::trace::TraceParent;

/// The collector's part is done in the background; what it has not taken by then is given up.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Traces {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    topic: String,
    dlq_topic: String,
    group: String,
    channel: &'static str,
    /// Tells the spans of this process from those of others that had the same record.
    process: u64,
}

/// Where a record that ended came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Kafka,
    /// Out of the parked ones, for its retry.
    Parking,
    /// Out of the dead letters.
    Replay,
}

/// What all spans have, whatever they tell of.
struct Span<'a> {
    name: String,
    kind: SpanKind,
    trace: TraceParent,
    parent: Option<SpanId>,
    /// The producer's, which is linked.
    origin: Option<TraceParent>,
    /// Of the dead letter that this came of, which is linked as well.
    letter: Option<TraceParent>,
    duration: Duration,
    error: Option<&'a str>,
    attributes: Vec<KeyValue>,
}

/// The collector cannot be reached for by what is configured.
#[derive(Debug, thiserror::Error)]
#[error("telemetry.otlp_endpoint: {0}; give the collector's address, for example http://localhost:4318")]
pub struct InvalidCollector(String);

impl Traces {
    /// None where no collector is configured. Must be called within a tokio runtime.
    pub fn from_settings(settings: &Settings, channel: &'static str) -> Result<Option<Self>, InvalidCollector> {
        let endpoint = settings.telemetry.otlp_endpoint.trim_end_matches('/');
        if endpoint.is_empty() {
            return Ok(None);
        }
        let process = fastrand::u64(..);
        let exporter = exporter::start(endpoint, process).map_err(InvalidCollector)?;
        Ok(Some(Self {
            processor: exporter,
            scope: InstrumentationScope::builder("herald").with_version(env!("CARGO_PKG_VERSION")).build(),
            topic: settings.kafka.topic.clone(),
            dlq_topic: settings.dead_letters.topic.clone(),
            group: settings.kafka.group.clone(),
            channel,
            process,
        }))
    }

    /// The trace of a record: the producer's, else one of its own that any worker finds again.
    pub fn trace_id(&self, coordinates: Coordinates, origin: Option<TraceParent>) -> u128 {
        origin.map_or_else(|| self.own_trace_id(coordinates), |origin| origin.trace_id)
    }

    /// What an attempt's request says: the span that [`Traces::attempt_ended`] will write.
    pub fn attempt(
        &self,
        (ticket, attempt): (Ticket, u32),
        coordinates: Coordinates,
        origin: Option<TraceParent>,
    ) -> TraceParent {
        TraceParent {
            trace_id: self.trace_id(coordinates, origin),
            span_id: self.span_id(ticket, attempt),
            is_sampled: is_sampled(origin),
        }
    }

    pub fn attempt_ended(
        &self,
        (ticket, attempt): (Ticket, u32),
        trace: TraceParent,
        result: Result<(), &DeliveryFailure>,
        duration: Duration,
    ) {
        let class = result.err().map_or("ok", |failure| failure.class.as_str());
        self.write(Span {
            name: format!("notify {}", self.channel),
            kind: SpanKind::Client,
            trace,
            parent: Some(SpanId::from(self.span_id(ticket, 0))),
            origin: None,
            letter: None,
            duration,
            error: result.err().map(|failure| failure.error.as_str()),
            attributes: vec![
                KeyValue::new("herald.attempt", i64::from(attempt)),
                KeyValue::new("herald.result", class),
            ],
        });
    }

    pub(super) fn record_ended(&self, record: &RecordName, outcome: Outcome, source: Source, duration: Duration) {
        let mut attributes = messaging("process", &self.topic);
        attributes.extend(coordinates(record.coordinates));
        attributes.push(KeyValue::new("messaging.consumer.group.name", self.group.clone()));
        attributes.push(KeyValue::new("herald.outcome", outcome.as_str()));
        if let Some(order_id) = &record.order_id {
            attributes.push(KeyValue::new("herald.order_id", order_id.to_string()));
        }
        let (what, letter) = match source {
            Source::Kafka => ("process", None),
            Source::Parking => ("process parked", None),
            Source::Replay => ("process replayed", Some(self.letter(record.coordinates, record.trace))),
        };
        self.write(Span {
            name: format!("{what} {}", self.topic),
            kind: SpanKind::Consumer,
            trace: self.attempt((record.ticket, 0), record.coordinates, record.trace),
            parent: record.trace.map(|origin| SpanId::from(origin.span_id)),
            origin: record.trace,
            letter,
            duration,
            error: (outcome == Outcome::DeadLettered).then_some("dead letter"),
            attributes,
        });
    }

    pub fn letter_published(&self, letter: &Letter, error: Option<&str>, duration: Duration) {
        let origin = TraceParent::of(&letter.record);
        let first = self.letter(letter.record.coordinates, origin);
        let again = TraceParent { span_id: fastrand::u64(1..), ..first };
        // Replays look for the first. Tries that failed, and what is published after a replay that failed, have names of their own.
        let (trace, earlier) = match (error, letter.replays) {
            (None, 0) => (first, None),
            (Some(_), 0) => (again, None),
            _ => (again, Some(first)),
        };
        let mut attributes = messaging("send", &self.dlq_topic);
        attributes.extend(coordinates(letter.record.coordinates));
        attributes.push(KeyValue::new("herald.dead_letter.id", letter.id));
        attributes.push(KeyValue::new("herald.dead_letter.reason", letter.reason.as_str()));
        self.write(Span {
            name: format!("publish {}", self.dlq_topic),
            kind: SpanKind::Producer,
            trace,
            parent: origin.map(|origin| SpanId::from(origin.span_id)),
            origin,
            letter: earlier,
            duration,
            error,
            attributes,
        });
    }

    /// Blocks until the collector has what was written, or for two seconds.
    pub fn shutdown(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::warn!(%error, "the last spans were not taken by the collector");
        }
    }

    fn write(&self, span: Span<'_>) {
        if !span.trace.is_sampled {
            return;
        }
        let end_time = SystemTime::now();
        let linked = span.origin.into_iter().chain(span.letter);
        let mut links = SpanLinks::default();
        links.links = linked.map(|one| Link::with_context(context(one, IsRemote::Yes))).collect();
        self.processor.on_end(SpanData {
            span_context: context(span.trace, IsRemote::No),
            parent_span_id: span.parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: span.origin.is_some(),
            span_kind: span.kind,
            name: span.name.into(),
            start_time: end_time.checked_sub(span.duration).unwrap_or(end_time),
            end_time,
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: span.error.map_or(Status::Unset, |error| Status::error(error.to_owned())),
            instrumentation_scope: self.scope.clone(),
        });
    }

    fn own_trace_id(&self, coordinates: Coordinates) -> u128 {
        first_bytes(&self.of_record(coordinates).finalize())
    }

    /// The span of the first publication of a record's dead letter.
    fn letter(&self, coordinates: Coordinates, origin: Option<TraceParent>) -> TraceParent {
        let digest = self.of_record(coordinates).chain_update(b"dead letter").finalize();
        TraceParent {
            trace_id: self.trace_id(coordinates, origin),
            span_id: first_half(&digest),
            is_sampled: is_sampled(origin),
        }
    }

    /// The same in every process.
    fn of_record(&self, Coordinates { partition, offset }: Coordinates) -> Sha256 {
        Sha256::new()
            .chain_update(self.group.as_bytes())
            .chain_update([0])
            .chain_update(self.topic.as_bytes())
            .chain_update(partition.0.to_be_bytes())
            .chain_update(offset.0.to_be_bytes())
    }

    /// Attempt 0 is the span of the record itself.
    fn span_id(&self, ticket: Ticket, attempt: u32) -> u64 {
        let digest = Sha256::new()
            .chain_update(self.process.to_be_bytes())
            .chain_update(ticket.0.to_be_bytes())
            .chain_update(attempt.to_be_bytes())
            .finalize();
        first_half(&digest)
    }
}

#[derive(Clone, Copy)]
enum IsRemote {
    Yes,
    No,
}

fn context(trace: TraceParent, is_remote: IsRemote) -> SpanContext {
    let flags = if trace.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace_id, span_id) = (TraceId::from(trace.trace_id), SpanId::from(trace.span_id));
    SpanContext::new(trace_id, span_id, flags, matches!(is_remote, IsRemote::Yes), TraceState::default())
}

/// Whoever began the trace decides; what nobody began is kept.
fn is_sampled(origin: Option<TraceParent>) -> bool {
    origin.is_none_or(|origin| origin.is_sampled)
}

fn messaging(operation: &'static str, destination: &str) -> Vec<KeyValue> {
    vec![
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.operation.type", operation),
        KeyValue::new("messaging.destination.name", destination.to_owned()),
    ]
}

fn coordinates(Coordinates { partition, offset }: Coordinates) -> [KeyValue; 2] {
    [
        KeyValue::new("messaging.destination.partition.id", partition.to_string()),
        KeyValue::new("messaging.kafka.offset", offset.0),
    ]
}

/// The truncation is what is wanted: half of sixteen bytes.
fn first_half(digest: &[u8]) -> u64 {
    u64::try_from(first_bytes(digest) >> 64).unwrap_or(u64::MAX)
}

fn first_bytes(digest: &[u8]) -> u128 {
    digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}
