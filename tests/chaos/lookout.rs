//! Looks for a worker in the middle of something, from outside.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::time::{sleep, timeout};

use crate::chronicle::Life;
use crate::crew::Running;
use crate::stage::WEBHOOK_TIMEOUT;
use crate::support::gateway::Gateway;

/// How long a moment is waited for; then any will do.
const WAIT_LIMIT: Duration = Duration::from_secs(4);
const LOOK_LIMIT: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What is looked at from outside: a worker that is asked itself is killed after an answer, and never otherwise.
#[derive(Debug)]
pub struct Lookout {
    pub gateway: Arc<Gateway>,
    pub database: PgPool,
}

impl Lookout {
    /// Stops the worker when the gateway owes it an answer; says whether it does.
    pub async fn stopped_delivering(&self, running: &mut Running) -> bool {
        let query = format!("?{}", running.life.query());
        self.stopped_when(running, async || self.gateway.is_asked(&query, WEBHOOK_TIMEOUT)).await
    }

    /// Stops the worker when Postgres carries out a statement of it; says whether it does.
    pub async fn stopped_in_statement(&self, running: &mut Running) -> bool {
        let life = running.life;
        self.stopped_when(running, async || timeout(LOOK_LIMIT, self.is_active(life)).await.unwrap_or(false)).await
    }

    /// It is stopped before anybody is asked, so what is owed to it then it has not read.
    async fn stopped_when(&self, running: &mut Running, is_met: impl AsyncFn() -> bool) -> bool {
        let start = Instant::now();
        loop {
            running.worker.sigstop();
            let is_met = is_met().await;
            if is_met || start.elapsed() > WAIT_LIMIT {
                return is_met;
            }
            running.worker.sigcont();
            sleep(LOOK_EVERY).await;
        }
    }

    async fn is_active(&self, life: Life) -> bool {
        let statement = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1 AND state = 'active')";
        sqlx::query_scalar(statement).bind(life.name()).fetch_one(&self.database).await.unwrap_or(false)
    }
}
