//! The closing account: every record that was produced, against what the gateway, the topics and the ledger say became of it.
//!
//! Nothing here asks the worker. A record is accounted for when its group's offset has passed it and one of these holds: its order
//! was notified, it is a dead letter in the topic as in the table, or its event type is not wanted.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::broker::StoredRecord;
use super::gateway::Deliveries;
use super::ledger::DeadRow;
use super::plan::{Content, POISON_HEADERS, Plan, PlannedRecord};
use crate::core::failure::Reason;
use crate::core::record::{Coordinates, Offset, Partition};

const MAX_PROBLEMS: usize = 10;

/// What was found when everything had come to rest.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Each record that was produced, and where.
    pub produced: Vec<(Coordinates, PlannedRecord)>,
    pub deliveries: HashMap<u64, Deliveries>,
    pub dead_topic: Vec<StoredRecord>,
    pub dead_rows: Vec<DeadRow>,
    pub committed: BTreeMap<Partition, Offset>,
    /// Orders that the ledger holds as notified.
    pub done: HashSet<String>,
    /// Orders that were claimed and not settled when the worker was killed.
    pub open_at_kill: HashSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    pub produced: u64,
    pub notified: u64,
    pub duplicates: u64,
    pub ignored: u64,
    /// By reason, as the topic has them.
    pub dead_letters: BTreeMap<Reason, u64>,
    /// Records that nobody has in custody.
    pub lost: u64,
    /// Records that the group's offset has not passed: Kafka still has them in custody.
    pub waiting: u64,
    /// Notifications beyond the first of an order that the kill does not explain.
    pub notified_twice: u64,
    /// Deliveries that were repeated, with the same idempotency key, because their effect was unknown when the worker was killed.
    pub redelivered: u64,
    /// Whatever else does not agree.
    pub problems: Vec<String>,
}

impl Accounts {
    pub fn close(plan: &Plan, evidence: &Evidence) -> Self {
        let mut accounts = Self { produced: count(evidence.produced.len()), ..Self::default() };
        let letters = accounts.dead_letters(plan, evidence);
        let mut notified = HashSet::new();
        for (coordinates, record) in &evidence.produced {
            let passed = evidence.committed.get(&coordinates.partition).is_some_and(|next| coordinates.offset < *next);
            if !passed {
                accounts.waiting += 1;
                continue;
            }
            accounts.enter(evidence, *record, letters.get(coordinates).copied(), &mut notified);
        }
        accounts.repetitions(evidence);
        accounts.compare_ledger(plan, evidence, &notified);
        accounts
    }

    /// Every record accounted for, none lost, none notified twice, and all sources agree.
    pub fn balance(&self) -> bool {
        self.lost == 0 && self.waiting == 0 && self.notified_twice == 0 && self.problems.is_empty()
    }

    pub fn dead_letter_count(&self) -> u64 {
        self.dead_letters.values().sum()
    }

