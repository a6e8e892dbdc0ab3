//! `partition_epochs`: who owns a partition, and since when nobody else does.

use super::pool::Postgres;
use crate::core::failure::LedgerFailure;
use crate::core::input::{Holder, Raised};
use crate::core::record::{Epoch, Offset, Partition};

impl Postgres {
    /// Makes `owner` the owner of the partitions and returns the epochs that fence all earlier owners.
    ///
    /// `owner` names this start of this process: raising again for the same owner is no unclean end. A raise may be
    /// repeated, and may arrive after a later owner's: that one finds itself fenced and raises again.
    ///
    /// Each partition comes with the offset that its ownership begins at. One that begins elsewhere than the last had progress
    /// before it: the counting of unclean ends begins anew.
    pub async fn raise(
        &self,
        starts: &[(Partition, Offset)],
        owner: &str,
    ) -> Result<Vec<(Partition, Raised)>, LedgerFailure> {
        let partitions: Vec<i32> = starts.iter().map(|(partition, _)| partition.0).collect();
        let offsets: Vec<i64> = starts.iter().map(|(_, start)| start.0).collect();
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "INSERT INTO partition_epochs AS e (consumer_group, topic, kpartition, epoch, owner, clean_end, start_offset)
             SELECT $1, $2, p.kpartition, 1, $3, false, p.start_offset
               FROM unnest($4::integer[], $5::bigint[]) AS p(kpartition, start_offset) ORDER BY p.kpartition
             ON CONFLICT (consumer_group, topic, kpartition) DO UPDATE
             SET epoch = e.epoch + 1,
                 owner = excluded.owner,
                 clean_end = false,
                 start_offset = excluded.start_offset,
                 unclean_ends = CASE WHEN e.clean_end OR e.start_offset IS DISTINCT FROM excluded.start_offset THEN 0
                                     WHEN e.owner = excluded.owner THEN e.unclean_ends
                                     ELSE e.unclean_ends + 1 END,
                 raised_at = excluded.raised_at
             RETURNING kpartition, epoch, unclean_ends",
            &*self.group,
            &*self.topic,
            owner,
            &partitions,
            &offsets,
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let rows = lease.end(rows).await?;
        let raised = rows.into_iter().map(|row| {
            let unclean_ends = row.unclean_ends.cast_unsigned();
            (Partition(row.kpartition), Raised { epoch: Epoch(row.epoch), unclean_ends })
        });
        Ok(raised.collect())
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

    /// Whether the claim is of an owner before the one that its partition has: that one has not claimed the record again, for the claim
    /// would be its own then.
    pub async fn is_left_behind(&self, holder: &Holder) -> Result<bool, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query_scalar!(
            r#"SELECT EXISTS (
               SELECT FROM partition_epochs
                WHERE consumer_group = $1 AND topic = $2 AND kpartition = $3 AND epoch > $4) AS "is!""#,
            &*self.group,
            &*holder.topic,
            holder.coordinates.partition.0,
            holder.epoch.0,
        );
        let is_left_behind = self.answer(statement.fetch_one(&mut *lease)).await;
        lease.end(is_left_behind).await
    }

    /// Notes that these ownerships ended in good order: their process lives. One that is over already stays as its successor has it.
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
