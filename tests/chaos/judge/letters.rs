//! Dead letters: exactly the poison, each as it was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use herald::core::failure::Reason;
use herald::core::record::{Coordinates, Offset, Partition, Record};
use sqlx::PgPool;

use super::{Check, Evidence, Known, Verdict, stored, uncertain};
use crate::chronicle::Fault;
use crate::content::Fate;
use crate::support::letters::{Row, rows};
use crate::support::oracle::Identity;

/// How long brokers may go on with a limit that was lifted, and a letter wait in the producer.
const LIFTED_WITHIN: Duration = Duration::from_secs(12);

/// A row of `dead_letters`.
#[derive(Clone, Debug)]
pub struct Letter {
    pub row: Row,
    /// The record as it is stored.
    pub record: Vec<u8>,
}

pub async fn read(database: &PgPool) -> Vec<Letter> {
    let statement = "SELECT id, record FROM dead_letters";
    let found: Vec<(i64, Vec<u8>)> = sqlx::query_as(statement).fetch_all(database).await.unwrap();
    let mut found: BTreeMap<i64, Vec<u8>> = found.into_iter().collect();
    let of_row = |row: Row| {
        let record = found.remove(&row.id).expect("nobody writes letters any more");
        Letter { row, record }
    };
    rows(database).await.into_iter().map(of_row).collect()
}

