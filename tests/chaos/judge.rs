//! Compares what was produced with what the gateway, the ledger and the DLQ topic have.

pub mod clock;
pub mod letters;
mod order;
pub mod parking;
mod repeats;
mod stored;
mod uncertain;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use herald::core::record::{Coordinates, Offset, Partition, Record};
use sqlx::PgPool;

use crate::chronicle::{Entry, Fault, Kind, Length, Life};
use crate::content::{Fate, NUMBER_HEADER, Planned};
use crate::crew;
use crate::load::{Receipt, Sent};
use crate::stage::WEBHOOK_TIMEOUT;
use crate::support::gateway::Request;
use crate::support::oracle::{self, Identity};
use crate::{Ordering, Semantics};

use clock::{Clock, Micros};
pub use letters::Letter;
pub use parking::Parking;
pub use repeats::Cause;

/// All that the verdict rests on.
#[derive(Debug)]
pub struct Evidence {
    pub sent: Vec<Sent>,
    /// The source topic as it is in the end: the truth about what had to be done.
    pub log: Vec<Record>,
    pub requests: Vec<Request>,
    pub ledger: Vec<LedgerRow>,
    pub letters: Vec<Letter>,
    /// What the DLQ topic holds, and what it held before it was deleted.
    pub published: Vec<Record>,
    pub parking: Vec<parking::Change>,
    /// Of partitions, in the order of time.
    pub takings: Vec<parking::Taking>,
    pub entries: Vec<Entry>,
    pub crew: crew::Record,
    pub ordering: Ordering,
    pub semantics: Semantics,
    /// Long enough for everything to happen.
    pub is_long: bool,
    /// What was still to do when the time to recover was over.
    pub left: Option<String>,
    pub recovered_in: Duration,
}

/// A row of the ledger.
#[derive(Clone, Debug)]
pub struct LedgerRow {
    pub identity: Identity,
    pub state: String,
    pub coordinates: Coordinates,
    /// When a claim took the identity last, or a moment before; of one that is done, none does any more.
    pub claimed: Instant,
    /// Written once, with the first statement that says how it ended. Then, or a moment after: so that nothing that another one did
    /// later is taken for earlier.
    pub settled: Option<Instant>,
}

/// Findings by check; a run is clean when there are none.
#[derive(Debug, Default)]
pub struct Verdict {
    pub findings: BTreeMap<Check, Vec<String>>,
    pub numbers: Numbers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    Lost,
    NotifiedTwice,
    OutOfOrder,
    DeadLetters,
    Accounts,
    Invariants,
    Workers,
    Recovery,
    /// Nothing happened, so nothing was shown.
    Idle,
    /// What the broker acknowledged and does not have: not ours, but the run is worth nothing then.
    Broker,
}

/// What happened, for the reader.
#[derive(Debug, Default)]
pub struct Numbers {
    pub produced: usize,
    pub acknowledged: usize,
    pub uncertain: usize,
    pub uncertain_arrived: usize,
    pub copies: usize,
    pub ignored: usize,
    pub notified: usize,
    pub requests: usize,
    pub dead: BTreeMap<&'static str, usize>,
    pub letters_published_again: usize,
    /// Copies that the producer itself wrote.
    pub written_twice: usize,
    /// Letters that the DLQ topic has as a pointer to their row.
    pub pointers: usize,
    /// Accepted once more, with the same key, for a reason that the chronicle knows.
    pub delivered_again: BTreeMap<Cause, usize>,
    /// Of these, settled by the first worker after another had claimed it.
    pub settled_late: usize,
    /// At most once: identities whose effect is unknown, and those of them that were begun and then not asked for.
    pub uncertain_ends: usize,
    pub uncertain_untold: usize,
    pub compared_in_order: usize,
    pub parking: Parking,
    pub faults: BTreeMap<Kind, usize>,
    /// Kills, and long freezes, of workers that the gateway owed an answer.
    pub killed_while_delivering: usize,
    pub frozen_while_delivering: usize,
    pub crew: crew::Record,
    pub recovered_in: Duration,
}

/// A record of the log and what was planned with it.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub number: usize,
    pub record: &'a Record,
    pub planned: &'a Planned,
}

