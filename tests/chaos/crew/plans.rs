//! What is done to a worker: dealt to all of them from one bag.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;

use super::{Crew, Running};
use crate::chronicle::{Fault, Length, When};
use crate::stage::SESSION_TIMEOUT;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// After a look at its numbers, which are known then.
    KillLookedAt,
    KillWhileDelivering,
    KillInStatement,
    KillAtStart,
    KillFrozen,
    FreezeShortly,
    FreezeForLong,
    FreezeWhileDelivering,
    FreezeInStatement,
    Terminate,
}

/// What all workers are dealt from: nobody knows which of them is next.
pub(super) const PLANS: [Plan; 13] = [
    Plan::KillLookedAt,
    Plan::KillLookedAt,
    Plan::KillWhileDelivering,
    Plan::KillWhileDelivering,
    Plan::KillInStatement,
    Plan::KillAtStart,
    Plan::KillFrozen,
    Plan::FreezeShortly,
    Plan::FreezeForLong,
    Plan::FreezeWhileDelivering,
    Plan::FreezeInStatement,
    Plan::Terminate,
    Plan::Terminate,
];

impl Crew<'_> {
    /// Does to the worker what it is dealt. `None` when it has ended.
    pub(super) async fn deal_with(&self, mut running: Running, rng: &mut Rng) -> Option<Running> {
        let plan = {
            let (bag, rng) = &mut *self.plans.lock().unwrap();
            bag.draw(rng)
        };
        match plan {
            Plan::FreezeShortly => return Some(self.freeze(running, Length::Short, When::Whenever, rng).await),
            Plan::FreezeForLong => return Some(self.freeze(running, Length::Long, When::Whenever, rng).await),
            Plan::FreezeWhileDelivering => {
                self.stop_delivering(&mut running, plan).await;
                return Some(self.freeze(running, Length::Long, When::Whenever, rng).await);
            }
            Plan::FreezeInStatement => return Some(self.freeze_in_statement(running, rng).await),
            Plan::Terminate => self.end(running).await,
            Plan::KillLookedAt => {
                self.look(&running).await;
                self.kill(running, When::Whenever).await;
            }
            Plan::KillWhileDelivering => {
                self.stop_delivering(&mut running, plan).await;
                self.kill(running, When::Whenever).await;
            }
            Plan::KillInStatement => self.kill_in_statement(running).await,
            Plan::KillAtStart => self.kill_at_start(running, rng).await,
            Plan::KillFrozen => {
                let running = self.stop(running, Length::Short, When::Whenever, rng).await;
                self.kill(running, When::StandingStill).await;
            }
        }
        None
    }

    async fn freeze(&self, running: Running, length: Length, when: When, rng: &mut Rng) -> Running {
        let mut running = self.stop(running, length, when, rng).await;
        running.worker.sigcont();
        running
    }

    /// It stands still for a while, and in the end still does.
    async fn stop(&self, mut running: Running, length: Length, when: When, rng: &mut Rng) -> Running {
        let session = u64::try_from(SESSION_TIMEOUT.as_millis()).unwrap();
        let millis = match length {
            Length::Short => rng.u64(300..session),
            Length::Long => rng.u64(session + 500..2 * session + 2_000),
        };
        let time = Duration::from_millis(millis);
        let mark = self.chronicle.begin(Fault::Frozen { life: running.life, length, when }, Some(time));
        running.worker.sigstop();
        sleep(time).await;
        self.chronicle.end(mark);
        running
    }

    async fn kill_in_statement(&self, mut running: Running) {
        let when = self.stop_in_statement(&mut running, Plan::KillInStatement).await;
        self.kill(running, when).await;
    }

    /// For longer than its session lasts: what the statement did is read when another may have the partition.
    async fn freeze_in_statement(&self, mut running: Running, rng: &mut Rng) -> Running {
        let when = self.stop_in_statement(&mut running, Plan::FreezeInStatement).await;
        self.freeze(running, Length::Long, when, rng).await
    }

    /// It stands still then, and the gateway owes it an answer if such a moment was met.
    async fn stop_delivering(&self, running: &mut Running, plan: Plan) {
        if !self.lookout.stopped_delivering(running).await {
            self.put_back(plan);
        }
    }

    /// It stands still then, in a statement if one was met.
    async fn stop_in_statement(&self, running: &mut Running, plan: Plan) -> When {
        if self.lookout.stopped_in_statement(running).await {
            return When::InStatement;
        }
        self.put_back(plan);
        When::Whenever
    }

    /// Its successor, before that is ready.
    async fn kill_at_start(&self, running: Running, rng: &mut Rng) {
        let slot = running.life.slot;
        self.kill(running, When::Whenever).await;
        let next = self.start(slot);
        sleep(Duration::from_millis(rng.u64(50..2_000))).await;
        let is_ready = matches!(next.worker.get("/readyz").await, Ok((200, _)));
        // It may have refused to start for what is broken just then.
        let is_met = !is_ready && next.worker.exit_status().is_none();
        if !is_met {
            self.put_back(Plan::KillAtStart);
        }
        self.kill(next, if is_met { When::Starting } else { When::Whenever }).await;
    }

    fn put_back(&self, plan: Plan) {
        self.plans.lock().unwrap().0.put_back(plan);
    }
}
