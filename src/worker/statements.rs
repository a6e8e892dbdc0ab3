//! Ledger effects as tasks: each answers with exactly one input, whatever happens.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;

use super::Answer;
use crate::core::effect::{Claim, DeadLetter, ParkedKey, Parking, Settlement, Start};
use crate::core::failure::LedgerFailure;
use crate::core::input::{Input, Operation};
use crate::postgres::Postgres;
use crate::telemetry::Telemetry;
use crate::telemetry::events::StatementEnded;
use crate::telemetry::labels::{Statement, StatementResult};

/// What a statement needs.
pub(super) struct Ledger {
    pub(super) postgres: Postgres,
    pub(super) telemetry: Arc<Telemetry>,
}

pub(super) async fn claim(ledger: Ledger, batch: Vec<Claim>) -> Answer {
    let serial = batch.first().map(|claim| claim.serial).unwrap_or_default();
    let statement = async { ledger.postgres.claim(&batch).await.map(|found| Input::Claimed { serial, found }) };
    answer(Operation::Claim(serial), batch.len(), &ledger.telemetry, statement).await
}

pub(super) async fn yield_claims(ledger: Ledger, batch: Vec<Settlement>) -> Answer {
    let statement = async { ledger.postgres.yield_claims(&batch).await.map(|()| Input::Yielded) };
    answer(Operation::Yield, batch.len(), &ledger.telemetry, statement).await
}

pub(super) async fn start(ledger: Ledger, batch: Vec<Start>) -> Answer {
    let statement = async { ledger.postgres.start(&batch).await.map(|started| Input::Started { started }) };
    answer(Operation::Start, batch.len(), &ledger.telemetry, statement).await
}

pub(super) async fn done(ledger: Ledger, batch: Vec<Settlement>) -> Answer {
    let serial = batch.first().map(|settlement| settlement.serial).unwrap_or_default();
    let statement = async { ledger.postgres.done(&batch).await.map(|()| Input::Settled { serial }) };
    answer(Operation::Done(serial), batch.len(), &ledger.telemetry, statement).await
}

pub(super) async fn park(ledger: Ledger, batch: Vec<Parking>) -> Answer {
    let statement = async { ledger.postgres.park(&batch).await.map(|parked| Input::Parked { parked }) };
    answer(Operation::Park, batch.len(), &ledger.telemetry, statement).await
}

pub(super) async fn load_parked(ledger: Ledger, keys: Vec<ParkedKey>) -> Answer {
    let statement = async { ledger.postgres.load_parked(&keys).await.map(|lanes| Input::ParkedLoaded { lanes }) };
    answer(Operation::LoadParked, keys.len(), &ledger.telemetry, statement).await
}

pub(super) async fn dead(ledger: Ledger, batch: Vec<DeadLetter>) -> Answer {
    let statement = async { ledger.postgres.bury(&batch).await.map(|buried| Input::Buried { buried }) };
    answer(Operation::Dead, batch.len(), &ledger.telemetry, statement).await
}

/// A panic is an outage: what waits for the answer would else wait for ever.
pub(super) async fn caught<T>(statement: impl Future<Output = Result<T, LedgerFailure>>) -> Result<T, LedgerFailure> {
    let answered = AssertUnwindSafe(statement).catch_unwind().await;
    answered.unwrap_or_else(|_| Err(LedgerFailure::Outage("the statement panicked".to_owned())))
}

async fn answer(
    operation: Operation,
    rows: usize,
    telemetry: &Telemetry,
    statement: impl Future<Output = Result<Input, LedgerFailure>>,
) -> Answer {
    let started = Instant::now();
    let answered = caught(statement).await;
    let statement = match operation {
        Operation::Claim(_) => Statement::Claim,
        Operation::Yield => Statement::Yield,
        Operation::Start => Statement::Start,
        Operation::Done(_) => Statement::Done,
        Operation::Park => Statement::Park,
        Operation::Dead => Statement::Dead,
        Operation::LoadParked => Statement::LoadParked,
    };
    let result = StatementResult::of(answered.as_ref().err());
    StatementEnded { statement, result, rows, duration: started.elapsed() }.emit(telemetry);
    Answer::Input(answered.unwrap_or_else(|failure| Input::LedgerFailed { operation, failure }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_statement_that_panics_is_answered_as_an_outage() {
        let answered = caught::<()>(async { panic!("a bug") }).await;
        assert_eq!(answered, Err(LedgerFailure::Outage("the statement panicked".to_owned())));
        assert_eq!(caught(async { Ok(7) }).await, Ok(7));
    }
}
