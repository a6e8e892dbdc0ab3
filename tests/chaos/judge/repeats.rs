//! Notifications that the gateway accepted more than once, and whether a fault explains each.
//!
//! An external effect cannot be done exactly once. What was claimed and not settled when its worker was killed, stood still, or
//! could not reach the ledger is delivered again, with the same key. What was settled is not, whatever is broken: the ledger says when
//! each was. Anything else is a bug.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::{Check, Evidence, LedgerRow, Verdict};
use crate::Semantics;
use crate::chronicle::{Entry, Fault, Life, Weather};
use crate::stage::WEBHOOK_TIMEOUT;
use crate::support::gateway::Request;
use crate::support::oracle::Identity;
use crate::support::proxy::Mode;

/// A settlement follows the answer within this time unless something keeps it from doing so, and the end of what kept it.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);
/// What a worker started before it stood still reaches the gateway this much later at most.
const ARRIVES_WITHIN: Duration = Duration::from_secs(1);
/// Of a loss that happened while it heard nothing, a worker learns with its next heartbeat.
const LEARNS_WITHIN: Duration = Duration::from_secs(3);
/// Of one that has happened it learns from Postgres within this time, or begins nothing more; and what it began arrives.
const TOLD_WITHIN: Duration = Duration::from_secs(3);
/// Who stands still for less neither misses an answer nor loses a partition by that: Kafka heard of it a heartbeat ago at most.
const COUNTS_FROM: Duration = WEBHOOK_TIMEOUT;
/// An answer that the gateway gave this long before its connections were broken may not have arrived.
const ON_ITS_WAY: Duration = Duration::from_millis(200);

/// Why an identity was delivered once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    Killed,
    Frozen,
    /// The gateway broke the connection that its answer was to take.
    AnswerLost,
    /// The worker did not wait for the answer any more.
    AnswerLate,
    /// It could not be settled before the partition went to another owner.
    LedgerAway,
    /// The worker lost its partitions while the delivery ran.
    KafkaAway,
    /// The time to drain was over.
    CutOff,
    /// One worker had lost the partition to the other, and could not know it yet: it stood still, or heard nothing from Kafka.
    Unaware,
}

pub type Accepted<'a> = BTreeMap<Identity, Vec<&'a Request>>;

/// Two deliveries of one identity that were accepted, and its row in the ledger.
struct Repeat<'a> {
    first: Delivery<'a>,
    second: &'a Request,
    row: Option<&'a LedgerRow>,
}

/// A request, and what was broken meanwhile.
pub struct Delivery<'a> {
    pub request: &'a Request,
    pub evidence: &'a Evidence,
}

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
    let rows: BTreeMap<&Identity, &LedgerRow> = evidence.ledger.iter().map(|row| (&row.identity, row)).collect();
    for (identity, requests) in accepted.iter().filter(|(_, requests)| requests.len() > 1) {
        for pair in requests.windows(2) {
            if evidence.semantics == Semantics::AtMostOnce {
                verdict.find(Check::NotifiedTwice, format!("{identity:?} was accepted twice"));
            }
            let row = rows.get(identity).copied();
            let first = Delivery { request: pair[0], evidence };
            let repeat = Repeat { first, second: pair[1], row };
            let Some(cause) = repeat.cause() else {
                verdict.find(Check::NotifiedTwice, format!("{identity:?} {}", repeat.described()));
                continue;
            };
            *verdict.numbers.delivered_again.entry(cause).or_default() += 1;
            verdict.numbers.settled_late += usize::from(repeat.was_settled());
        }
    }
}

