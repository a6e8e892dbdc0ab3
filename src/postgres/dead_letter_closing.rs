//! Dead letters are closed by an operator, opened again, or removed by age.

use std::time::Duration;

use super::audit::Act;
use super::pool::Postgres;
use super::{seconds, text};
use crate::core::failure::LedgerFailure;

/// What age removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    pub letters: u64,
    /// Those of them that nobody had closed.
    pub open: u64,
}

impl Postgres {
    /// Discards those of the dead letters that are open or quarantined, and writes the audit; gives their ids.
    pub async fn discard(&self, ids: &[i64], act: &Act, note: &str) -> Result<Vec<i64>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query_scalar!(
            r#"WITH wanted AS MATERIALIZED (
               SELECT d.id FROM dead_letters d
                WHERE d.consumer_group = $1 AND d.topic = $2 AND d.id = ANY($3::bigint[])
                ORDER BY d.order_id, d.event_type, d.id FOR UPDATE),
             closed AS (
               UPDATE dead_letters d
                  SET state = 'discarded', closed_at = clock_timestamp(), closed_by = $4, close_reason = $5, close_note = $6
                 FROM wanted w WHERE d.id = w.id AND d.state IN ('open', 'quarantined')
               RETURNING d.id),
             audited AS (
               INSERT INTO operator_audit (consumer_group, topic, operator, action, filter, letters, reason, result, detail)
               SELECT $1, $2, $4, $7, $8::text::jsonb, count(*), $5, 'done', $6 FROM closed HAVING count(*) > 0)
             SELECT id AS "id!" FROM closed ORDER BY id"#,
            &*self.group,
            &*self.topic,
            ids,
            &text::bounded(&act.operator),
            &text::bounded(&act.reason),
            &text::bounded(note),
            act.action,
            act.filter,
        );
        let closed = self.answer(statement.fetch_all(&mut *lease)).await;
        lease.end(closed).await
    }

    /// Opens those of the dead letters again that are discarded, and writes the audit; gives their ids.
    pub async fn restore(&self, ids: &[i64], act: &Act) -> Result<Vec<i64>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query_scalar!(
            r#"WITH wanted AS MATERIALIZED (
               SELECT d.id FROM dead_letters d
                WHERE d.consumer_group = $1 AND d.topic = $2 AND d.id = ANY($3::bigint[])
                ORDER BY d.order_id, d.event_type, d.id FOR UPDATE),
             opened AS (
               UPDATE dead_letters d
                  SET state = 'open', closed_at = NULL, closed_by = NULL, close_reason = NULL, close_note = NULL
                 FROM wanted w WHERE d.id = w.id AND d.state = 'discarded'
               RETURNING d.id),
             audited AS (
               INSERT INTO operator_audit (consumer_group, topic, operator, action, filter, letters, reason, result, detail)
               SELECT $1, $2, $4, $5, $6::text::jsonb, count(*), $7, 'done', '' FROM opened HAVING count(*) > 0)
             SELECT id AS "id!" FROM opened ORDER BY id"#,
            &*self.group,
            &*self.topic,
            ids,
            &text::bounded(&act.operator),
            act.action,
            act.filter,
            &text::bounded(&act.reason),
        );
        let opened = self.answer(statement.fetch_all(&mut *lease)).await;
        lease.end(opened).await
    }

    /// Removes published dead letters that failed last longer than `retention` ago, at most `limit`, and writes the audit. What
    /// a replay has stays.
    pub async fn expire_letters(&self, retention: Duration, limit: u32) -> Result<Expired, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"WITH old AS MATERIALIZED (
               SELECT d.id FROM dead_letters d
                WHERE d.consumer_group = $1 AND d.topic = $2 AND d.failed_at < now() - $3::float8 * interval '1 second'
                  AND d.state <> 'replaying' AND d.published_at IS NOT NULL
                ORDER BY d.order_id, d.event_type, d.id LIMIT $4 FOR UPDATE SKIP LOCKED),
             removed AS (
               DELETE FROM dead_letters d USING old WHERE d.id = old.id RETURNING d.state),
             audited AS (
               INSERT INTO operator_audit (consumer_group, topic, operator, action, filter, letters, reason, result, detail)
               SELECT $1, $2, 'herald', 'expire', '{}', count(*), 'dead_letters.retention', 'done',
                      format('%s of them had not been closed', count(*) FILTER (WHERE state IN ('open', 'quarantined')))
                 FROM removed HAVING count(*) > 0)
             SELECT count(*) AS "letters!", count(*) FILTER (WHERE state IN ('open', 'quarantined')) AS "open!" FROM removed"#,
            &*self.group,
            &*self.topic,
            seconds(retention),
            i64::from(limit),
        );
        let expired = self.answer(statement.fetch_one(&mut *lease)).await;
        let expired = lease.end(expired).await?;
        Ok(Expired { letters: expired.letters.cast_unsigned(), open: expired.open.cast_unsigned() })
    }

    /// Dead letters that nobody has closed and that failed last longer than this ago.
    pub async fn open_letters_older_than(&self, age: Duration) -> Result<u64, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM dead_letters
                WHERE consumer_group = $1 AND topic = $2 AND failed_at < now() - $3::float8 * interval '1 second'
                  AND state IN ('open', 'quarantined')"#,
            &*self.group,
            &*self.topic,
            seconds(age),
        );
        let count = self.answer(statement.fetch_one(&mut *lease)).await;
        Ok(lease.end(count).await?.cast_unsigned())
    }
}
