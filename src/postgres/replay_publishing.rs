//! Letters of a replay to the topic: taken by the command that publishes them, and given back or ended by it. A letter that was taken by
//! a command which died is taken again; it may then be published twice.

use std::time::Duration;

use super::pool::Postgres;
use super::{seconds, stored_record};
use crate::core::failure::LedgerFailure;
use crate::core::record::{Coordinates, Offset, Partition, Record};

/// Longer than any publication waits for its acknowledgement.
const TAKEN_FOR: Duration = Duration::from_mins(1);
/// Stored bytes that are taken at once, beyond one letter.
const TAKE_BYTES: i64 = 16 << 20;

/// Which letter of a replay was taken, and when: it may be another's since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taking {
    pub place: i32,
    /// Microseconds since the Unix epoch, by the clock of the database.
    taken_at: i64,
}

/// A letter to publish.
#[derive(Clone, Debug)]
pub struct TakenLetter {
    pub taking: Taking,
    /// Absent when it cannot be read.
    pub record: Option<Record>,
}

/// What became of a letter that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Publication {
    /// Where it is.
    Published(Coordinates),
    /// It cannot be published, for this reason.
    LeftOut(String),
    /// Not this time.
    GivenBack,
}

impl Postgres {
    /// Takes the next letters of a replay that is publishing, in the order of the plan, as far as they are as they were planned:
    /// dead in the ledger, open in the table, with no later failure. Others are left out. A letter that changes at this moment is
    /// looked at again by the next call: whether it was published is known only as of before.
    pub async fn take_to_publish(&self, replay: i64, limit: u32) -> Result<Vec<TakenLetter>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"WITH run AS MATERIALIZED (
               SELECT r.id, r.override_cap, r.replay_cap, clock_timestamp() - $4::float8 * interval '1 second' AS lost
                 FROM replays r
                WHERE r.id = $1 AND r.consumer_group = $2 AND r.topic = $3 AND r.state = 'publishing' FOR SHARE),
             next AS MATERIALIZED (
               SELECT p.place, d.id, d.xmin AS version, octet_length(d.record) AS size
                 FROM run
                 JOIN replay_letters p ON p.replay_id = run.id
                  AND (p.state = 'planned' OR p.state = 'scheduled' AND p.scheduled_at < run.lost)
                 LEFT JOIN dead_letters d ON d.id = p.dead_letter_id
                ORDER BY p.place LIMIT $5),
             small AS MATERIALIZED (
               SELECT place, version FROM (SELECT place, version, size, sum(size) OVER (ORDER BY place) AS upto FROM next WHERE id IS NOT NULL) s
                WHERE upto <= $6 OR upto = size),
             chosen AS MATERIALIZED (
               SELECT p.place, p.failed_at, d.id, d.order_id, d.event_type,
                      d.state = 'replaying' AND d.run_id = run.id AS is_ours,
                      d.failed_at = p.failed_at AND (d.state = 'open' OR d.state = 'quarantined' AND run.override_cap
                                                     OR d.state = 'replaying' AND d.run_id = run.id) AS is_same,
                      CASE d.state
                           WHEN 'discarded' THEN format('it was discarded by %s at %s', d.closed_by,
                                to_char(d.closed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"'))
                           WHEN 'resolved' THEN 'its order was notified'
                           ELSE 'it is not as it was planned' END AS why
                 FROM run JOIN small ON true
                 JOIN replay_letters p ON p.replay_id = run.id AND p.place = small.place
                 JOIN dead_letters d ON d.id = p.dead_letter_id AND d.xmin = small.version
                WHERE p.state = 'planned' OR p.state = 'scheduled' AND p.scheduled_at < run.lost
                ORDER BY d.order_id, d.event_type, d.id FOR UPDATE OF p, d SKIP LOCKED),
             fit AS MATERIALIZED (
               SELECT c.place, c.id FROM chosen c
                WHERE c.is_same AND EXISTS (
                      SELECT FROM processed_orders l
                       WHERE l.consumer_group = $2 AND l.order_id = c.order_id AND l.event_type = c.event_type
                         AND l.state IN ('x', 'u') AND l.settled_at = c.failed_at)
                  AND NOT EXISTS (
                      SELECT FROM replay_letters o
                       WHERE o.dead_letter_id = c.id AND o.failed_at = c.failed_at AND o.outcome = 'published')),
             marked AS (
               UPDATE replay_letters p
                  SET state = CASE WHEN f.place IS NULL THEN 'ended' ELSE 'scheduled' END,
                      outcome = CASE WHEN f.place IS NULL THEN 'left_out' END,
                      detail = CASE WHEN f.place IS NULL THEN c.why END,
                      scheduled_at = clock_timestamp(), ended_at = CASE WHEN f.place IS NULL THEN clock_timestamp() END
                 FROM chosen c LEFT JOIN fit f ON f.place = c.place
                WHERE p.replay_id = $1 AND p.place = c.place
               RETURNING p.place, (extract(epoch FROM p.scheduled_at) * 1000000)::bigint AS taken_at),
             gone AS (
               UPDATE replay_letters p
                  SET state = 'ended', outcome = 'left_out', detail = 'the dead letter is gone', ended_at = clock_timestamp()
                 FROM next n WHERE n.id IS NULL AND p.replay_id = $1 AND p.place = n.place),
             moved AS (
               UPDATE dead_letters d
                  SET state = CASE WHEN f.id IS NOT NULL THEN 'replaying' WHEN d.replays >= run.replay_cap THEN 'quarantined'
                                   ELSE 'open' END, run_id = $1
                 FROM run CROSS JOIN chosen c LEFT JOIN fit f ON f.id = c.id
                WHERE d.id = c.id AND (f.id IS NOT NULL OR c.is_ours))
             SELECT f.place, m.taken_at AS "taken_at!", d.kpartition, d.koffset, d.record
               FROM fit f JOIN marked m ON m.place = f.place JOIN dead_letters d ON d.id = f.id ORDER BY f.place"#,
            replay,
            &*self.group,
            &*self.topic,
            seconds(TAKEN_FOR),
            i64::from(limit),
            TAKE_BYTES,
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let taken = lease.end(rows).await?.into_iter().map(|row| {
            let at = Coordinates { partition: Partition(row.kpartition), offset: Offset(row.koffset) };
            let record = stored_record::decode(at, row.record)
                .inspect_err(|error| tracing::error!(replay, place = row.place, %error, "a dead letter cannot be read"))
                .ok();
            TakenLetter { taking: Taking { place: row.place, taken_at: row.taken_at }, record }
        });
        Ok(taken.collect())
    }

    /// Writes down what became of letters that were taken. They are open again: a success of what was published resolves them. That
    /// one was published counts, whoever has it by now; anything else only as long as nobody else has taken it. May be repeated.
    pub async fn end_publishing(&self, replay: i64, ends: &[(Taking, Publication)]) -> Result<(), LedgerFailure> {
        let columns = Columns::of(&self.topic, ends);
        let mut lease = self.lease().await?;
        // The join of `letters` to `ended` is for the locks: whoever marks a letter of a replay has its dead letter first.
        let statement = sqlx::query!(
            "WITH ended AS MATERIALIZED (
               SELECT i.* FROM unnest($2::integer[], $3::bigint[], $4::text[], $5::text[]) AS i(place, taken_at, outcome, detail)),
             letters AS MATERIALIZED (
               SELECT d.id, p.place, r.replay_cap
                 FROM replays r
                 JOIN replay_letters p ON p.replay_id = r.id
                 JOIN ended e ON e.place = p.place
                 JOIN dead_letters d ON d.id = p.dead_letter_id AND d.state = 'replaying' AND d.run_id = r.id
                WHERE r.id = $1 ORDER BY d.order_id, d.event_type, d.id FOR UPDATE OF d),
             marked AS (
               UPDATE replay_letters p
                  SET state = CASE WHEN e.outcome IS NULL THEN 'planned' ELSE 'ended' END, outcome = e.outcome, detail = e.detail,
                      ended_at = CASE WHEN e.outcome IS NOT NULL THEN clock_timestamp() END
                 FROM ended e LEFT JOIN letters l ON l.place = e.place
                WHERE p.replay_id = $1 AND p.place = e.place
                  AND CASE WHEN e.outcome = 'published'
                           -- A worker may have notified it before its acknowledgement arrived here.
                           THEN p.state <> 'ended' OR p.outcome = 'notified'
                           ELSE p.state = 'scheduled' AND (extract(epoch FROM p.scheduled_at) * 1000000)::bigint = e.taken_at END
               RETURNING p.place, (p.outcome IS NOT DISTINCT FROM 'published')::integer AS published)
             UPDATE dead_letters d
                SET replays = d.replays + m.published,
                    state = CASE WHEN d.replays + m.published >= l.replay_cap THEN 'quarantined' ELSE 'open' END
               FROM letters l JOIN marked m ON m.place = l.place WHERE d.id = l.id",
            replay,
            &columns.places,
            &columns.taken_at,
            columns.outcomes.as_slice() as _,
            columns.details.as_slice() as _,
        );
        let ended = self.answer(statement.execute(&mut *lease)).await;
        lease.end(ended).await.map(drop)
    }

    /// Ends what a command had taken that died before its replay was cancelled.
    pub(super) async fn end_cancelled_publishing(&self) -> Result<(), LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "WITH lost AS MATERIALIZED (
               SELECT p.replay_id, p.place, d.id, r.replay_cap
                 FROM replays r
                 JOIN replay_letters p ON p.replay_id = r.id AND p.state = 'scheduled'
                  AND p.scheduled_at < clock_timestamp() - $3::float8 * interval '1 second'
                 JOIN dead_letters d ON d.id = p.dead_letter_id
                WHERE r.consumer_group = $1 AND r.topic = $2 AND r.state = 'cancelled' AND r.to_topic
                ORDER BY d.order_id, d.event_type, d.id FOR UPDATE OF d),
             opened AS (
               UPDATE dead_letters d SET state = CASE WHEN d.replays >= l.replay_cap THEN 'quarantined' ELSE 'open' END
                 FROM lost l WHERE d.id = l.id AND d.state = 'replaying' AND d.run_id = l.replay_id)
             UPDATE replay_letters p
                SET state = 'ended', outcome = 'left_out', detail = 'the command died: it may have been published',
                    ended_at = clock_timestamp()
               FROM lost l WHERE p.replay_id = l.replay_id AND p.place = l.place AND p.state = 'scheduled'",
            &*self.group,
            &*self.topic,
            seconds(TAKEN_FOR),
        );
        let ended = self.answer(statement.execute(&mut *lease)).await;
        lease.end(ended).await.map(drop)
    }
}

/// One array for each column.
#[derive(Default)]
struct Columns {
    places: Vec<i32>,
    taken_at: Vec<i64>,
    outcomes: Vec<Option<&'static str>>,
    details: Vec<Option<String>>,
}

impl Columns {
    fn of(topic: &str, ends: &[(Taking, Publication)]) -> Self {
        let mut columns = Self::default();
        for (taking, end) in ends {
            let (outcome, detail) = match end {
                Publication::Published(at) => {
                    (Some("published"), Some(format!("{topic}/{} @ {}", at.partition, at.offset)))
                }
                Publication::LeftOut(why) => (Some("left_out"), Some(why.clone())),
                Publication::GivenBack => (None, None),
            };
            columns.places.push(taking.place);
            columns.taken_at.push(taking.taken_at);
            columns.outcomes.push(outcome);
            columns.details.push(detail);
        }
        columns
    }
}