impl Repeat<'_> {
    /// The fault that kept the first worker from settling what the gateway had accepted, or the second from knowing of it.
    fn cause(&self) -> Option<Cause> {
        let unaware = || self.is_unaware().then_some(Cause::Unaware);
        let taken_over = self.was_settled().then(|| self.taken_over());
        // Whoever claims what is settled is told so, whatever else is broken.
        if taken_over == Some(None) {
            return unaware();
        }
        let is_other = life_of(self.second)?.number != life_of(self.first.request)?.number;
        // What let another one take it came before that.
        let end = taken_over.flatten().map_or(self.second.received, |taken| taken.min(self.second.received));
        self.first.unsettled_by(end, is_other).or_else(unaware)
    }

    /// Before the second delivery was asked for.
    fn was_settled(&self) -> bool {
        let settled = self.row.filter(|row| row.state == "d").and_then(|row| row.settled);
        settled.is_some_and(|settled| settled < self.second.received)
    }

    /// When somebody took it after the first delivery was asked for and before it was settled: nobody takes what is.
    fn taken_over(&self) -> Option<Instant> {
        let row = self.row?;
        let claimed = Some(row.claimed).filter(|claimed| *claimed > self.first.request.received);
        claimed.or_else(|| self.parked_taken_over(row))
    }

    /// What is parked is read by whoever took its partition, and not claimed. The settlement removes it.
    fn parked_taken_over(&self, row: &LedgerRow) -> Option<Instant> {
        let (settled, second) = (row.settled?, life_of(self.second)?.name());
        let Evidence { parking, takings, .. } = self.first.evidence;
        let mut removals = parking.iter().filter(|change| !change.is_parked && change.identity == row.identity);
        let was_parked = removals.any(|removal| removal.at >= settled);
        let mut takings = takings.iter().filter(|taking| {
            taking.by == second && taking.partition == row.coordinates.partition && taking.at < settled
        });
        let taken = takings.next_back().map(|taking| taking.at)?;
        (was_parked && taken > self.first.request.received).then_some(taken)
    }

    /// One of them had lost the partition to the other, and could not know it yet.
    fn is_unaware(&self) -> bool {
        let (Some(first), Some(second)) = (life_of(self.first.request), life_of(self.second)) else { return false };
        let is_unaware = |life, owner, asked| {
            let is_told_nothing = self.stood_still(life, asked) || self.is_cut_off(life, owner, asked);
            is_told_nothing && !self.has_taken_back(life, owner, asked)
        };
        first.number != second.number
            && (is_unaware(second, first, self.second.received)
                || (self.is_held_by(second) && is_unaware(first, second, self.first.request.received)))
    }

    /// Kafka had confirmed that the partition is its own again: nobody goes on with what he raised without that.
    fn has_taken_back(&self, life: Life, owner: Life, asked: Instant) -> bool {
        self.last_taking(life, asked) > self.last_taking(owner, asked)
    }

    /// What it had started before reaches the gateway when it goes on.
    fn stood_still(&self, life: Life, asked: Instant) -> bool {
        self.broken_within(
            ARRIVES_WITHIN,
            asked,
            |fault| matches!(fault, Fault::Frozen { life: of, .. } if *of == life),
        )
    }

    /// Kafka gives partitions away a session after the last it heard. Whoever heard nothing himself begins what he holds until Postgres
    /// tells him of the owner.
    fn is_cut_off(&self, life: Life, owner: Life, asked: Instant) -> bool {
        let is_new = self.last_taking(owner, asked).is_some_and(|taken| asked.duration_since(taken) <= TOLD_WITHIN);
        let cuts_off = |fault: &Fault| matches!(fault, Fault::KafkaPath { .. }) && takes_partitions(fault, life);
        is_new && self.broken_within(LEARNS_WITHIN, asked, cuts_off)
    }

    fn broken_within(&self, time: Duration, asked: Instant, is_it: impl Fn(&Fault) -> bool) -> bool {
        let since = asked.checked_sub(time).unwrap_or(asked);
        self.first.evidence.entries.iter().any(|entry| is_it(&entry.fault) && entry.overlaps(since, asked))
    }

    /// The second worker asked as the owner that it had become before the settlement: it may have claimed it, or read it, before.
    fn is_held_by(&self, second: Life) -> bool {
        let Some(settled) = self.row.and_then(|row| row.settled) else { return false };
        self.last_taking(second, self.second.received).is_some_and(|taken| taken < settled)
    }

    /// When this worker last raised the epoch of the record's partition before that.
    fn last_taking(&self, life: Life, before: Instant) -> Option<Instant> {
        let partition = self.row?.coordinates.partition;
        let takings = self
            .first
            .evidence
            .takings
            .iter()
            .filter(|taking| taking.partition == partition && taking.by == life.name() && taking.at < before);
        takings.map(|taking| taking.at).max()
    }

    fn described(&self) -> String {
        let since = |past: Instant| {
            let seconds = self.second.received.saturating_duration_since(past).as_secs_f64();
            format!("{seconds:.3} s before")
        };
        let settled = match self.row.and_then(|row| Some((row.claimed, row.settled?))) {
            Some((claimed, settled)) if self.was_settled() => {
                format!("it was claimed {}, settled {}", since(claimed), since(settled))
            }
            _ => "it was not settled".to_owned(),
        };
        let (first, second) = (name(self.first.request), name(self.second));
        format!("by {first}, answered {}, and by {second}; {settled}", since(self.first.answered()))
    }
}

