//! What the engine reports.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{debug, error, info, warn};

use super::Telemetry;
use super::traces::Source;
use crate::core::effect::{Outcome, Report};
use crate::core::record::Timestamp;

impl Telemetry {
    /// Takes in what the engine has to say. ERROR: data is at risk or an operator is needed; WARN: recovered, worth a look.
    pub fn report(&self, report: &Report) {
        self.count(report);
        self.write(report);
        self.trace(report);
    }

    fn trace(&self, report: &Report) {
        let Some(traces) = &self.traces else { return };
        match report {
            Report::Ended { record, outcome, duration } => {
                traces.record_ended(record, *outcome, Source::Kafka, *duration);
            }
            Report::ParkedEnded { record, outcome, duration } => {
                traces.record_ended(record, *outcome, Source::Parking, *duration);
            }
            Report::ReplayEnded { record, outcome, duration } => {
                traces.record_ended(record, *outcome, Source::Replay, *duration);
            }
            _ => {}
        }
    }

    fn count(&self, report: &Report) {
        let metrics = &self.metrics;
        let series = &self.series;
        let topic: &str = &self.topic;
        match report {
            Report::Ended { record, outcome, duration } => {
                series.in_flight.dec();
                series.outcome(*outcome).observe(*duration);
                if let (Outcome::Notified, Some(timestamp)) = (outcome, record.timestamp) {
                    series.age.observe(age(timestamp).as_secs_f64());
                }
            }
            Report::ParkedEnded { record, outcome, .. } => {
                metrics.parked_settled_total.with_label_values(&[topic, outcome.as_str()]).inc();
                if let (Outcome::Notified, Some(timestamp)) = (outcome, record.timestamp) {
                    series.age.observe(age(timestamp).as_secs_f64());
                }
            }
            Report::ReplayEnded { record, outcome, .. } => {
                metrics.replays_total.with_label_values(&[outcome.as_str()]).inc();
                if let (Outcome::Notified, Some(timestamp)) = (outcome, record.timestamp) {
                    series.age.observe(age(timestamp).as_secs_f64());
                }
            }
            Report::ParkedRemoved { count } => {
                let labels = [topic, Outcome::Duplicate.as_str()];
                metrics.parked_settled_total.with_label_values(&labels).inc_by(*count);
            }
            Report::Buried { reason, .. } => {
                metrics.dead_letters_total.with_label_values(&[topic, reason.as_str()]).inc();
            }
            // The record's own outcome is counted when it ends; the breaker and the crash loops are gauges.
            Report::IgnoredEventType { .. }
            | Report::BreakerOpened { .. }
            | Report::BreakerClosed
            | Report::CrashLoop { .. } => {}
            Report::HandedBack { count, .. } => {
                series.handed_back.inc_by(*count);
                series.in_flight.sub(super::gauge_value(*count));
            }
            Report::Claimed(result) => series.claim(*result).inc(),
            Report::RetryScheduled { place, .. } => series.retries(*place).inc(),
            Report::ExhaustedWithoutEvidence { .. } => metrics.exhausted_without_evidence_total.inc(),
            Report::DeliveryHeld { .. } => {
                metrics.deliveries_held_total.with_label_values(&[self.channel.as_ref()]).inc();
            }
            Report::LedgerHeld { .. } => metrics.ledger_batches_held_total.inc(),
            Report::Fenced { .. } => metrics.consumer_fenced_total.inc(),
            Report::Frozen { .. } => metrics.process_freezes_total.inc(),
            Report::Aborted { count, .. } => metrics.deliveries_aborted_total.inc_by(*count),
            Report::InvariantViolated { invariant, .. } => {
                metrics.invariant_violations_total.with_label_values(&[invariant]).inc();
            }
        }
    }

