//! `operator_audit`: what operators did, and what they were refused. Rows are only ever added; a trigger sees to that.

use super::pool::Postgres;
use super::text;
use crate::core::failure::LedgerFailure;
use crate::core::record::Timestamp;

/// Who does what to which dead letters, and why: the part of an audit row that is known before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub operator: String,
    pub action: &'static str,
    /// What was selected, as JSON.
    pub filter: String,
    pub reason: String,
}

/// How an act ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditResult {
    Done,
    /// Not permitted, or not sensible.
    Refused,
    /// It met a change made meanwhile.
    Conflict,
    /// What it needs is away.
    Failed,
}

/// How often operators did something that ended in this way, ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditCount {
    pub action: String,
    pub result: AuditResult,
    pub count: u64,
}

/// A row of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    pub id: i64,
    pub at: Timestamp,
    pub operator: String,
    pub action: String,
    pub filter: String,
    pub letters: u64,
    pub reason: String,
    pub result: String,
    pub detail: String,
}

impl Postgres {
    /// Writes down what was not done, and why. What is done is written by the statement that does it.
    pub async fn audit_not_done(&self, act: &Act, result: AuditResult, why: &str) -> Result<(), LedgerFailure> {
        self.audit(act, 0, result, why).await
    }

    /// Writes down what was done by other means than a statement here.
    pub async fn audit_done(&self, act: &Act, letters: u64, detail: &str) -> Result<(), LedgerFailure> {
        self.audit(act, letters, AuditResult::Done, detail).await
    }

    async fn audit(&self, act: &Act, letters: u64, result: AuditResult, detail: &str) -> Result<(), LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "INSERT INTO operator_audit (consumer_group, topic, operator, action, filter, letters, reason, result, detail)
             VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7, $8, $9)",
            &*self.group,
            &*self.topic,
            &text::bounded(&act.operator),
            act.action,
            act.filter,
            letters.cast_signed(),
            &text::bounded(&act.reason),
            result.as_str(),
            &text::bounded(detail),
        );
        let written = self.answer(statement.execute(&mut *lease)).await;
        lease.end(written).await.map(drop)
    }

    /// Every act there ever was, counted; from an index alone.
    pub async fn audit_counts(&self) -> Result<Vec<AuditCount>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"SELECT action, result, count(*) AS "count!" FROM operator_audit
                WHERE consumer_group = $1 AND topic = $2 GROUP BY action, result"#,
            &*self.group,
            &*self.topic,
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let counts = lease.end(rows).await?.into_iter().filter_map(|row| {
            // None for a result of a later version.
            let result = AuditResult::ALL.into_iter().find(|result| result.as_str() == row.result)?;
            Some(AuditCount { action: row.action, result, count: row.count.cast_unsigned() })
        });
        Ok(counts.collect())
    }

    /// The newest rows below `before`.
    pub async fn audit_page(&self, before: Option<i64>, limit: u32) -> Result<Vec<AuditRow>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"SELECT id, floor(extract(epoch FROM at) * 1000)::bigint AS "at_ms!", operator, action,
                      filter::text AS "filter!", letters, reason, result, detail
                 FROM operator_audit
                WHERE consumer_group = $1 AND topic = $2 AND ($3::bigint IS NULL OR id < $3)
                ORDER BY id DESC LIMIT $4"#,
            &*self.group,
            &*self.topic,
            before,
            i64::from(limit),
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let rows = lease.end(rows).await?.into_iter().map(|row| AuditRow {
            id: row.id,
            at: Timestamp(row.at_ms),
            operator: row.operator,
            action: row.action,
            filter: row.filter,
            letters: row.letters.cast_unsigned(),
            reason: row.reason,
            result: row.result,
            detail: row.detail,
        });
        Ok(rows.collect())
    }
}

impl AuditResult {
    pub const ALL: [Self; 4] = [Self::Done, Self::Refused, Self::Conflict, Self::Failed];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Conflict => "conflict",
            Self::Failed => "failed",
        }
    }
}