pub fn judge(evidence: &Evidence, known: &[Known<'_>], verdict: &mut Verdict) {
    let mut expected: BTreeMap<Coordinates, (&Record, &'static str)> = BTreeMap::new();
    let dead = known.iter().filter_map(|known| match known.planned.fate {
        Fate::Dead(reason) => Some((known, reason.as_str())),
        Fate::Notified | Fate::Ignored => None,
    });
    for (Known { record, planned, .. }, reason) in dead {
        let ended_with_another = planned.fate != Fate::Dead(Reason::Conflict)
            && planned.identity.as_ref().is_some_and(|identity| is_duplicate(evidence, known, record, identity));
        if !ended_with_another {
            expected.insert(record.coordinates, (record, reason));
        }
    }
    let uncertain = uncertain::identities(evidence);
    let is_letter = |record: &Record| {
        let mut letters = evidence.letters.iter().filter(|letter| letter.row.reason == Reason::Uncertain.as_str());
        letters.any(|letter| letter.row.is_of(record.coordinates))
    };
    for Known { record, planned, .. } in known {
        // Whatever would have become of it. Of several copies the one that was delivered.
        if planned.identity.as_ref().is_some_and(|identity| uncertain.contains(identity)) && is_letter(record) {
            expected.insert(record.coordinates, (record, Reason::Uncertain.as_str()));
        }
    }
    judge_rows(evidence, &expected, verdict);
    judge_published(evidence, &expected, verdict);
}

/// The producer wrote the event twice, since an answer was lost; this copy found the other parked, and ended as its duplicate. It has
/// no letter of its own, and the other one has.
fn is_duplicate(evidence: &Evidence, known: &[Known<'_>], record: &Record, identity: &Identity) -> bool {
    let has_letter = |coordinates: Coordinates| evidence.letters.iter().any(|letter| letter.row.is_of(coordinates));
    let mut others = known.iter().filter(|other| {
        other.planned.identity.as_ref() == Some(identity) && other.record.coordinates != record.coordinates
    });
    !has_letter(record.coordinates) && others.any(|other| has_letter(other.record.coordinates))
}

fn judge_rows(evidence: &Evidence, expected: &BTreeMap<Coordinates, (&Record, &'static str)>, verdict: &mut Verdict) {
    let mut rows: BTreeMap<Coordinates, &str> = BTreeMap::new();
    for Letter { row, record, .. } in &evidence.letters {
        let coordinates = Coordinates { partition: Partition(row.kpartition), offset: Offset(row.koffset) };
        if rows.insert(coordinates, &row.reason).is_some() {
            verdict.find(Check::DeadLetters, format!("{coordinates:?} has two dead letters"));
        }
        if expected.get(&coordinates).is_some_and(|(original, _)| !stored::is(record, original)) {
            verdict.find(Check::DeadLetters, format!("{coordinates:?} is not byte for byte in Postgres"));
        }
        match expected.get(&coordinates) {
            Some((_, reason)) if *reason == row.reason => {
                *verdict.numbers.dead.entry(reason).or_default() += 1;
            }
            Some((_, reason)) => {
                let told = format!("{coordinates:?} is {} and not {reason}: {}", row.reason, row.error);
                verdict.find(Check::DeadLetters, told);
            }
            None => {
                let told = format!(
                    "order {} at {coordinates:?} was given up on as {} after {} attempts: {}",
                    row.order_id, row.reason, row.attempts, row.error
                );
                verdict.find(Check::DeadLetters, told);
            }
        }
    }
    for (coordinates, (_, reason)) in expected.iter().filter(|(coordinates, _)| !rows.contains_key(coordinates)) {
        verdict.find(Check::DeadLetters, format!("{coordinates:?} has no dead letter and should be {reason}"));
    }
}

/// A letter may be published twice (a crash between produce and mark); it has one id then.
fn judge_published(
    evidence: &Evidence,
    expected: &BTreeMap<Coordinates, (&Record, &'static str)>,
    verdict: &mut Verdict,
) {
    let mut ids: BTreeMap<Coordinates, String> = BTreeMap::new();
    for letter in &evidence.published {
        let (Some(source), Some(id)) = (source(letter), text(letter, "herald-id")) else {
            verdict.find(Check::DeadLetters, format!("is in the DLQ topic and is no letter: {letter:?}"));
            continue;
        };
        let Some((original, _)) = expected.get(&source) else {
            verdict.find(Check::DeadLetters, format!("{source:?} is in the DLQ topic and is no poison"));
            continue;
        };
        match ids.insert(source, id.clone()) {
            Some(before) if before == id => verdict.numbers.letters_published_again += 1,
            Some(before) => {
                verdict.find(Check::DeadLetters, format!("{source:?} was published as {before} and as {id}"));
            }
            None => {}
        }
        if is_pointer(letter) {
            verdict.numbers.pointers += 1;
            if !was_refused(letter, evidence) {
                verdict
                    .find(Check::DeadLetters, format!("{source:?} is a pointer though the topic took whole letters"));
            }
            continue;
        }
        let kept = letter.headers.get(..original.headers.len());
        if (&letter.key, &letter.value, kept) != (&original.key, &original.value, Some(&original.headers[..])) {
            verdict.find(Check::DeadLetters, format!("{source:?} is not byte for byte in the DLQ topic"));
        }
    }
    for coordinates in expected.keys().filter(|coordinates| !ids.contains_key(coordinates)) {
        verdict.find(Check::DeadLetters, format!("{coordinates:?} is not in the DLQ topic"));
    }
}

/// When it was produced the topic refused what is as large as a letter, or had done so a moment before.
fn was_refused(pointer: &Record, evidence: &Evidence) -> bool {
    let Some(produced) = pointer.timestamp.and_then(|timestamp| u64::try_from(timestamp.0).ok()) else { return false };
    let (now, clock) = (Instant::now(), SystemTime::now());
    let age = clock.duration_since(UNIX_EPOCH + Duration::from_millis(produced)).unwrap_or_default();
    let Some(produced) = now.checked_sub(age) else { return false };
    let before = produced.checked_sub(LIFTED_WITHIN).unwrap_or(produced);
    // Before it is deleted it is sealed.
    let mut refusals =
        evidence.entries.iter().filter(|entry| matches!(entry.fault, Fault::DlqRefuses | Fault::DlqGone));
    refusals.any(|entry| entry.overlaps(before, produced))
}

/// The topic refused the whole letter as too large and, lifted meanwhile, took what points to its row.
fn is_pointer(letter: &Record) -> bool {
    letter.value.is_none() && text(letter, "herald-payload").is_some_and(|place| place == "postgres")
}

fn source(letter: &Record) -> Option<Coordinates> {
    let partition = text(letter, "__dlq.errors.partition")?.parse().ok()?;
    let offset = text(letter, "__dlq.errors.offset")?.parse().ok()?;
    Some(Coordinates { partition: Partition(partition), offset: Offset(offset) })
}

fn text(letter: &Record, name: &str) -> Option<String> {
    let header = letter.headers.iter().find(|header| header.name == name.as_bytes())?;
    String::from_utf8(header.value.as_ref()?.to_vec()).ok()
}
