//! `replays`: plans of dead letters to process again, and the replays that came of them.

use std::time::Duration;

use super::audit::Act;
use super::pool::Postgres;
use super::{seconds, text};
use crate::core::failure::LedgerFailure;
use crate::core::record::Timestamp;
use crate::core::replay::ReplayProgress;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplayState {
    Planned,
    /// The workers process it.
    Running,
    /// A command publishes it to the topic.
    Publishing,
    Paused,
    /// Too many failed.
    Stopped,
    Cancelled,
    Done,
}

/// Where the records of a replay go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayTo {
    /// To the workers of this group, and to nobody else.
    Workers,
    /// To the source topic, for every group that reads it.
    Topic,
}

/// How a replay is to go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplayTerms {
    pub to: ReplayTo,
    /// Letters each second.
    pub rate: f64,
    pub canary: u32,
    pub max_failure_ratio: f64,
    /// Failed replays after which a letter is quarantined.
    pub replay_cap: u32,
    /// Take what is quarantined, too.
    pub override_cap: bool,
    /// How long the plan may be executed.
    pub valid_for: Duration,
}

/// A letter of a plan.
#[derive(Clone, Debug)]
pub struct PlannedLetter {
    pub id: i64,
    /// In the stored form, where an operator has changed it.
    pub edited: Option<Vec<u8>>,
}

/// A replay, and how far it has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    pub id: i64,
    pub to: ReplayTo,
    pub state: ReplayState,
    pub planned_by: String,
    pub planned_at: Timestamp,
    pub valid_until: Timestamp,
    pub is_valid: bool,
    pub changed_by: String,
    pub changed_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub reason: String,
    pub override_cap: bool,
    pub quarantined: u64,
    pub cancelled: u64,
    /// Letters among the dead that are quarantined are counted in both.
    pub progress: ReplayProgress,
}

/// How many replays are in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayCount {
    pub state: ReplayState,
    pub count: u64,
}

