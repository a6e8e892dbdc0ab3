//! The naive tables that the engine is proved with, and the SQL: the same statements at random, the same answers, the same rows.
//!
//! `HERALD_MODEL_SEED` asks for one seed, `HERALD_MODEL_STEPS` for other ones: `make model`.

#[path = "../../src/core/engine/tests/tables.rs"]
mod tables;

mod rows;
mod statements;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::time::Duration;

use herald::core;
use herald::core::effect::Serial;
use herald::core::event::Identity;
use herald::core::input::{LedgerState, LoadedLane, Now, ParkedLane, ParkedRow, RowAddress};
use herald::core::record::{Coordinates, Epoch, Offset, Partition};

use crate::ledger::fixture::{TestDatabase, test_database};
use statements::Statement;
use tables::Tables;

/// As many as `Postgres::load_parked` reads.
const ROWS_PER_KEY: usize = 32;
/// Of each seed.
const STEPS: u64 = 500;
const SEEDS: u64 = 6;
/// All times are whole hours before or after, so that what passes meanwhile is no difference.
const NOW: Now = Now::from_hours(1_000);

/// Both sides of the comparison, and what the statements are made from.
struct World {
    database: TestDatabase,
    tables: Tables,
    random: fastrand::Rng,
    shape: Shape,
    /// What the owners of today have counted, and owners of before.
    serial: u64,
    tickets: u64,
    counts: BTreeMap<&'static str, usize>,
    /// Where the row of an order was when it was claimed last: it may have moved.
    addresses: HashMap<Identity, RowAddress>,
}

/// Few orders meet often; many make long lanes.
struct Shape {
    partitions: i32,
    orders: u64,
    keys: u64,
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let shape = Shape {
            partitions: random.i32(1..=3),
            orders: if seed.is_multiple_of(5) { 90 } else { random.u64(3..12) },
            keys: random.u64(1..4),
        };
        Self {
            database: test_database().await,
            tables: Tables::new(ROWS_PER_KEY),
            random,
            shape,
            serial: 100,
            tickets: 0,
            counts: BTreeMap::new(),
            addresses: HashMap::new(),
        }
    }

    /// One statement for both; gives how many rows it changed or found, as far as it tells.
    async fn step(&mut self, statement: &Statement) -> usize {
        let postgres = &self.database.postgres;
        let tables = &mut self.tables;
        match statement {
            Statement::Raise { partition, owner, start } => {
                let found = postgres.raise(&[(*partition, *start)], &owner.to_string()).await.unwrap();
                equal(&found, &vec![(*partition, tables.raise(*partition, *owner, *start))])
            }
            Statement::EndClean(partition, epoch) => {
                postgres.end_clean(&[(*partition, *epoch)]).await.unwrap();
                tables.end_clean(*partition, *epoch);
                1
            }
            Statement::Claim(batch) => {
                let mut found = postgres.claim(batch).await.unwrap();
                found.sort_by_key(|(ticket, _)| *ticket);
                // The model does not know where rows are: taken out before they are compared.
                for (ticket, row) in &mut found {
                    let claim = batch.iter().find(|claim| claim.ticket == *ticket).unwrap();
                    self.addresses.insert(claim.identity.clone(), std::mem::take(&mut row.address));
                }
                let expected = batch.iter().filter_map(|claim| Some((claim.ticket, tables.claim(claim)?)));
                equal(&found, &expected.collect())
            }
            Statement::Yield(batch) => {
                postgres.yield_claims(batch).await.unwrap();
                for settlement in batch {
                    tables.yield_claim(settlement);
                }
                batch.len()
            }
            Statement::Start(batch) => {
                let mut found = postgres.start(batch).await.unwrap();
                found.sort_unstable();
                let expected = batch.iter().filter(|start| tables.start(start));
                equal(&found, &expected.map(|start| start.settlement.ticket).collect())
            }
            Statement::Done(batch) => {
                postgres.done(batch).await.unwrap();
                for settlement in batch {
                    tables.done(settlement);
                }
                batch.len()
            }
            Statement::Park(batch) => {
                let mut found = postgres.park(batch).await.unwrap();
                found.sort_unstable();
                let expected = batch.iter().filter(|parking| tables.park(NOW, parking));
                equal(&found, &expected.map(|parking| parking.settlement.ticket).collect())
            }
            Statement::Bury(batch) => {
                let mut found = postgres.bury(batch).await.unwrap();
                found.sort_unstable();
                let expected = batch.iter().filter(|letter| tables.bury(letter));
                equal(&found, &expected.map(|letter| letter.settlement.ticket).collect())
            }
            Statement::ParkedKeys(partition) => {
                let mut found =
                    postgres.parked_keys(&[*partition]).await.unwrap().remove(partition).unwrap_or_default();
                found.sort_by_key(|lane| lane.key);
                let in_hours = |lane: ParkedLane| (lane.key, hours(lane.due_in), lane.rows);
                let expected = tables.parked_keys(NOW, *partition).into_iter().map(in_hours);
                equal(&found.into_iter().map(in_hours).collect(), &expected.collect())
            }
            Statement::Load(keys) => {
                let mut found = postgres.load_parked(keys).await.unwrap();
                let by_key = |lane: &LoadedLane| (lane.partition, lane.key);
                found.sort_by_key(by_key);
                let mut expected: Vec<_> = keys.iter().filter_map(|key| tables.load(NOW, *key)).collect();
                expected.sort_by_key(by_key);
                let in_hours = |lane: LoadedLane| {
                    let rows: Vec<_> = lane.rows.into_iter().map(row_in_hours).collect();
                    (lane.partition, lane.key, rows, lane.rest, lane.removed)
                };
                equal(&found.into_iter().map(in_hours).collect(), &expected.into_iter().map(in_hours).collect())
            }
            Statement::Prune(identity) => {
                let prune = "DELETE FROM processed_orders WHERE order_id = $1 AND state IN ('d', 'x', 'u')";
                sqlx::query(prune).bind(&*identity.order_id).execute(&self.database.tables).await.unwrap();
                let is_settled = |row: &tables::Row| !matches!(row.state, LedgerState::Claimed | LedgerState::Parked);
                usize::from(
                    tables.ledger.get(identity).is_some_and(is_settled) && tables.ledger.remove(identity).is_some(),
                )
            }
        }
    }
}

