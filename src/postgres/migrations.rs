//! The schema, brought up to date by sqlx. Each migration is safe while workers of the version before still run.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, PgConnection};

use super::pool::Postgres;
use crate::core::failure::LedgerFailure;

const DEADLINE: Duration = Duration::from_mins(30);

/// One migration at a time, however many want to. What a session holds or has set would be lost or left behind in PgBouncer; another
/// client may have left the names that sqlx gives to what it prepares. Migrations take as long as they take, and wait for locks as
/// long as a start may be held up.
const BEGIN_MIGRATION: &str = "
    SET LOCAL statement_timeout = 0;
    SET LOCAL lock_timeout = '30s';
    DEALLOCATE ALL;
    SELECT pg_advisory_xact_lock(hashtextextended('herald migrations', 0))";

#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error(
        "the database {address} is not available to migrate: {error}; database.url or DATABASE_URL says where it is"
    )]
    Unavailable { address: String, error: sqlx::Error },
    #[error("the migration failed: {error}; the role needs the right to create tables in its schema")]
    Failed { error: MigrateError },
    #[error("the migration did not end within {DEADLINE:?}; look for what holds locks on Herald's tables")]
    TimedOut,
    #[error("the migration waited too long for a lock: {error}; look for what holds locks on Herald's tables")]
    Locked { error: MigrateError },
}

impl Postgres {
    /// Brings the schema up to date. Several workers may do so at once: one does it, the others wait.
    pub async fn migrate(&self) -> Result<(), MigrationError> {
        let connection = self.connect_to_migrate().await;
        let unavailable = |error| MigrationError::Unavailable { address: self.address(), error };
        let mut connection = connection.map_err(unavailable)?;
        let result = match tokio::time::timeout(DEADLINE, migrate_one_by_one(&mut connection)).await {
            Ok(result) => result.map_err(MigrationError::of),
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

impl MigrationError {
    fn of(error: MigrateError) -> Self {
        let cause = match &error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => cause.as_database_error(),
            _ => None,
        };
        // lock_not_available
        let is_locked = cause.is_some_and(|cause| cause.code().as_deref() == Some("55P03"));
        if is_locked { Self::Locked { error } } else { Self::Failed { error } }
    }
}

/// Each in a transaction of its own, so that no lock outlives its migration.
async fn migrate_one_by_one(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let migrator = migrator();
    for migration in migrator.iter() {
        let mut transaction = connection.begin().await?;
        sqlx::raw_sql(BEGIN_MIGRATION).execute(&mut *transaction).await?;
        migrator.run_direct(Some(migration.version), &mut *transaction, false).await?;
        transaction.commit().await?;
    }
    Ok(())
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    // A worker of the version before may start again after a later one has migrated.
    migrator.set_ignore_missing(true);
    // Ours is the transaction's.
    migrator.set_locking(false);
    migrator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_can_run_in_a_transaction() {
        let migrator = migrator();
        assert!(migrator.iter().count() > 0);
        assert!(migrator.iter().all(|migration| !migration.no_tx));
    }
}
