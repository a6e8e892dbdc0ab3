//! What a replay of dead letters would come to, as the ledger is now.

use super::dead_letters::reason_from_name;
use super::pool::Postgres;
use super::replays::ReplayTo;
use crate::core::failure::{LedgerFailure, Reason};
use crate::core::record::Timestamp;

/// What would become of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prospect {
    /// Processed again.
    Processed,
    /// Its order was notified meanwhile: nothing is sent.
    AlreadyNotified,
    /// A replay has it.
    BeingReplayed,
    /// Another copy of its order is being handled, or waits for its retry.
    BeingHandled,
    /// It was replayed too often.
    Quarantined,
    Closed,
    /// A later dead letter of the same order has taken its place.
    Superseded,
    /// Its ledger row is gone: whether the order was notified is not known any more.
    Pruned,
    /// It was published to the topic again since it failed.
    Published,
}

/// A dead letter and what would become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterProspect {
    pub id: i64,
    pub prospect: Prospect,
    pub reason: Reason,
    pub group: String,
    /// Of the replay that has it, published it, or had it last: who began it, and when.
    pub replay: Option<(i64, String, Timestamp)>,
}

impl Postgres {
    /// In the order of the ids.
    pub async fn prospects(
        &self,
        ids: &[i64],
        to: ReplayTo,
        override_cap: bool,
    ) -> Result<Vec<LetterProspect>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"SELECT d.id, d.reason, d.bug, r.id AS "replay_id?", coalesce(r.started_by, r.planned_by) AS begun_by,
                      floor(extract(epoch FROM r.started_at) * 1000)::bigint AS started_ms,
                      CASE WHEN d.state = 'replaying' THEN 'being_replayed'
                           WHEN d.state IN ('discarded', 'resolved') THEN 'closed'
                           WHEN d.state = 'quarantined' AND NOT $4 THEN 'quarantined'
                           WHEN l.state IS NULL THEN 'pruned'
                           WHEN l.state = 'd' THEN 'notified'
                           WHEN l.state IN ('c', 'p') THEN 'being_handled'
                           WHEN $5 AND EXISTS (
                                SELECT FROM replay_letters p
                                 WHERE p.dead_letter_id = d.id AND p.failed_at = d.failed_at AND p.outcome = 'published')
                           THEN 'published'
                           WHEN l.settled_at = d.failed_at THEN 'processed'
                           ELSE 'superseded' END AS "prospect!"
                 FROM dead_letters d
                 LEFT JOIN processed_orders l ON l.consumer_group = $1 AND l.order_id = d.order_id
                                             AND l.event_type = d.event_type
                 LEFT JOIN replays r ON r.id = d.run_id
                WHERE d.consumer_group = $1 AND d.topic = $2 AND d.id = ANY($3::bigint[]) ORDER BY d.id"#,
            &*self.group,
            &*self.topic,
            ids,
            override_cap,
            to == ReplayTo::Topic,
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let found = lease.end(rows).await?.into_iter().filter_map(|row| {
            let prospect = match row.prospect.as_str() {
                "processed" => Prospect::Processed,
                "notified" => Prospect::AlreadyNotified,
                "being_replayed" => Prospect::BeingReplayed,
                "being_handled" => Prospect::BeingHandled,
                "quarantined" => Prospect::Quarantined,
                "closed" => Prospect::Closed,
                "superseded" => Prospect::Superseded,
                "published" => Prospect::Published,
                _ => Prospect::Pruned,
            };
            let started = Timestamp(row.started_ms.unwrap_or_default());
            let replay = row.replay_id.zip(row.begun_by).map(|(id, by)| (id, by, started));
            Some(LetterProspect {
                id: row.id,
                prospect,
                reason: reason_from_name(&row.reason)?,
                group: row.bug,
                replay,
            })
        });
        Ok(found.collect())
    }
}

impl Prospect {
    pub const ALL: [Self; 9] = [
        Self::Processed,
        Self::AlreadyNotified,
        Self::BeingReplayed,
        Self::BeingHandled,
        Self::Quarantined,
        Self::Closed,
        Self::Superseded,
        Self::Pruned,
        Self::Published,
    ];

    /// Whether it is part of the plan. One whose order was notified meanwhile is resolved by the workers; on the topic it would
    /// be sent to other groups for nothing.
    #[must_use]
    pub fn is_taken(self, to: ReplayTo) -> bool {
        match self {
            Self::Processed => true,
            Self::AlreadyNotified => to == ReplayTo::Workers,
            Self::BeingReplayed
            | Self::BeingHandled
            | Self::Quarantined
            | Self::Closed
            | Self::Superseded
            | Self::Pruned
            | Self::Published => false,
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Processed => "would be processed",
            Self::AlreadyNotified => "already notified",
            Self::BeingReplayed => "being replayed",
            Self::BeingHandled => "being handled",
            Self::Quarantined => "quarantined",
            Self::Closed => "closed",
            Self::Superseded => "superseded",
            Self::Pruned => "pruned",
            Self::Published => "already published",
        }
    }
}