impl Check {
    pub const ALL: [Self; 10] = [
        Self::Lost,
        Self::NotifiedTwice,
        Self::OutOfOrder,
        Self::DeadLetters,
        Self::Accounts,
        Self::Invariants,
        Self::Workers,
        Self::Recovery,
        Self::Idle,
        Self::Broker,
    ];
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, check: Check, what: impl Into<String>) {
        self.findings.entry(check).or_default().push(what.into());
    }

    fn find_all(&mut self, check: Check, found: impl IntoIterator<Item = String>) {
        for what in found {
            self.find(check, what);
        }
    }
}

type Row = (String, String, String, i32, i64, Micros, Option<Micros>);

pub async fn ledger(database: &PgPool, clock: &Clock) -> Vec<LedgerRow> {
    let statement = "SELECT order_id, event_type, state, kpartition, koffset,
            (extract(epoch FROM claimed_at) * 1000000)::bigint, (extract(epoch FROM settled_at) * 1000000)::bigint
        FROM processed_orders";
    let rows: Vec<Row> = sqlx::query_as(statement).fetch_all(database).await.unwrap();
    rows.into_iter()
        .map(|(order_id, event_type, state, partition, offset, claimed, settled)| LedgerRow {
            identity: (order_id, event_type),
            state,
            coordinates: Coordinates { partition: Partition(partition), offset: Offset(offset) },
            claimed: clock.earliest(claimed),
            settled: settled.map(|settled| clock.latest(settled)),
        })
        .collect()
}

pub fn judge(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    let known = known(evidence, &mut verdict);
    count(evidence, &known, &mut verdict);
    judge_notifications(evidence, &known, &mut verdict);
    order::judge(evidence, &known, &mut verdict);
    uncertain::judge(evidence, &mut verdict);
    parking::judge(evidence, &mut verdict);
    letters::judge(evidence, &known, &mut verdict);
    verdict.find_all(Check::Accounts, evidence.crew.open_accounts.iter().cloned());
    verdict.find_all(Check::Invariants, evidence.crew.violations.iter().cloned());
    verdict.find_all(Check::Workers, evidence.crew.bad_ends.iter().cloned());
    verdict.find_all(Check::Recovery, evidence.left.iter().cloned());
    judge_exercise(evidence, &mut verdict);
    verdict
}

/// A run shows nothing of what did not happen in it.
fn judge_exercise(evidence: &Evidence, verdict: &mut Verdict) {
    let numbers = &verdict.numbers;
    let mut shown = vec![
        ("notified".to_owned(), numbers.notified),
        ("dead letters".to_owned(), numbers.dead.len()),
        ("compared in order".to_owned(), numbers.compared_in_order),
        ("looks".to_owned(), numbers.crew.looks),
        ("parked".to_owned(), numbers.parking.told_parked),
    ];
    if evidence.semantics == Semantics::AtMostOnce {
        shown.push(("uncertain".to_owned(), numbers.uncertain_ends));
    }
    if evidence.is_long {
        shown.push(("kills while delivering".to_owned(), numbers.killed_while_delivering));
        shown.push(("long freezes while delivering".to_owned(), numbers.frozen_while_delivering));
        shown.extend(numbers.faults.iter().map(|((part, what), count)| (format!("{part}: {what}"), *count)));
    }
    for (what, _) in shown.into_iter().filter(|(_, count)| *count == 0) {
        verdict.find(Check::Idle, format!("none of: {what}"));
    }
}

/// Every record of the log, with what was planned. What was acknowledged has to be there.
fn known<'a>(evidence: &'a Evidence, verdict: &mut Verdict) -> Vec<Known<'a>> {
    let mut known = Vec::new();
    let mut found: BTreeMap<usize, Vec<Coordinates>> = BTreeMap::new();
    for record in &evidence.log {
        match number(record).and_then(|number| Some((number, evidence.sent.get(number)?))) {
            Some((number, sent)) => {
                known.push(Known { number, record, planned: &sent.planned });
                found.entry(number).or_default().push(record.coordinates);
            }
            None => verdict.find(Check::Broker, format!("{:?} was never produced", record.coordinates)),
        }
    }
    for (number, sent) in evidence.sent.iter().enumerate() {
        let Receipt::Acknowledged(at) = sent.receipt else { continue };
        // Of an answer that was lost the producer learns with the next try that the record is there, and not where.
        let is_there = |places: &Vec<Coordinates>| at.offset.0 < 0 || places.contains(&at);
        if !found.get(&number).is_some_and(is_there) {
            verdict.find(Check::Broker, format!("{at:?} was acknowledged and is not in the log"));
        }
    }
    known
}

