//! The second sum of I7: what was parked was settled from parking or is still parked, by what each worker counted and by what Postgres saw.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use herald::core::record::Partition;
use sqlx::PgPool;

use super::clock::{Clock, Micros};
use super::{Check, Evidence, Verdict};
use crate::chronicle::{Entry, Fault, Life};
use crate::crew::Counted;
use crate::support::oracle::Identity;

/// A statement and the count of what it did are not further apart, unless its answer was lost.
const COUNTED_WITHIN: Duration = Duration::from_secs(4);

/// Notes who writes to `parked_events` and who removes from it, and who takes which partition.
const NOTING: &str = "
    CREATE TABLE chaos_parking (at timestamptz NOT NULL, life text NOT NULL, change integer NOT NULL,
                                order_id text NOT NULL, event_type text NOT NULL);
    CREATE FUNCTION chaos_note_parking() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        parked parked_events := CASE TG_OP WHEN 'INSERT' THEN NEW ELSE OLD END;
    BEGIN
        INSERT INTO chaos_parking VALUES (clock_timestamp(), current_setting('application_name'),
                                          CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END, parked.order_id, parked.event_type);
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER chaos_noted AFTER INSERT OR DELETE ON parked_events FOR EACH ROW EXECUTE FUNCTION chaos_note_parking();
    CREATE TABLE chaos_owners (at timestamptz NOT NULL, life text NOT NULL, kpartition integer NOT NULL);
    CREATE FUNCTION chaos_note_owner() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO chaos_owners VALUES (clock_timestamp(), current_setting('application_name'), NEW.kpartition);
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER chaos_noted AFTER INSERT OR UPDATE OF epoch ON partition_epochs FOR EACH ROW EXECUTE FUNCTION chaos_note_owner();";

/// A row that was written or removed.
#[derive(Clone, Debug)]
pub struct Change {
    pub at: Instant,
    /// What the connection of whoever did it is called.
    pub by: String,
    pub identity: Identity,
    pub is_parked: bool,
}

/// A worker took a partition: from then on it reads what is parked there.
#[derive(Clone, Debug)]
pub struct Taking {
    pub at: Instant,
    pub by: String,
    pub partition: Partition,
}

/// What was parked, and from then on removed again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parking {
    pub parked: usize,
    pub removed: usize,
    /// As far as the workers' last numbers tell.
    pub told_parked: usize,
    pub told_settled: usize,
}

pub async fn note(database: &PgPool) {
    sqlx::raw_sql(NOTING).execute(database).await.unwrap();
}

type Row = (Micros, String, i32, String, String);

pub async fn read(database: &PgPool, clock: &Clock) -> Vec<Change> {
    let statement =
        "SELECT (extract(epoch FROM at) * 1000000)::bigint, life, change, order_id, event_type FROM chaos_parking";
    let rows: Vec<Row> = sqlx::query_as(statement).fetch_all(database).await.unwrap();
    rows.into_iter()
        .map(|(at, by, change, order_id, event_type)| Change {
            at: clock.latest(at),
            by,
            identity: (order_id, event_type),
            is_parked: change > 0,
        })
        .collect()
}

pub async fn takings(database: &PgPool, clock: &Clock) -> Vec<Taking> {
    let statement = "SELECT (extract(epoch FROM at) * 1000000)::bigint, life, kpartition FROM chaos_owners ORDER BY at";
    let rows: Vec<(Micros, String, i32)> = sqlx::query_as(statement).fetch_all(database).await.unwrap();
    rows.into_iter()
        .map(|(at, by, partition)| Taking { at: clock.earliest(at), by, partition: Partition(partition) })
        .collect()
}

pub fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    let mut by_name: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
    for change in &evidence.parking {
        by_name.entry(&change.by).or_default().push(change);
    }
    let mut sums = Parking::default();
    for (life, counted) in &evidence.crew.counted {
        let name = life.name();
        let changes = by_name.get(&*name).map(Vec::as_slice).unwrap_or_default();
        sums.told_parked += counted.parked;
        sums.told_settled += counted.settled;
        verdict.find_all(Check::Accounts, open_account(*life, counted, changes, &evidence.entries));
    }
    sums.parked = evidence.parking.iter().filter(|change| change.is_parked).count();
    sums.removed = evidence.parking.len() - sums.parked;
    if evidence.left.is_none() && sums.parked != sums.removed {
        verdict.find(Check::Accounts, format!("{} were parked and {} removed", sums.parked, sums.removed));
    }
    verdict.numbers.parking = sums;
}

/// A worker counts what it parked, and no more: all but what it did after its last numbers, or of which it was not told.
fn open_account(life: Life, counted: &Counted, changes: &[&Change], entries: &[Entry]) -> Option<String> {
    let parked = changes.iter().filter(|change| change.is_parked);
    let is_told = |change: &&&Change| {
        let is_lost = entries.iter().any(|entry| keeps_answer(&entry.fault, life) && may_meet(entry, change.at));
        change.at + COUNTED_WITHIN < counted.at && !is_lost
    };
    let (most, least) = (parked.clone().count(), parked.filter(is_told).count());
    if (least..=most).contains(&counted.parked) {
        return None;
    }
    Some(format!("{life} tells of {} parked, and parked {least} to {most}", counted.parked))
}

fn may_meet(entry: &Entry, at: Instant) -> bool {
    entry.overlaps(at.checked_sub(COUNTED_WITHIN).unwrap_or(at), at + COUNTED_WITHIN)
}

/// The worker may not learn what its statement did.
fn keeps_answer(fault: &Fault, life: Life) -> bool {
    match fault {
        Fault::PostgresCrashed | Fault::Locked { .. } => true,
        Fault::DatabasePath { slot, .. } => Some(*slot) == life.slot,
        Fault::Frozen { life: of, .. } => *of == life,
        _ => false,
    }
}
