//! What operators do with dead letters: through the service layer on a real database, and through the command line beside a real
//! worker.

mod asking;
mod closing;
mod expiry;
mod left_behind;
mod masking;
mod order_path;
mod publishing;
pub(crate) mod racing;
mod reading;
mod reindexing;
mod replaying;
mod safety;
mod scheduling;
mod seeing;
mod speed;
mod to_topic;

use herald::config::Settings;
use herald::core::record::Coordinates;
use herald::operations::Operations;
use serde_json::Value;

use crate::ledger::fixture::{GROUP, TOPIC, TestDatabase, at, dead_letter, test_database};
use crate::support::worker::{Ended, WorkerSetup};

/// A database with dead letters, and operators that work on it.
pub(crate) struct Office {
    pub(crate) database: TestDatabase,
    pub(crate) settings: Settings,
}

impl Office {
    /// With this many open dead letters, of orders 1, 2, … at partition 0, offsets 1, 2, …
    pub(crate) async fn with_letters(count: u32) -> Self {
        let database = test_database().await;
        let settings = Settings::load_from(None, Vec::<(String, String)>::new(), &[]).unwrap();
        assert_eq!((&*settings.kafka.group, &*settings.kafka.topic), (GROUP, TOPIC));
        let office = Self { database, settings };
        for number in 1..=count {
            office.bury(&number.to_string(), at(0, number.into())).await;
        }
        office
    }

    pub(crate) async fn bury(&self, order_id: &str, coordinates: Coordinates) {
        let epoch = self.database.raise(coordinates.partition.0).await;
        self.database.claim_one(crate::ledger::fixture::claim(order_id, coordinates, epoch)).await.unwrap();
        let letter = dead_letter(order_id, coordinates, epoch);
        assert_eq!(self.database.postgres.bury(&[letter]).await.unwrap().len(), 1);
    }

    pub(crate) fn operator(&self, name: &str) -> Operations {
        Operations::new(self.database.postgres.clone(), self.settings.clone(), name.to_owned())
    }

    pub(crate) async fn state(&self, order_id: &str) -> String {
        let statement = "SELECT state FROM dead_letters WHERE order_id = $1";
        sqlx::query_scalar(statement).bind(order_id).fetch_one(&self.database.tables).await.unwrap()
    }

    /// The newest row of the audit: who, what, result, how many, and why.
    pub(crate) async fn last_audit(&self) -> (String, String, String, i64, String) {
        let statement = "SELECT operator, action, result, letters, detail FROM operator_audit ORDER BY id DESC LIMIT 1";
        sqlx::query_as(statement).fetch_one(&self.database.tables).await.unwrap()
    }
}

/// Runs `herald` with these words and expects it to succeed.
pub(crate) async fn herald(setup: &WorkerSetup, arguments: &[&str]) -> String {
    let ended = setup.run_command(arguments).await;
    assert_eq!(ended.code, Some(0), "herald {arguments:?}: {ended:?}");
    ended.stdout
}

/// As [`herald`], its lines read as JSON.
pub(crate) async fn herald_json(setup: &WorkerSetup, arguments: &[&str]) -> Vec<Value> {
    let stdout = herald(setup, arguments).await;
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs `herald` with these words and expects it to be refused; gives what it said.
pub(crate) async fn refused(setup: &WorkerSetup, arguments: &[&str]) -> String {
    let Ended { code, stdout, stderr } = setup.run_command(arguments).await;
    assert_eq!(code, Some(3), "herald {arguments:?}: {stdout}{stderr}");
    stderr
}
