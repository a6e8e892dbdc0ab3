//! The series of every record, looked up once: a look-up by label values costs more than the count itself.

use prometheus::{Histogram, IntCounter, IntGauge};

use super::Subject;
use super::metrics::Metrics;
use crate::core::effect::{ClaimResult, Outcome, WaitingPlace};
use crate::core::failure::DeliveryFailure;

pub(super) struct Series {
    pub(super) polled: IntCounter,
    pub(super) in_flight: IntGauge,
    pub(super) handed_back: IntCounter,
    pub(super) age: Histogram,
    retries_in_lane: IntCounter,
    retries_parked: IntCounter,
    outcomes: Outcomes,
    claims: Claims,
    attempts: Attempts,
}

/// A count and the time it took.
pub(super) struct Timed {
    count: IntCounter,
    duration: Histogram,
}

struct Outcomes {
    notified: Timed,
    duplicate: Timed,
    ignored: Timed,
    parked: Timed,
    dead_lettered: Timed,
}

struct Claims {
    fresh: IntCounter,
    takeover: IntCounter,
    busy: IntCounter,
    duplicate: IntCounter,
    conflict: IntCounter,
    fenced: IntCounter,
}

struct Attempts {
    ok: Timed,
    transient: Timed,
    unknown: Timed,
    permanent: Timed,
    outage: Timed,
}

impl Series {
    pub(super) fn of(metrics: &Metrics, subject: Subject<'_>) -> Self {
        let topic = &[subject.topic];
        Self {
            polled: metrics.records_polled_total.with_label_values(topic),
            in_flight: metrics.records_in_flight.with_label_values(topic),
            handed_back: metrics.records_handed_back_total.with_label_values(topic),
            age: metrics.event_age_seconds.with_label_values(topic),
            retries_in_lane: metrics.retries_scheduled_total.with_label_values(&[WaitingPlace::Lane.as_str()]),
            retries_parked: metrics.retries_scheduled_total.with_label_values(&[WaitingPlace::Parked.as_str()]),
            outcomes: Outcomes::of(metrics, subject.topic),
            claims: Claims::of(metrics),
            attempts: Attempts::of(metrics, subject.channel),
        }
    }

    pub(super) fn outcome(&self, outcome: Outcome) -> &Timed {
        match outcome {
            Outcome::Notified => &self.outcomes.notified,
            Outcome::Duplicate => &self.outcomes.duplicate,
            Outcome::Ignored => &self.outcomes.ignored,
            Outcome::Parked => &self.outcomes.parked,
            Outcome::DeadLettered => &self.outcomes.dead_lettered,
        }
    }

    pub(super) fn retries(&self, place: WaitingPlace) -> &IntCounter {
        match place {
            WaitingPlace::Lane => &self.retries_in_lane,
            WaitingPlace::Parked => &self.retries_parked,
        }
    }

    pub(super) fn claim(&self, result: ClaimResult) -> &IntCounter {
        match result {
            ClaimResult::Fresh => &self.claims.fresh,
            ClaimResult::Takeover => &self.claims.takeover,
            ClaimResult::Busy => &self.claims.busy,
            ClaimResult::Duplicate => &self.claims.duplicate,
            ClaimResult::Conflict => &self.claims.conflict,
            ClaimResult::Fenced => &self.claims.fenced,
        }
    }

    pub(super) fn attempt(&self, result: &Result<(), DeliveryFailure>) -> &Timed {
        use crate::core::failure::FailureClass;
        match result.as_ref().map_err(|failure| failure.class) {
            Ok(()) => &self.attempts.ok,
            Err(FailureClass::Transient { .. }) => &self.attempts.transient,
            Err(FailureClass::Unknown) => &self.attempts.unknown,
            Err(FailureClass::Permanent) => &self.attempts.permanent,
            Err(FailureClass::Outage) => &self.attempts.outage,
        }
    }
}

impl Timed {
    pub(super) fn observe(&self, duration: std::time::Duration) {
        self.count.inc();
        self.duration.observe(duration.as_secs_f64());
    }
}

impl Outcomes {
    fn of(metrics: &Metrics, topic: &str) -> Self {
        let timed = |outcome: Outcome| {
            let labels = [topic, outcome.as_str()];
            Timed {
                count: metrics.records_total.with_label_values(&labels),
                duration: metrics.record_duration_seconds.with_label_values(&labels),
            }
        };
        Self {
            notified: timed(Outcome::Notified),
            duplicate: timed(Outcome::Duplicate),
            ignored: timed(Outcome::Ignored),
            parked: timed(Outcome::Parked),
            dead_lettered: timed(Outcome::DeadLettered),
        }
    }
}

impl Claims {
    fn of(metrics: &Metrics) -> Self {
        let count = |result: ClaimResult| metrics.claims_total.with_label_values(&[result.as_str()]);
        Self {
            fresh: count(ClaimResult::Fresh),
            takeover: count(ClaimResult::Takeover),
            busy: count(ClaimResult::Busy),
            duplicate: count(ClaimResult::Duplicate),
            conflict: count(ClaimResult::Conflict),
            fenced: count(ClaimResult::Fenced),
        }
    }
}

impl Attempts {
    fn of(metrics: &Metrics, channel: &str) -> Self {
        let timed = |result: &str| Timed {
            count: metrics.attempts_total.with_label_values(&[channel, result]),
            duration: metrics.attempt_duration_seconds.with_label_values(&[channel, result]),
        };
        Self {
            ok: timed("ok"),
            transient: timed("transient"),
            unknown: timed("unknown"),
            permanent: timed("permanent"),
            outage: timed("outage"),
        }
    }
}
