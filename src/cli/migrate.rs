//! `herald migrate`: database migrations.

use super::arguments::ConfigArguments;
use super::failure::Failure;
use super::output::print;
use crate::config::Purpose;
use crate::postgres::Postgres;

pub(super) async fn execute(config: ConfigArguments) -> Result<(), Failure> {
    let settings = config.load(Purpose::Work)?.settings;
    let postgres = Postgres::connect(&settings).map_err(|error| Failure::Refused(error.to_string()))?;
    let before = postgres.pending_migrations().await;
    postgres.migrate().await.map_err(|error| Failure::Failed(error.into()))?;
    match before {
        Ok(applied) if !applied.is_empty() => print(&format!("applied {}\n", applied.join(", "))),
        // Or what was pending could not be read.
        _ => print("migrations are current\n"),
    }
}
