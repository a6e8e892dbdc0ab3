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
    /// Until the gateway owes this worker an answer.
    pub async fn delivering(&self, life: Life) {
        let (start, query) = (Instant::now(), format!("?{}", life.query()));
        while start.elapsed() < WAIT_LIMIT && !self.gateway.is_asked(&query, WEBHOOK_TIMEOUT) {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Stops the worker when Postgres carries out a statement of it; says whether it does.
    pub async fn stopped_in_statement(&self, running: &mut Running) -> bool {
        let start = Instant::now();
        loop {
            running.worker.sigstop();
            // It is stopped before Postgres is asked, so the answer to such a statement is one that it has not read.
            let is_active = timeout(LOOK_LIMIT, self.is_active(running.life)).await.unwrap_or(false);
            if is_active || start.elapsed() > WAIT_LIMIT {
                return is_active;
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
