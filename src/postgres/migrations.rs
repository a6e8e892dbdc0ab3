//! The schema, brought up to date by sqlx. Each migration is safe while workers of the version before still run.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, PgConnection};

use super::pool::Postgres;
use crate::core::failure::LedgerFailure;

const DEADLINE: Duration = Duration::from_mins(30);

/// Held to the end of the transaction. Another client may have left the names that sqlx gives to what it prepares.
const LOCK_UNPREPARED: &str = "DEALLOCATE ALL; SELECT pg_advisory_xact_lock(hashtextextended('herald migrations', 0))";

#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error(
        "the database {address} is not available to migrate: {error}; database.url or DATABASE_URL says where it is"
    )]
    Unavailable { address: String, error: sqlx::Error },
    #[error("the migration failed: {0}; the role needs the right to create tables in its schema")]
    Failed(#[from] MigrateError),
    #[error("the migration did not end within {DEADLINE:?}; look for what holds locks on Herald's tables")]
    TimedOut,
}

impl Postgres {
    /// Brings the schema up to date. Several workers may do so at once: one does it, the others wait.
    pub async fn migrate(&self) -> Result<(), MigrationError> {
        let connection = self.connect_to_migrate().await;
        let unavailable = |error| MigrationError::Unavailable { address: self.address(), error };
        let mut connection = connection.map_err(unavailable)?;
        let run = async {
            if self.prepared_statements {
                migrator().run_direct(None, &mut connection, false).await
            } else {
                migrate_in_one_transaction(&mut connection).await
            }
        };
        let result = match tokio::time::timeout(DEADLINE, run).await {
            Ok(result) => result.map_err(MigrationError::from),
            Err(_) => Err(MigrationError::TimedOut),
        };
        // The connection has served its purpose either way.
        drop(connection.close().await);
        result
    }

    /// What [`Postgres::migrate`] would do, oldest first: `0001 ledger`.
    pub async fn pending_migrations(&self) -> Result<Vec<String>, LedgerFailure> {
        let applied = self.applied_migrations().await?;
        Ok(migrator()
            .iter()
            .filter(|migration| !applied.contains(&migration.version))
            .map(|migration| format!("{:04} {}", migration.version, migration.description))
            .collect())
    }

    async fn applied_migrations(&self) -> Result<Vec<i64>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let exists = sqlx::query_scalar!(r#"SELECT to_regclass('_sqlx_migrations') IS NOT NULL AS "exists!""#);
        let exists = self.answer(exists.fetch_one(&mut *lease)).await;
        if !lease.end(exists).await? {
            return Ok(Vec::new());
        }
        let mut lease = self.lease().await?;
        // Not checked at compile time: the table is sqlx's own and in none of our migrations.
        let versions = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success ORDER BY version");
        let versions = self.answer(versions.fetch_all(&mut *lease)).await;
        lease.end(versions).await
    }
}

/// PgBouncer in transaction mode would take the lock of the session on one server and let go of it on another.
async fn migrate_in_one_transaction(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(LOCK_UNPREPARED).execute(&mut *transaction).await?;
    migrator().set_locking(false).run_direct(None, &mut *transaction, false).await?;
    Ok(transaction.commit().await?)
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    // A worker of the version before may start again after a later one has migrated.
    migrator.set_ignore_missing(true);
    migrator
}
