//! Ledger effects as tasks: each answers with exactly one input, whatever happens.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::Answer;
use crate::core::effect::{Claim, DeadLetter, Settlement};
use crate::core::failure::LedgerFailure;
use crate::core::input::{Input, Operation};
use crate::postgres::Postgres;

pub(super) async fn claim(postgres: Postgres, batch: Vec<Claim>) -> Answer {
    let statement = async { postgres.claim(&batch).await.map(|found| Input::Claimed { found }) };
    answer(Operation::Claim, statement).await
}

pub(super) async fn done(postgres: Postgres, batch: Vec<Settlement>) -> Answer {
    let statement = async { postgres.done(&batch).await.map(|()| Input::Settled) };
    answer(Operation::Done, statement).await
}

pub(super) async fn dead(postgres: Postgres, batch: Vec<DeadLetter>) -> Answer {
    let statement = async { postgres.bury(&batch).await.map(|buried| Input::Buried { buried }) };
    answer(Operation::Dead, statement).await
}

/// A panic holds the batch like an outage: without an answer its records would wait for ever.
async fn answer(operation: Operation, statement: impl Future<Output = Result<Input, LedgerFailure>>) -> Answer {
    let result = AssertUnwindSafe(statement).catch_unwind().await;
    let result = result.unwrap_or_else(|_| Err(LedgerFailure::Outage("the statement panicked".to_owned())));
    Answer::Input(result.unwrap_or_else(|failure| Input::LedgerFailed { operation, failure }))
}