fn number(record: &Record) -> Option<usize> {
    let header = record.headers.iter().rev().find(|header| header.name == NUMBER_HEADER)?;
    std::str::from_utf8(header.value.as_deref()?).ok()?.parse().ok()
}

fn count(evidence: &Evidence, known: &[Known<'_>], verdict: &mut Verdict) {
    let acknowledged = |sent: &&Sent| matches!(sent.receipt, Receipt::Acknowledged(_));
    let numbers = &mut verdict.numbers;
    numbers.produced = evidence.sent.len();
    numbers.acknowledged = evidence.sent.iter().filter(acknowledged).count();
    numbers.uncertain = numbers.produced - numbers.acknowledged;
    let arrived: BTreeSet<usize> = known.iter().filter_map(|known| number(known.record)).collect();
    numbers.uncertain_arrived = arrived.len().saturating_sub(numbers.acknowledged);
    numbers.written_twice = known.len() - arrived.len();
    numbers.requests = evidence.requests.len();
    for Known { planned, .. } in known {
        match planned.fate {
            Fate::Notified => numbers.copies += usize::from(planned.is_copy),
            Fate::Ignored => numbers.ignored += 1,
            Fate::Dead(_) => {}
        }
    }
    numbers.faults = crate::chronicle::counts(&evidence.entries);
    numbers.killed_while_delivering = met_while_delivering(evidence, |fault| matches!(fault, Fault::Killed { .. }));
    let is_long = |fault: &Fault| matches!(fault, Fault::Frozen { length: Length::Long, .. });
    numbers.frozen_while_delivering = met_while_delivering(evidence, is_long);
    numbers.crew = evidence.crew.clone();
    numbers.recovered_in = evidence.recovered_in;
}

/// Those of these faults that came after a request which the gateway had not answered then, and which was still waited for.
fn met_while_delivering(evidence: &Evidence, is_meant: impl Fn(&Fault) -> bool) -> usize {
    let is_met = |entry: &&Entry| {
        let (Fault::Killed { life: of, .. } | Fault::Frozen { life: of, .. }) = entry.fault else { return false };
        is_meant(&entry.fault)
            && evidence.requests.iter().any(|request| {
                let is_waited_for = request.received <= entry.from && entry.from < request.received + WEBHOOK_TIMEOUT;
                let is_owed = request.answered.is_none_or(|answered| answered > entry.from);
                is_waited_for && is_owed && Life::of_path(&request.path) == Some(of)
            })
    };
    evidence.entries.iter().filter(is_met).count()
}

fn judge_notifications(evidence: &Evidence, known: &[Known<'_>], verdict: &mut Verdict) {
    let expected: BTreeSet<&Identity> =
        of_fate(known, Fate::Notified).filter_map(|planned| planned.identity.as_ref()).collect();
    let accepted = repeats::accepted(&evidence.requests);
    let uncertain = uncertain::identities(evidence);
    verdict.numbers.notified = expected.iter().filter(|identity| accepted.contains_key(**identity)).count();
    for identity in expected.iter().filter(|identity| !uncertain.contains(**identity)) {
        if !accepted.contains_key(*identity) {
            verdict.find(Check::Lost, format!("{identity:?} was never accepted by the gateway"));
        }
    }
    let done: BTreeSet<&Identity> =
        evidence.ledger.iter().filter(|row| row.state == "d").map(|row| &row.identity).collect();
    let is_unfinished = |identity: &&Identity| !done.contains(identity) && !uncertain.contains(identity);
    for identity in expected.iter().copied().filter(is_unfinished) {
        verdict.find(Check::Lost, format!("{identity:?} is not done in the ledger"));
    }
    let notified: BTreeSet<usize> =
        known.iter().filter(|known| known.planned.fate == Fate::Notified).map(|known| known.number).collect();
    for request in evidence.requests.iter().filter(|request| request.is_accepted()) {
        if !order::named(request).is_some_and(|number| notified.contains(&number)) {
            let told = format!("{} was accepted and should not have been", request.body);
            verdict.find(Check::NotifiedTwice, told);
        }
    }
    for identity in oracle::unstable_keys(&evidence.requests) {
        verdict.find(Check::NotifiedTwice, format!("{identity:?} was asked for with different idempotency keys"));
    }
    repeats::judge(evidence, &accepted, verdict);
}

fn of_fate<'a>(known: &'a [Known<'a>], fate: Fate) -> impl Iterator<Item = &'a Planned> {
    known.iter().map(|known| known.planned).filter(move |planned| planned.fate == fate)
}
