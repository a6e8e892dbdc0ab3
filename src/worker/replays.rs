//! Replays go on in the workers, not in the command that began them: whichever worker comes first schedules what is next.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::statements::caught;
use super::{Answer, Worker};
use crate::core::decode::{Decoded, Decoder, synthetic_identity};
use crate::core::failure::LedgerFailure;
use crate::core::input::{Input, ReplayRow};
use crate::core::key::LaneKey;
use crate::core::replay::ReplayStep;
use crate::postgres::{EndedUnscheduled, NextLetter, Postgres, Replay, ReplayState, ReplayTo, Scheduling};
use crate::telemetry::events::ReplaysEnded;
use crate::telemetry::{Telemetry, gauge_value};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After some were taken in: memory holds few of them at once, and those are soon delivered.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Replays that run side by side.
const RUNNING: u32 = 20;
/// Statements for one replay at one look.
const STEPS: usize = 20;
/// How long replays that ended are remembered.
const RETENTION: Duration = Duration::from_hours(90 * 24);
const PRUNE_EVERY: u32 = 600;

/// What scheduling a replay needs.
pub(super) struct Replays {
    pub(super) postgres: Postgres,
    pub(super) decoder: Decoder,
    pub(super) topic: Arc<str>,
    pub(super) telemetry: Arc<Telemetry>,
}

impl Replays {
    pub(super) async fn run(self) {
        let mut looks: u32 = 0;
        loop {
            if let Err(error) = self.look().await {
                tracing::debug!(?error, "replays cannot be looked after");
            }
            if looks.is_multiple_of(PRUNE_EVERY)
                && let Err(error) = self.postgres.prune_replays(RETENTION).await
            {
                tracing::debug!(?error, "old replays cannot be removed");
            }
            looks = looks.wrapping_add(1);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self) -> Result<(), LedgerFailure> {
        if self.postgres.has_cancelled_letters().await? {
            self.postgres.take_back_cancelled().await?;
        }
        let running = self.postgres.replays(None, Some(ReplayState::Running), RUNNING).await?;
        self.show(&running);
        // A command of a version that knew no replays to the topic may have set one running.
        for replay in running.into_iter().filter(|replay| replay.to == ReplayTo::Workers) {
            self.advance(replay).await?;
        }
        Ok(())
    }

    fn show(&self, running: &[Replay]) {
        let remaining: u64 = running.iter().map(|replay| replay.progress.planned + replay.progress.scheduled).sum();
        self.telemetry.metrics().replay_remaining_records.set(gauge_value(remaining));
    }

    async fn advance(&self, mut replay: Replay) -> Result<(), LedgerFailure> {
        let id = replay.id;
        for _ in 0..STEPS {
            match replay.progress.step() {
                ReplayStep::Wait => return Ok(()),
                ReplayStep::Schedule(count) => self.schedule(id, count).await?,
                ReplayStep::Stop => {
                    tracing::warn!(replay = id, "replay stopped: too many of its dead letters failed again");
                    return self.postgres.end_replay(id, ReplayState::Stopped, "herald").await;
                }
                ReplayStep::Finish => {
                    tracing::info!(replay = id, "replay done");
                    return self.postgres.end_replay(id, ReplayState::Done, "herald").await;
                }
            }
            let found = self.postgres.replays(Some(id), Some(ReplayState::Running), 1).await?.pop();
            let Some(found) = found else { return Ok(()) };
            replay = found;
        }
        Ok(())
    }

    async fn schedule(&self, replay: i64, count: u32) -> Result<(), LedgerFailure> {
        let next = self.postgres.next_letters(replay, count).await?;
        let (mut letters, mut gone) = (Vec::new(), Vec::new());
        let mut identities = HashSet::new();
        for letter in next {
            let place = letter.place;
            match self.scheduling(letter) {
                // A statement may not touch an identity twice: the second one is next time's.
                Some(letter) if identities.insert(letter.identity.clone()) => letters.push(letter),
                Some(_) => {}
                None => gone.push(place),
            }
        }
        if !gone.is_empty() {
            let refused = self.postgres.leave_out(replay, &gone, "the dead letter is gone, or cannot be read").await?;
            ReplaysEnded { duplicates: 0, refused }.emit(&self.telemetry);
        }
        let EndedUnscheduled { duplicates, left_out } = self.postgres.schedule(replay, &letters).await?;
        ReplaysEnded { duplicates, refused: left_out }.emit(&self.telemetry);
        Ok(())
    }

    /// Under the identity that it is read as by now: what was poison may be an order since.
    fn scheduling(&self, letter: NextLetter) -> Option<Scheduling> {
        let NextLetter { place, id, identity, record } = letter;
        let record = record?;
        let (identity, fingerprint, key) = match self.decoder.decode(&record) {
            Decoded::Event { event, lane } => {
                let key = lane.unwrap_or_else(|| LaneKey::of_unordered(&event.identity));
                (event.identity, event.fingerprint, key)
            }
            Decoded::Poison { .. } | Decoded::Ignored { .. } => {
                let key = LaneKey::of_unordered(&identity);
                (identity, synthetic_identity(&self.topic, &record).1, key)
            }
        };
        Some(Scheduling { place, id, identity, fingerprint, key, record })
    }
}

impl Worker {
    /// Reads replayed records that are due, each second, as far as there is room for them; sooner while some come.
    pub(super) fn read_replays(&mut self) {
        if self.replays_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        let (owned, room) = self.engine.replays_wanted();
        if owned.is_empty() {
            self.replays_at = Some(Instant::now() + READ_AGAIN_AFTER);
            return;
        }
        self.replays_at = None;
        let held: Vec<_> = self.engine.replays_held().collect();
        let postgres = self.postgres.clone();
        self.spawn(async move {
            let read = caught(postgres.load_replays(&owned, &held, room)).await;
            Answer::Replays(read.unwrap_or_else(|error| {
                tracing::debug!(?error, "replays that are due cannot be read");
                Vec::new()
            }))
        });
    }

    /// What is not taken in, as long as an earlier owner's delivery of it runs, is not read again at once, payloads and all.
    pub(super) fn replays_read(&mut self, replays: Vec<ReplayRow>) {
        let before = self.engine.replays_held().count();
        self.input(Input::ReplaysLoaded { replays });
        let is_some_taken_in = self.engine.replays_held().count() > before;
        let again_after = if is_some_taken_in { READ_AGAIN_AFTER } else { LOOK_EVERY };
        self.replays_at = Some(Instant::now() + again_after);
    }
}