fn equal<T: Debug + PartialEq>(found: &Vec<T>, expected: &Vec<T>) -> usize {
    assert_eq!(found, expected, "Postgres says the first, the naive tables the second");
    found.len()
}

fn hours(duration: Duration) -> i64 {
    i64::try_from((duration.as_secs() + 1_800) / 3_600).unwrap()
}

fn row_in_hours(row: ParkedRow) -> impl Debug + PartialEq {
    let (first, last) = (hours(row.first_failed_ago), row.last_failed_ago.map(hours));
    (row.identity, row.record, row.attempts, row.starts, first, last)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn seeds() -> std::ops::Range<u64> {
    if let Some(seed) = number("HERALD_MODEL_SEED") {
        return seed..seed + 1;
    }
    let Some(steps) = number("HERALD_MODEL_STEPS") else { return 0..SEEDS };
    let first = fastrand::u64(0..1 << 40);
    // A step here costs what a hundred cost there.
    first..first + (steps / 100).div_ceil(STEPS)
}

#[tokio::test]
async fn the_sql_does_what_the_naive_tables_say_that_the_engine_is_proved_with() {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in seeds() {
        let mut world = World::new(seed).await;
        for step in 0..STEPS {
            let statement = world.next_statement();
            println!("seed {seed}, step {step}: {statement:?}");
            let rows = world.step(&statement).await;
            *world.counts.entry(statement.name()).or_default() += rows;
            world.assert_rows_are_equal().await;
        }
        for (name, count) in std::mem::take(&mut world.counts) {
            *counts.entry(name).or_default() += count;
        }
    }
    println!("{counts:?}");
    // What is always refused is not compared.
    let is_met = |name: &&str| counts.get(name).is_some_and(|rows| *rows >= 20);
    assert!(number("HERALD_MODEL_SEED").is_some() || Statement::NAMES.iter().all(is_met), "{counts:?}");
}
