//! What a start needs to know of the database, and what `herald check` says about it.

use std::time::Duration;

use super::pool::Postgres;
use crate::config::duration;
use crate::core::failure::LedgerFailure;
use crate::preflight::{Finding, Retention};

const OLDEST_VERSION: i32 = 150_000;

// Facts as the server states them, each on its own: no state machine is hidden in them.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreflightFacts {
    /// `host:port/database`.
    pub address: String,
    pub version: String,
    pub version_number: i32,
    pub pending_migrations: Vec<String>,
    pub migrate_at_start: bool,
    /// A standby: it takes no writes.
    pub in_recovery: bool,
    pub fsync: bool,
    pub full_page_writes: bool,
    pub synchronous_commit: String,
    pub synchronous_standby_names: String,
    pub replicas: i64,
    /// None: the server lets a statement run for ever.
    pub statement_timeout: Option<Duration>,
    /// `INSERT on dead_letters`.
    pub missing_privileges: Vec<String>,
}

/// What PgBouncer (1.18) says of the settings that a session begins with.
const REFUSED_BY_PGBOUNCER: &str = "unsupported startup parameter";

impl Postgres {
    /// Asks the database and judges the answers.
    pub async fn preflight(&self, retention: Duration, topic: Retention) -> Vec<Finding> {
        match self.preflight_facts().await {
            Ok(facts) => {
                let mut findings = facts.findings();
                findings.push(retention_finding(retention, topic));
                findings
            }
            Err(LedgerFailure::Outage(error) | LedgerFailure::Conflict(error) | LedgerFailure::BadData(error)) => {
                let remedy = if error.contains(REFUSED_BY_PGBOUNCER) {
                    "set database.prepared_statements to false, for PgBouncer (docs/operations.md)"
                } else {
                    "set database.url or DATABASE_URL to postgres://user:password@host:5432/database"
                };
                let detail = format!("{} does not answer: {error}", self.address());
                vec![Finding::problem("database", detail, vec![remedy.to_owned()])]
            }
        }
    }

    pub async fn preflight_facts(&self) -> Result<PreflightFacts, LedgerFailure> {
        let pending_migrations = self.pending_migrations().await?;
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"SELECT current_setting('server_version') AS "version!",
                      current_setting('server_version_num')::integer AS "version_number!",
                      pg_is_in_recovery() AS "in_recovery!",
                      current_setting('fsync')::boolean AS "fsync!",
                      current_setting('full_page_writes')::boolean AS "full_page_writes!",
                      current_setting('synchronous_commit') AS "synchronous_commit!",
                      current_setting('synchronous_standby_names') AS "synchronous_standby_names!",
                      (SELECT count(*) FROM pg_stat_replication) AS "replicas!",
                      (SELECT setting::bigint FROM pg_settings WHERE name = 'statement_timeout') AS "statement_timeout_ms!",
                      ARRAY(SELECT p.name || ' on ' || t.name
                              FROM unnest(ARRAY['partition_epochs', 'processed_orders', 'parked_events', 'dead_letters', 'replays',
                                                'replay_letters', 'operator_audit']) AS t(name),
                                   unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p(name)
                             WHERE NOT has_table_privilege(to_regclass(t.name)::oid, p.name)
                               -- Rows of the audit are only added.
                               AND (t.name <> 'operator_audit' OR p.name IN ('SELECT', 'INSERT'))) AS "missing_privileges!""#,
        );
        let row = self.answer(statement.fetch_one(&mut *lease)).await;
        let row = lease.end(row).await?;
        let timeout = u64::try_from(row.statement_timeout_ms).unwrap_or_default();
        Ok(PreflightFacts {
            address: self.address(),
            version: row.version,
            version_number: row.version_number,
            pending_migrations,
            migrate_at_start: self.migrate_at_start,
            in_recovery: row.in_recovery,
            fsync: row.fsync,
            full_page_writes: row.full_page_writes,
            synchronous_commit: row.synchronous_commit,
            synchronous_standby_names: row.synchronous_standby_names,
            replicas: row.replicas,
            statement_timeout: (timeout > 0).then(|| Duration::from_millis(timeout)),
            missing_privileges: row.missing_privileges,
        })
    }
}

