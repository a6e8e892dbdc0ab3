//! `partition_epochs`: who owns a partition, and since when nobody else does.

use super::pool::Postgres;
use crate::core::failure::LedgerFailure;
use crate::core::record::{Epoch, Partition};

impl Postgres {
    /// Makes `owner` the owner of the partitions and returns the epochs that fence all earlier owners.
    ///
    /// `owner` names this start of this process: raising again for the same owner is no unclean end. A raise may be
    /// repeated, and may arrive after a later owner's: that one finds itself fenced and raises again.
    pub async fn raise(&self, partitions: &[Partition], owner: &str) -> Result<Vec<(Partition, Epoch)>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "INSERT INTO partition_epochs AS e (consumer_group, topic, kpartition, epoch, owner, clean_end)
             SELECT $1, $2, p.kpartition, 1, $3, false FROM unnest($4::integer[]) AS p(kpartition) ORDER BY p.kpartition
             ON CONFLICT (consumer_group, topic, kpartition) DO UPDATE
             SET epoch = e.epoch + 1,
                 owner = excluded.owner,
                 clean_end = false,
                 unclean_ends = CASE WHEN e.clean_end THEN 0 WHEN e.owner = excluded.owner THEN e.unclean_ends
                                     ELSE e.unclean_ends + 1 END,
                 raised_at = excluded.raised_at
             RETURNING kpartition, epoch",
            &*self.group,
            &*self.topic,
            owner,
            &numbers(partitions),
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let rows = lease.end(rows).await?;
        Ok(rows.into_iter().map(|row| (Partition(row.kpartition), Epoch(row.epoch))).collect())
    }

    /// The epochs as they are. A partition that was never raised is missing.
    pub async fn read(&self, partitions: &[Partition]) -> Result<Vec<(Partition, Epoch)>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "SELECT kpartition, epoch FROM partition_epochs
              WHERE consumer_group = $1 AND topic = $2 AND kpartition = ANY($3::integer[])",
            &*self.group,
            &*self.topic,
            &numbers(partitions),
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let rows = lease.end(rows).await?;
        Ok(rows.into_iter().map(|row| (Partition(row.kpartition), Epoch(row.epoch))).collect())
    }

    /// Notes that these ownerships ended with nothing left undone. One that is over already stays as its successor has it.
    pub async fn end_clean(&self, ended: &[(Partition, Epoch)]) -> Result<(), LedgerFailure> {
        let partitions: Vec<i32> = ended.iter().map(|(partition, _)| partition.0).collect();
        let epochs: Vec<i64> = ended.iter().map(|(_, epoch)| epoch.0).collect();
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "WITH ended AS MATERIALIZED (
               SELECT e.kpartition, e.epoch FROM partition_epochs e
                 JOIN unnest($3::integer[], $4::bigint[]) AS i(kpartition, epoch) USING (kpartition, epoch)
                WHERE e.consumer_group = $1 AND e.topic = $2
                ORDER BY e.kpartition FOR UPDATE OF e)
             UPDATE partition_epochs e SET clean_end = true
               FROM ended WHERE e.consumer_group = $1 AND e.topic = $2 AND e.kpartition = ended.kpartition",
            &*self.group,
            &*self.topic,
            &partitions,
            &epochs,
        );
        let ended = self.answer(statement.execute(&mut *lease)).await;
        lease.end(ended).await.map(drop)
    }
}

fn numbers(partitions: &[Partition]) -> Vec<i32> {
    partitions.iter().map(|partition| partition.0).collect()
}