impl Delivery<'_> {
    /// What kept the worker from writing down how it ended, before this time: whether another one went on, or the same.
    pub fn unsettled_by(&self, end: Instant, is_other: bool) -> Option<Cause> {
        let life = life_of(self.request)?;
        let (asked, answered, until) = (self.request.received, self.answered(), self.unsettled_until(life, end));
        let cause = |entry: &Entry| match entry.fault {
            // The dead ask for nothing: what reached the gateway after it was sent before.
            Fault::Killed { life: of, .. } => (of == life && entry.from <= until).then_some(Cause::Killed),
            Fault::Frozen { life: of, .. } => {
                (of == life && entry.lasts(COUNTS_FROM) && entry.overlaps(asked, until)).then_some(Cause::Frozen)
            }
            Fault::Terminated(of) => {
                let is_cut_off = of == life && self.evidence.crew.cut_off.contains(&life);
                (is_cut_off && entry.overlaps(asked, until)).then_some(Cause::CutOff)
            }
            Fault::Gateway(Weather::Down) => {
                entry.overlaps(answered, answered + ON_ITS_WAY).then_some(Cause::AnswerLost)
            }
            Fault::PostgresCrashed | Fault::Locked { .. } | Fault::DatabasePath { .. } => {
                // A worker that keeps its partition settles later, and does not deliver again.
                (is_other && self.holds_settlement(entry, life, until)).then_some(Cause::LedgerAway)
            }
            Fault::BrokerKilled { .. }
            | Fault::BrokerStopped { .. }
            | Fault::SecondBrokerDown { .. }
            | Fault::KafkaPath { .. } => {
                let is_away = is_other && takes_partitions(&entry.fault, life) && entry.overlaps(asked, until);
                is_away.then_some(Cause::KafkaAway)
            }
            Fault::Gateway(_) | Fault::Visits | Fault::Storm | Fault::DlqRefuses | Fault::DlqGone => None,
        };
        // On a busy machine the request came late, too: when the worker began to wait only it can tell.
        let is_late = self.evidence.crew.unanswered.contains(&(life, self.request.order_id()));
        let late = is_late.then_some(Cause::AnswerLate);
        self.evidence.entries.iter().filter_map(cause).chain(late).min()
    }

    fn answered(&self) -> Instant {
        self.request.answered.unwrap_or(self.request.received)
    }

    /// Until when it may have been without settlement: a moment after its answer, or after the faults that lasted then.
    fn unsettled_until(&self, life: Life, end: Instant) -> Instant {
        let mut until = self.answered() + SETTLES_WITHIN;
        loop {
            let holds = |entry: &&Entry| match entry.fault {
                Fault::Frozen { life: of, .. } => of == life && entry.overlaps(self.request.received, until),
                _ => self.holds_settlement(entry, life, until),
            };
            let ends = self.evidence.entries.iter().filter(holds).map(|entry| entry.to.unwrap_or(end));
            match ends.map(|end| end + SETTLES_WITHIN).max() {
                Some(later) if later > until => until = later,
                _ => return until.min(end).max(self.request.received),
            }
        }
    }

    /// The settlement could not be written, or the answer to it not arrive.
    fn holds_settlement(&self, entry: &Entry, life: Life, until: Instant) -> bool {
        let is_in_its_way = match &entry.fault {
            Fault::PostgresCrashed => true,
            Fault::Locked { table } => SETTLED_IN.contains(table),
            Fault::DatabasePath { slot, .. } => Some(*slot) == life.slot,
            _ => false,
        };
        let answered = self.answered();
        is_in_its_way && entry.overlaps(answered.checked_sub(SETTLES_WITHIN).unwrap_or(answered), until)
    }
}

/// The tables that a settlement writes to: of a locked one it has to wait.
const SETTLED_IN: [&str; 3] = ["processed_orders", "parked_events", "dead_letters"];

/// Whether Kafka may take this worker for gone. One broker of three is, for a while, who says so.
fn takes_partitions(fault: &Fault, of: Life) -> bool {
    match fault {
        Fault::BrokerKilled { .. } | Fault::BrokerStopped { .. } | Fault::SecondBrokerDown { .. } => true,
        Fault::KafkaPath { slot, mode } => Some(*slot) == of.slot && !matches!(mode, Mode::Pass | Mode::Slow(_)),
        _ => false,
    }
}

fn name(request: &Request) -> String {
    life_of(request).map_or_else(|| request.path.clone(), |life| life.to_string())
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
            Self::AnswerLate => "answer late",
            Self::LedgerAway => "ledger out of reach",
            Self::KafkaAway => "partition lost",
            Self::CutOff => "drain cut off",
            Self::Unaware => "owner unaware of its loss",
        })
    }
}