    fn problem(&mut self, problem: impl FnOnce() -> String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem());
        }
    }

    /// Where one record that was passed went.
    fn enter(
        &mut self,
        evidence: &Evidence,
        record: PlannedRecord,
        letter: Option<Reason>,
        notified: &mut HashSet<u64>,
    ) {
        match (record.content, letter) {
            (_, Some(reason)) => *self.dead_letters.entry(reason).or_default() += 1,
            (Content::Order(order) | Content::Duplicate(order), None) => {
                let is_notified = evidence.deliveries.get(&order).is_some_and(|deliveries| deliveries.accepted > 0);
                if !is_notified {
                    self.lost += 1;
                } else if notified.insert(order) {
                    self.notified += 1;
                } else {
                    self.duplicates += 1;
                }
            }
            (Content::Ignored(_), None) => self.ignored += 1,
            (Content::Poison(_), None) => self.lost += 1,
        }
    }

    /// The dead letters that are as they must be, by the coordinates of their records.
    fn dead_letters(&mut self, plan: &Plan, evidence: &Evidence) -> HashMap<Coordinates, Reason> {
        let produced: HashMap<_, _> = evidence.produced.iter().copied().collect();
        let rows: HashMap<_, _> = evidence.dead_rows.iter().map(|row| (row.coordinates, row.reason.as_str())).collect();
        let mut letters = HashMap::new();
        for letter in &evidence.dead_topic {
            match checked(plan, &produced, &rows, letter) {
                Ok((coordinates, reason)) => {
                    letters.insert(coordinates, reason);
                }
                Err(problem) => self.problem(|| format!("dead letter {}: {problem}", place(letter.coordinates))),
            }
        }
        for row in evidence.dead_rows.iter().filter(|row| !letters.contains_key(&row.coordinates)) {
            self.problem(|| format!("dead_letters has {} and the topic has not", place(row.coordinates)));
        }
        letters
    }

    fn repetitions(&mut self, evidence: &Evidence) {
        for (order, deliveries) in &evidence.deliveries {
            let keys = u32::try_from(deliveries.keys.len()).unwrap_or(u32::MAX);
            let same_key = deliveries.accepted.saturating_sub(keys);
            // One kill leaves one delivery of unknown effect; any repetition beyond that is Herald's.
            let explained = same_key.min(u32::from(evidence.open_at_kill.contains(&order.to_string())));
            self.redelivered += u64::from(explained);
            self.notified_twice += u64::from(deliveries.accepted.saturating_sub(1).saturating_sub(explained));
            if deliveries.altered > 0 {
                self.problem(|| format!("order {order} was notified with other content than it was produced with"));
            }
        }
    }

    fn compare_ledger(&mut self, plan: &Plan, evidence: &Evidence, notified: &HashSet<u64>) {
        let notified: HashSet<String> = notified.iter().map(u64::to_string).collect();
        for order in notified.difference(&evidence.done) {
            self.problem(|| format!("order {order} was notified and the ledger does not say so"));
        }
        for order in evidence.done.difference(&notified) {
            self.problem(|| format!("the ledger says that order {order} was notified and the gateway does not"));
        }
        let is_foreign = |order: &&u64| !(1..=plan.orders()).contains(*order);
        for order in evidence
            .deliveries
            .iter()
            .filter(|(_, found)| found.accepted > 0)
            .map(|(order, _)| order)
            .filter(is_foreign)
        {
            self.problem(|| format!("order {order} was notified and must not be"));
        }
    }
}

/// The coordinates and the reason of a dead letter that keeps its record unchanged.
fn checked(
    plan: &Plan,
    produced: &HashMap<Coordinates, PlannedRecord>,
    rows: &HashMap<Coordinates, &str>,
    letter: &StoredRecord,
) -> Result<(Coordinates, Reason), String> {
    let partition: i32 = number(letter, "__dlq.errors.partition")?;
    let offset: i64 = number(letter, "__dlq.errors.offset")?;
    let origin = Coordinates { partition: Partition(partition), offset: Offset(offset) };
    let record = produced.get(&origin).ok_or_else(|| format!("there is no record at {}", place(origin)))?;
    let Content::Poison(poison) = record.content else {
        return Err(format!("the record at {} is a good one", place(origin)));
    };
    let expected = poison.reason();
    let reason = text(letter, "herald-reason")?;
    if reason != expected.as_str() {
        return Err(format!("the reason is {reason} and must be {expected}"));
    }
    if rows.get(&origin) != Some(&expected.as_str()) {
        return Err(format!("dead_letters has no row with this reason for {}", place(origin)));
    }
    if letter.key.is_some() || letter.value != plan.value(record.content) {
        return Err("key or value are not those of the record".to_owned());
    }
    let keeps = |(name, value): &(&str, &[u8])| header(letter, name) == Some(*value);
    if !POISON_HEADERS.iter().all(keeps) {
        return Err("a header of the record is missing".to_owned());
    }
    Ok((origin, expected))
}

fn header<'a>(letter: &'a StoredRecord, name: &str) -> Option<&'a [u8]> {
    letter.headers.iter().find(|(found, _)| found == name).and_then(|(_, value)| value.as_deref())
}

fn text<'a>(letter: &'a StoredRecord, name: &str) -> Result<&'a str, String> {
    header(letter, name)
        .and_then(|value| std::str::from_utf8(value).ok())
        .ok_or_else(|| format!("the header {name} is missing"))
}

fn number<N: std::str::FromStr>(letter: &StoredRecord, name: &str) -> Result<N, String> {
    text(letter, name)?.parse().map_err(|_| format!("the header {name} is not a number"))
}

fn place(coordinates: Coordinates) -> String {
    format!("{}@{}", coordinates.partition, coordinates.offset)
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