impl Postgres {
    /// Freezes the letters as a plan, and gives its id. Those of a partition come in the order of their offsets. Letters that are
    /// gone meanwhile are left out.
    pub async fn write_plan(
        &self,
        letters: &[PlannedLetter],
        terms: &ReplayTerms,
        act: &Act,
    ) -> Result<i64, LedgerFailure> {
        let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
        let edited: Vec<Option<&[u8]>> = letters.iter().map(|letter| letter.edited.as_deref()).collect();
        let mut lease = self.lease().await?;
        let statement = sqlx::query_scalar!(
            r#"WITH plan AS (
               INSERT INTO replays (consumer_group, topic, state, planned_by, changed_by, valid_until, reason, filter, rate,
                      canary, max_failure_ratio, replay_cap, override_cap, to_topic)
               VALUES ($1, $2, 'planned', $3, $3, clock_timestamp() + $4::float8 * interval '1 second', $5,
                      $6::text::jsonb, $7, $8, $9, $10, $11, $15)
               RETURNING id),
             letters AS (
               INSERT INTO replay_letters (replay_id, place, dead_letter_id, failed_at, edited)
               SELECT plan.id, row_number() OVER (ORDER BY d.koffset, d.kpartition, d.id), d.id, d.failed_at, i.edited
                 FROM plan, unnest($12::bigint[], $13::bytea[]) AS i(id, edited)
                 JOIN dead_letters d ON d.id = i.id
               RETURNING 1),
             audited AS (
               INSERT INTO operator_audit (consumer_group, topic, operator, action, filter, letters, reason, result, detail)
               SELECT $1, $2, $3, $14, $6::text::jsonb, (SELECT count(*) FROM letters), $5, 'done', format('plan %s', id) FROM plan)
             SELECT id AS "id!" FROM plan"#,
            &*self.group,
            &*self.topic,
            &text::bounded(&act.operator),
            seconds(terms.valid_for),
            &text::bounded(&act.reason),
            act.filter,
            terms.rate,
            i32::try_from(terms.canary).unwrap_or(i32::MAX),
            terms.max_failure_ratio,
            i32::try_from(terms.replay_cap).unwrap_or(i32::MAX),
            terms.override_cap,
            &ids,
            edited.as_slice() as _,
            act.action,
            terms.to == ReplayTo::Topic,
        );
        let id = self.answer(statement.fetch_one(&mut *lease)).await;
        lease.end(id).await
    }

    /// Moves a replay from one of these states to another and writes the audit; says whether it was in one of them. A plan is
    /// executed only while it is valid.
    pub async fn move_replay(
        &self,
        id: i64,
        from: &[ReplayState],
        to: ReplayState,
        act: &Act,
    ) -> Result<bool, LedgerFailure> {
        let from: Vec<&str> = from.iter().map(|state| state.as_str()).collect();
        let mut lease = self.lease().await?;
        let statement = sqlx::query_scalar!(
            r#"WITH moved AS (
               UPDATE replays r
                  SET state = $5, changed_by = $6, changed_at = clock_timestamp(),
                      started_at = CASE WHEN r.state = 'planned' AND $5 <> 'cancelled' THEN clock_timestamp() ELSE r.started_at END,
                      started_by = CASE WHEN r.state = 'planned' AND $5 <> 'cancelled' THEN $6 ELSE r.started_by END,
                      finished_at = CASE WHEN $5 = 'cancelled' THEN clock_timestamp() END
                WHERE r.id = $3 AND r.consumer_group = $1 AND r.topic = $2 AND r.state = ANY($4::text[])
                  AND (r.state <> 'planned' OR $5 = 'cancelled' OR r.valid_until > clock_timestamp())
               RETURNING r.id),
             audited AS (
               INSERT INTO operator_audit (consumer_group, topic, operator, action, filter, letters, reason, result, detail)
               SELECT $1, $2, $6, $7, $8::text::jsonb, (SELECT count(*) FROM replay_letters l WHERE l.replay_id = id), $9, 'done', ''
                 FROM moved)
             SELECT count(*) > 0 AS "is_moved!" FROM moved"#,
            &*self.group,
            &*self.topic,
            id,
            from.as_slice() as _,
            to.as_str(),
            &text::bounded(&act.operator),
            act.action,
            act.filter,
            &text::bounded(&act.reason),
        );
        let moved = self.answer(statement.fetch_one(&mut *lease)).await;
        lease.end(moved).await
    }

    /// Lets a stopped replay go on with another bound.
    pub async fn allow_failures(&self, id: i64, max_failure_ratio: f64) -> Result<(), LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "UPDATE replays SET max_failure_ratio = $4
              WHERE id = $3 AND consumer_group = $1 AND topic = $2 AND state IN ('paused', 'stopped')",
            &*self.group,
            &*self.topic,
            id,
            max_failure_ratio,
        );
        let changed = self.answer(statement.execute(&mut *lease)).await;
        lease.end(changed).await.map(drop)
    }

    /// A running replay has come to its end, or to its bound.
    pub async fn end_replay(&self, id: i64, to: ReplayState, why: &str) -> Result<(), LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "UPDATE replays SET state = $2, changed_by = $3, changed_at = clock_timestamp(),
                    finished_at = CASE WHEN $2 = 'done' THEN clock_timestamp() END
              WHERE id = $1 AND state IN ('running', 'publishing')",
            id,
            to.as_str(),
            why,
        );
        let ended = self.answer(statement.execute(&mut *lease)).await;
        lease.end(ended).await.map(drop)
    }

    /// The newest replays, plans too; or the one of this id; or those that run.
    pub async fn replays(
        &self,
        id: Option<i64>,
        only: Option<ReplayState>,
        limit: u32,
    ) -> Result<Vec<Replay>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query_as!(
            ReplayRow,
            r#"SELECT r.id, r.to_topic, r.state, r.planned_by, r.changed_by, r.reason, r.rate, r.canary, r.max_failure_ratio, r.override_cap,
                      r.valid_until > clock_timestamp() AS "is_valid!",
                      floor(extract(epoch FROM r.planned_at) * 1000)::bigint AS "planned_ms!",
                      floor(extract(epoch FROM r.valid_until) * 1000)::bigint AS "valid_ms!",
                      floor(extract(epoch FROM r.changed_at) * 1000)::bigint AS "changed_ms!",
                      floor(extract(epoch FROM r.started_at) * 1000)::bigint AS started_ms,
                      floor(extract(epoch FROM r.finished_at) * 1000)::bigint AS finished_ms,
                      greatest(coalesce(extract(epoch FROM r.next_due_at - clock_timestamp()), 0), 0)::float8 AS "ahead!",
                      c.planned AS "planned!", c.scheduled AS "scheduled!", c.notified AS "notified!",
                      c.duplicate AS "duplicate!", c.dead_again AS "dead_again!", c.quarantined AS "quarantined!",
                      c.published AS "published!", c.left_out AS "left_out!", c.cancelled AS "cancelled!"
                 FROM replays r
                CROSS JOIN LATERAL (
                      SELECT count(*) FILTER (WHERE l.state = 'planned') AS planned,
                             count(*) FILTER (WHERE l.state = 'scheduled') AS scheduled,
                             count(*) FILTER (WHERE l.outcome = 'notified') AS notified,
                             count(*) FILTER (WHERE l.outcome = 'duplicate') AS duplicate,
                             count(*) FILTER (WHERE l.outcome = 'dead_again') AS dead_again,
                             count(*) FILTER (WHERE l.outcome = 'quarantined') AS quarantined,
                             count(*) FILTER (WHERE l.outcome = 'published') AS published,
                             count(*) FILTER (WHERE l.outcome = 'left_out') AS left_out,
                             count(*) FILTER (WHERE l.outcome = 'cancelled') AS cancelled
                        FROM replay_letters l WHERE l.replay_id = r.id) c
                WHERE r.consumer_group = $1 AND r.topic = $2 AND ($3::bigint IS NULL OR r.id = $3)
                  AND ($4::text IS NULL OR r.state = $4)
                ORDER BY r.id DESC LIMIT $5"#,
            &*self.group,
            &*self.topic,
            id,
            only.map(ReplayState::as_str),
            i64::from(limit),
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        Ok(lease.end(rows).await?.into_iter().filter_map(ReplayRow::replay).collect())
    }

    /// How many there are in each state, plans too.
    pub async fn replay_counts(&self) -> Result<Vec<ReplayCount>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"SELECT state, count(*) AS "count!" FROM replays WHERE consumer_group = $1 AND topic = $2 GROUP BY state"#,
            &*self.group,
            &*self.topic,
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let counts = lease.end(rows).await?.into_iter().filter_map(|row| {
            let state = ReplayState::of(&row.state)?;
            Some(ReplayCount { state, count: row.count.cast_unsigned() })
        });
        Ok(counts.collect())
    }

    /// Removes plans that were never executed, and replays that ended, of long ago.
    pub async fn prune_replays(&self, retention: Duration) -> Result<(), LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "DELETE FROM replays WHERE consumer_group = $1 AND topic = $2
                AND (state = 'planned' AND valid_until < now() - interval '1 day'
                     OR state IN ('done', 'cancelled') AND finished_at < now() - $3::float8 * interval '1 second')",
            &*self.group,
            &*self.topic,
            seconds(retention),
        );
        let pruned = self.answer(statement.execute(&mut *lease)).await;
        lease.end(pruned).await.map(drop)
    }
}