    /// A table of lines, one arm each. Text from outside is recorded as a string, so that it is quoted and ends no line.
    #[rustfmt::skip]
    fn write(&self, report: &Report) {
        let topic: &str = &self.topic;
        match report {
            Report::Ended { record, outcome, duration } => debug!(
                topic, partition = record.partition(), offset = record.offset(), order_id = record.order_id.as_deref(),
                trace_id = self.trace_id(record), outcome = outcome.as_str(), ?duration, "record ended"
            ),
            Report::ReplayEnded { record, outcome, duration } => debug!(
                topic, partition = record.partition(), offset = record.offset(), order_id = record.order_id.as_deref(),
                trace_id = self.trace_id(record), outcome = outcome.as_str(), ?duration, "replayed record ended"
            ),
            Report::ParkedEnded { record, outcome, duration } => debug!(
                topic, partition = record.partition(), offset = record.offset(), order_id = record.order_id.as_deref(),
                trace_id = self.trace_id(record), outcome = outcome.as_str(), ?duration, "parked record ended"
            ),
            Report::Claimed(_) | Report::ParkedRemoved { .. } => {}
            Report::Buried { record, reason, attempts, error } => error!(
                topic, partition = record.partition(), offset = record.offset(), order_id = record.order_id.as_deref(),
                trace_id = self.trace_id(record), attempt = attempts, %reason, error, "dead letter: see herald dlq list"
            ),
            Report::IgnoredEventType { event_type } => {
                if let Some(suppressed) = self.ignored_types.admit(event_type, Instant::now()) {
                    warn!(topic, event_type = event_type.as_ref(), suppressed, "event type is not configured: ignored");
                }
            }
            Report::HandedBack { partition, count } => info!(
                topic, partition = partition.0, count, "unfinished records left to the next owner"
            ),
            Report::RetryScheduled { record, attempt, wait, place, error } => warn!(
                topic, partition = record.partition(), offset = record.offset(), order_id = record.order_id.as_deref(),
                trace_id = self.trace_id(record), attempt, ?wait, place = place.as_str(), error, "delivery failed: tried again later"
            ),
            Report::DeliveryHeld { record, wait, error } => {
                if let Some(suppressed) = self.admit("delivery held") {
                    warn!(
                        topic, partition = record.partition(), offset = record.offset(), order_id = record.order_id.as_deref(),
                        trace_id = self.trace_id(record), ?wait, error, suppressed,
                        "channel is not available: deliveries are held, no attempt is spent"
                    );
                }
            }
            Report::ExhaustedWithoutEvidence { record } => warn!(
                topic, partition = record.partition(), offset = record.offset(), order_id = record.order_id.as_deref(),
                trace_id = self.trace_id(record),
                "all attempts are spent, but nothing shows that the channel works for others: the record stays parked"
            ),
            Report::BreakerOpened { error } => error!(
                error, "channel is away: deliveries stop, partitions pause, one record after another tries whether it is back"
            ),
            Report::BreakerClosed => info!("channel is back: deliveries go on"),
            Report::LedgerHeld { wait, error } => {
                if let Some(suppressed) = self.admit("ledger held") {
                    error!(?wait, error, suppressed, "Postgres is not available: the ledger is held, nothing is lost");
                }
            }
            Report::Fenced { partition, epoch } => warn!(
                topic, partition = partition.0, epoch = epoch.0, "epoch refused: the partition has a later owner"
            ),
            Report::CrashLoop { partition, unclean_ends } => error!(
                topic, partition = partition.0, unclean_ends,
                "the owners of the partition died one after another without progress: what they had claimed runs carefully"
            ),
            Report::Frozen { gap } => warn!(?gap, "the process stood still: epochs are confirmed before anything starts"),
            Report::Aborted { partition, count } => warn!(
                topic, partition = partition.0, count, "deliveries cut off at the drain deadline: the next owner repeats them"
            ),
            Report::InvariantViolated { invariant, detail } => error!(invariant, detail, "invariant violated: this is a bug"),
        }
    }

    fn admit(&self, kind: &str) -> Option<u64> {
        self.repeated.admit(kind, Instant::now())
    }
}

/// Zero for a record from the future: clocks disagree.
fn age(timestamp: Timestamp) -> Duration {
    let stamped = Duration::from_millis(timestamp.0.try_into().unwrap_or_default());
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(stamped)
}
