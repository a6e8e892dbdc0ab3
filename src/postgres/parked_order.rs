//! Whether what is parked waits under the keys that order is kept by: `ordering.key` may have been changed since.

use super::pool::Postgres;
use super::stored_record;
use crate::core::decode::{Decoded, Decoder};
use crate::core::failure::LedgerFailure;
use crate::core::key::LaneKey;
use crate::core::record::{Coordinates, Offset, Partition};
use crate::preflight::Finding;

/// Records that are looked at: a change of the setting shows in nearly all of them.
const SAMPLE: i64 = 100;

impl Postgres {
    /// A warning if parked records wait under another key than they would now. What cannot be read says nothing: others tell why.
    pub async fn parked_order(&self, decoder: &Decoder) -> Option<Finding> {
        let sample = self.parked_sample().await.ok()?;
        let looked_at = sample.len();
        let is_elsewhere = |(coordinates, record, key): &(Coordinates, Vec<u8>, LaneKey)| {
            let record = stored_record::decode(*coordinates, record.clone()).ok();
            record.and_then(|record| lane(decoder.decode(&record))).is_some_and(|lane| lane != *key)
        };
        let elsewhere = sample.iter().filter(|row| is_elsewhere(row)).count();
        (elsewhere > 0).then(|| {
            let detail = format!("{elsewhere} of {looked_at} parked records wait under another ordering.key");
            let remedies = vec![
                "later records of their keys do not wait for them: order is not kept between the two".to_owned(),
                "keep ordering.key as it was until herald_parked_records is 0, where that matters".to_owned(),
            ];
            Finding::warning("parked", detail, remedies)
        })
    }

    async fn parked_sample(&self) -> Result<Vec<(Coordinates, Vec<u8>, LaneKey)>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "SELECT kpartition, koffset, key_hash, record FROM parked_events
              WHERE consumer_group = $1 AND topic = $2 AND run_id IS NULL LIMIT $3",
            &*self.group,
            &*self.topic,
            SAMPLE,
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let rows = lease.end(rows).await?.into_iter().map(|row| {
            let coordinates = Coordinates { partition: Partition(row.kpartition), offset: Offset(row.koffset) };
            (coordinates, row.record, LaneKey(row.key_hash.cast_unsigned()))
        });
        Ok(rows.collect())
    }
}

fn lane(decoded: Decoded) -> Option<LaneKey> {
    match decoded {
        Decoded::Event { event, lane } => Some(lane.unwrap_or_else(|| LaneKey::of_unordered(&event.identity))),
        Decoded::Ignored { .. } | Decoded::Poison { .. } => None,
    }
}
