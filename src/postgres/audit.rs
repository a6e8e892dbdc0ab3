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
    /// Writes down what was refused, and why. What is done is written by the statement that does it.
    pub async fn audit_refusal(&self, act: &Act, detail: &str) -> Result<(), LedgerFailure> {
        self.audit(act, 0, "refused", detail).await
    }

    /// Writes down what was done by other means than a statement here.
    pub async fn audit_done(&self, act: &Act, letters: u64, detail: &str) -> Result<(), LedgerFailure> {
        self.audit(act, letters, "done", detail).await
    }

    async fn audit(&self, act: &Act, letters: u64, result: &str, detail: &str) -> Result<(), LedgerFailure> {
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
            result,
            &text::bounded(detail),
        );
        let written = self.answer(statement.execute(&mut *lease)).await;
        lease.end(written).await.map(drop)
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
