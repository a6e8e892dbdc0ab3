//! Notifications that the gateway accepted more than once, and whether a fault explains each.
//!
//! An external effect cannot be done exactly once. What was claimed and not settled when its worker was killed, stood still, or
//! could not reach the ledger is delivered again, with the same key. Anything else is a bug.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::{Check, Evidence, Verdict};
use crate::chronicle::{Entry, Fault, Life, Weather};
use crate::stage::SESSION_TIMEOUT;
use crate::support::gateway::Request;
use crate::support::oracle::Identity;
use crate::support::proxy::Mode;

/// A settlement follows the answer within this time unless something keeps it from doing so.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);

/// Why an identity was delivered once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    Killed,
    Frozen,
    /// The gateway broke the connection that its answer was to take.
    AnswerLost,
    /// It could not be settled before the partition went to another owner.
    LedgerAway,
    /// The worker lost its partitions while the delivery ran.
    KafkaAway,
    /// The time to drain was over.
    CutOff,
    /// The second worker had lost the partition to the first, and could not know it yet: it stood still, or heard nothing from Kafka.
    Unaware,
}

pub type Accepted<'a> = BTreeMap<Identity, Vec<&'a Request>>;

/// Requests that were accepted, in the order of their answers.
pub fn accepted(requests: &[Request]) -> Accepted<'_> {
    let mut accepted = Accepted::new();
    for request in requests.iter().filter(|request| request.is_accepted()) {
        let identity = (request.order_id(), request.event_type().to_owned());
        accepted.entry(identity).or_default().push(request);
    }
    for requests in accepted.values_mut() {
        requests.sort_by_key(|request| request.answered);
    }
    accepted
}

pub fn judge(evidence: &Evidence, accepted: &Accepted<'_>, verdict: &mut Verdict) {
    for (identity, requests) in accepted.iter().filter(|(_, requests)| requests.len() > 1) {
        for pair in requests.windows(2) {
            match cause(pair[0], pair[1], &evidence.entries) {
                Some(cause) => *verdict.numbers.delivered_again.entry(cause).or_default() += 1,
                None => verdict.find(Check::NotifiedTwice, described(identity, pair)),
            }
        }
    }
}

fn described(identity: &Identity, pair: &[&Request]) -> String {
    let gap = pair[1].received.saturating_duration_since(pair[0].answered.unwrap_or(pair[0].received));
    format!("{identity:?} by {} and {gap:?} later by {}", name(pair[0]), name(pair[1]))
}

fn name(request: &Request) -> String {
    life_of(request).map_or_else(|| request.path.clone(), |life| life.to_string())
}

/// The fault that kept the first worker from settling what the gateway had accepted.
fn cause(first: &Request, second: &Request, entries: &[Entry]) -> Option<Cause> {
    let Life { number: life, slot } = life_of(first)?;
    let until = unsettled_until(first, second, slot, life, entries);
    let during = |entry: &&Entry| entry.overlaps(first.received, until);
    let causes = entries.iter().filter(during).filter_map(|entry| cause_of(&entry.fault, life, slot));
    causes.min().or_else(|| is_unaware(second, entries).then_some(Cause::Unaware))
}

/// Kafka gives partitions away a session after the last it heard; whoever heard nothing himself learns that a little later.
fn is_unaware(second: &Request, entries: &[Entry]) -> bool {
    let Some(Life { number, slot }) = life_of(second) else { return false };
    let before = second.received.checked_sub(SESSION_TIMEOUT * 2).unwrap_or(second.received);
    entries
        .iter()
        .filter(|entry| entry.overlaps(before, second.received))
        .any(|entry| matches!(cause_of(&entry.fault, number, slot), Some(Cause::Frozen | Cause::KafkaAway)))
}

fn cause_of(fault: &Fault, life: usize, of_slot: Option<usize>) -> Option<Cause> {
    match fault {
        Fault::Killed(of) => (of.number == life).then_some(Cause::Killed),
        Fault::Frozen(of) => (of.number == life).then_some(Cause::Frozen),
        Fault::Terminated(of) => (of.number == life).then_some(Cause::CutOff),
        Fault::Gateway(Weather::Down | Weather::Resets) => Some(Cause::AnswerLost),
        Fault::Gateway(Weather::Status(_) | Weather::Slow(_) | Weather::Hangs | Weather::Flickers)
        | Fault::DlqRefuses => None,
        Fault::PostgresCrashed | Fault::Locked { .. } => Some(Cause::LedgerAway),
        Fault::DatabasePath { slot, .. } => (Some(*slot) == of_slot).then_some(Cause::LedgerAway),
        Fault::BrokerKilled { .. } | Fault::BrokerStopped { .. } => Some(Cause::KafkaAway),
        Fault::KafkaPath { slot, mode } => {
            (Some(*slot) == of_slot && !matches!(mode, Mode::Pass)).then_some(Cause::KafkaAway)
        }
    }
}

/// Until when the first delivery may have been without settlement: a moment after its answer, or after the faults that lasted then.
fn unsettled_until(first: &Request, second: &Request, slot: Option<usize>, life: usize, entries: &[Entry]) -> Instant {
    let mut until = first.answered.unwrap_or(first.received) + SETTLES_WITHIN;
    loop {
        let holds = |entry: &&Entry| {
            let holding = cause_of(&entry.fault, life, slot)
                .is_some_and(|cause| matches!(cause, Cause::LedgerAway | Cause::Frozen));
            holding && entry.overlaps(first.received, until)
        };
        let held = entries.iter().filter(holds).map(|entry| entry.to.unwrap_or(second.received) + SETTLES_WITHIN).max();
        match held {
            Some(held) if held > until => until = held,
            _ => return until.min(second.received.max(first.received)),
        }
    }
}

/// Each worker calls the gateway by an address of its own.
fn life_of(request: &Request) -> Option<Life> {
    Life::of_path(&request.path)
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "worker killed",
            Self::Frozen => "worker frozen",
            Self::AnswerLost => "answer lost",
            Self::LedgerAway => "ledger out of reach",
            Self::KafkaAway => "partition lost",
            Self::CutOff => "drain cut off",
            Self::Unaware => "owner unaware of its loss",
        })
    }
}