impl PreflightFacts {
    /// One line for each problem, or the lines that say all is well.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let database = self.database_problems();
        let mut findings = if database.is_empty() { vec![Finding::ok("database", self.summary())] } else { database };
        findings.push(self.durability_finding());
        findings
    }

    fn summary(&self) -> String {
        let migrations = match self.pending_migrations.len() {
            0 => "migrations current".to_owned(),
            1 => "1 migration to run at start".to_owned(),
            count => format!("{count} migrations to run at start"),
        };
        let timeout = match self.statement_timeout {
            Some(_) => "",
            None => ", no statement_timeout: set one on the role",
        };
        let version = self.version.split(' ').next().unwrap_or_default();
        format!("PostgreSQL {version} at {}, {migrations}{timeout}", self.address)
    }

    fn database_problems(&self) -> Vec<Finding> {
        let mut problems = Vec::new();
        let mut add = |detail: String, remedies: &[&str]| {
            let remedies = remedies.iter().map(|&remedy| remedy.to_owned()).collect();
            problems.push(Finding::problem("database", detail, remedies));
        };
        if self.version_number < OLDEST_VERSION {
            let detail = format!("PostgreSQL {} at {} is too old", self.version, self.address);
            add(detail, &["use PostgreSQL 15 or later"]);
        }
        if self.in_recovery {
            let detail = format!("{} is a standby and takes no writes", self.address);
            add(detail, &["point database.url at the primary, for example with target_session_attrs in the pooler"]);
        }
        if !self.pending_migrations.is_empty() && !self.migrate_at_start {
            let detail = format!("migrations to run: {}", self.pending_migrations.join(", "));
            add(detail, &["run them:  herald migrate", "or set     database.migrate = true"]);
        }
        if !self.missing_privileges.is_empty() {
            let detail = format!("the role may not {}", self.missing_privileges.join(", "));
            add(detail, &["grant it:  GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO <role>"]);
        }
        problems
    }

    fn durability_finding(&self) -> Finding {
        for (name, on) in [("fsync", self.fsync), ("full_page_writes", self.full_page_writes)] {
            if !on {
                let detail = format!("{name} is off: a crash of the server loses what was committed");
                let remedy = format!("set {name} = on in postgresql.conf and restart");
                return Finding::warning("ledger", detail, vec![remedy]);
            }
        }
        if self.synchronous_commit == "off" {
            return Finding::warning(
                "ledger",
                "synchronous_commit is off: a crash of the server loses the last commits",
                vec!["ALTER ROLE <role> SET synchronous_commit = on".to_owned()],
            );
        }
        Finding::ok("ledger", self.durability())
    }

    fn durability(&self) -> &'static str {
        let waits_for_standby = !self.synchronous_standby_names.is_empty() && self.synchronous_commit != "local";
        match (waits_for_standby, self.replicas) {
            (true, _) => "commits wait for a standby",
            (false, 0) => "commits are synchronous, no replica is connected",
            (false, _) => {
                "commits do not wait for the replicas: a failover can lose the last ones, rewind the group after it"
            }
        }
    }
}