struct ReplayRow {
    id: i64,
    to_topic: bool,
    state: String,
    planned_by: String,
    changed_by: String,
    reason: String,
    rate: f64,
    canary: i32,
    max_failure_ratio: f64,
    override_cap: bool,
    is_valid: bool,
    planned_ms: i64,
    valid_ms: i64,
    changed_ms: i64,
    started_ms: Option<i64>,
    finished_ms: Option<i64>,
    ahead: f64,
    planned: i64,
    scheduled: i64,
    notified: i64,
    duplicate: i64,
    dead_again: i64,
    quarantined: i64,
    published: i64,
    left_out: i64,
    cancelled: i64,
}

impl ReplayRow {
    /// None for a state of a later version.
    fn replay(self) -> Option<Replay> {
        let progress = ReplayProgress {
            planned: self.planned.cast_unsigned(),
            scheduled: self.scheduled.cast_unsigned(),
            notified: self.notified.cast_unsigned(),
            duplicate: self.duplicate.cast_unsigned(),
            dead: (self.dead_again + self.quarantined).cast_unsigned(),
            published: self.published.cast_unsigned(),
            left_out: (self.left_out + self.cancelled).cast_unsigned(),
            rate: self.rate,
            canary: u64::from(self.canary.cast_unsigned()),
            max_failure_ratio: self.max_failure_ratio,
            ahead: Duration::try_from_secs_f64(self.ahead).unwrap_or_default(),
        };
        Some(Replay {
            id: self.id,
            to: if self.to_topic { ReplayTo::Topic } else { ReplayTo::Workers },
            state: ReplayState::of(&self.state)?,
            planned_by: self.planned_by,
            planned_at: Timestamp(self.planned_ms),
            valid_until: Timestamp(self.valid_ms),
            is_valid: self.is_valid,
            changed_by: self.changed_by,
            changed_at: Timestamp(self.changed_ms),
            started_at: self.started_ms.map(Timestamp),
            finished_at: self.finished_ms.map(Timestamp),
            reason: self.reason,
            override_cap: self.override_cap,
            quarantined: self.quarantined.cast_unsigned(),
            cancelled: self.cancelled.cast_unsigned(),
            progress,
        })
    }
}

impl ReplayState {
    pub const ALL: [Self; 7] =
        [Self::Planned, Self::Running, Self::Publishing, Self::Paused, Self::Stopped, Self::Cancelled, Self::Done];

    /// None for a state of a later version.
    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Running => "running",
            Self::Publishing => "publishing",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Cancelled => "cancelled",
            Self::Done => "done",
        }
    }
}