fn retention_finding(ledger: Duration, topic: Retention) -> Finding {
    let render = |time: Duration| duration::render(Duration::from_secs(time.as_secs()));
    match topic {
        Retention::Forever => Finding::ok("ledger", "nothing is pruned: the topic keeps its records for ever"),
        Retention::Unknown => Finding::ok("ledger", format!("retention {}; the topic's is not known", render(ledger))),
        Retention::Between { most, .. } if most <= ledger => Finding::ok(
            "ledger",
            format!("retention {} ≥ topic retention {} with a segment", render(ledger), render(most)),
        ),
        Retention::Between { most, .. } => Finding::problem(
            "ledger",
            format!(
                "retention {} is shorter than the {} for which the topic keeps a record (retention.ms + segment.ms): one that comes \
                 again would be notified twice",
                render(ledger),
                render(most)
            ),
            vec![
                format!("set ledger.retention = \"{}\" or more", render(most)),
                "or make segment.ms of the topic shorter".to_owned(),
            ],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> PreflightFacts {
        PreflightFacts {
            address: "db:5432/herald".to_owned(),
            version: "15.4 (Debian)".to_owned(),
            version_number: 150_004,
            pending_migrations: Vec::new(),
            migrate_at_start: false,
            in_recovery: false,
            fsync: true,
            full_page_writes: true,
            synchronous_commit: "on".to_owned(),
            synchronous_standby_names: String::new(),
            replicas: 0,
            statement_timeout: Some(Duration::from_secs(5)),
            missing_privileges: Vec::new(),
        }
    }

    /// The problems of the facts after a change, else the details.
    fn said(change: impl FnOnce(&mut PreflightFacts)) -> (bool, String) {
        let mut facts = facts();
        change(&mut facts);
        let findings = facts.findings();
        let problem = findings.iter().any(Finding::is_problem);
        let details: Vec<String> = findings
            .into_iter()
            .filter(|finding| finding.is_problem() == problem)
            .map(|finding| finding.detail)
            .collect();
        (problem, details.join(" · "))
    }

    #[test]
    fn what_would_stop_the_worker_is_a_problem_and_what_could_lose_commits_is_told() {
        type Change = fn(&mut PreflightFacts);
        let cases: [(Change, bool, &str); 12] = [
            (|_| {}, false, "PostgreSQL 15.4 at db:5432/herald, migrations current · commits are synchronous"),
            (|f| f.version_number = 140_011, true, "too old"),
            (|f| f.in_recovery = true, true, "standby"),
            (|f| f.pending_migrations = vec!["0001 ledger".to_owned()], true, "migrations to run: 0001 ledger"),
            (
                |f| {
                    f.pending_migrations = vec!["0001 ledger".to_owned()];
                    f.migrate_at_start = true;
                },
                false,
                "1 migration to run at start",
            ),
            (|f| f.missing_privileges = vec!["INSERT on dead_letters".to_owned()], true, "INSERT on dead_letters"),
            (|f| f.fsync = false, false, "fsync is off"),
            (|f| f.full_page_writes = false, false, "full_page_writes is off"),
            (|f| f.synchronous_commit = "off".to_owned(), false, "synchronous_commit is off"),
            (|f| f.replicas = 1, false, "a failover can lose"),
            (
                |f| {
                    f.replicas = 1;
                    f.synchronous_standby_names = "*".to_owned();
                },
                false,
                "wait for a standby",
            ),
            (|f| f.statement_timeout = None, false, "no statement_timeout"),
        ];
        for (change, problem, detail) in cases {
            let (is_problem, details) = said(change);
            assert_eq!(is_problem, problem, "{details}");
            assert!(details.contains(detail), "{details}");
        }
    }

    #[test]
    fn the_ledger_must_remember_for_as_long_as_the_topic() {
        let day = Duration::from_hours(24);
        let topic = Retention::Between { least: day * 7, most: day * 14 };
        let cases = [
            (day * 30, topic, false, "≥ topic retention 14d"),
            (day * 14, topic, false, "≥"),
            (day * 13, topic, true, "notified twice"),
            (day * 7, topic, true, "shorter than the 14d"),
            (day, Retention::Forever, false, "nothing is pruned"),
        ];
        for (ledger, topic, problem, detail) in cases {
            let finding = retention_finding(ledger, topic);
            assert_eq!(finding.is_problem(), problem, "{}", finding.detail);
            assert!(finding.detail.contains(detail), "{}", finding.detail);
        }
    }
}
