//! The load generator: the records of a chapter, in their order, at a pace.

use std::time::{Duration, Instant};

use super::broker::{Broker, Error};
use super::gateway::Gateway;
use super::plan::{Content, Plan, PlannedRecord};
use crate::core::record::Coordinates;

const STEP: Duration = Duration::from_millis(20);
const MAX_BATCH: usize = 1_000;
/// Orders that wait at most: the embedded broker keeps little, and must still have what a restarted worker reads again.
const MAX_BACKLOG: u64 = 15_000;
/// Seconds that all orders of a story would take.
const EVEN: u64 = 4;
const BURST: u64 = 2;
const MIN_RATE: u64 = 100;

pub(super) type Produced = Vec<(Coordinates, PlannedRecord)>;

/// How fast to produce.
#[derive(Debug)]
pub(super) struct Pace<'a> {
    batch: usize,
    interval: Duration,
    follow: Option<&'a Gateway>,
}

impl<'a> Pace<'a> {
    /// A story of this many orders in a few seconds, never far ahead of the gateway.
    pub(super) fn even(orders: u64, gateway: &'a Gateway) -> Self {
        Self::at_rate(orders / EVEN, gateway)
    }

    /// Faster than a worker on a small machine.
    pub(super) fn burst(orders: u64, gateway: &'a Gateway) -> Self {
        Self::at_rate(orders / BURST, gateway)
    }

    /// Without looking at the gateway: for when it is closed.
    pub(super) fn all_at_once() -> Self {
        Self { batch: MAX_BATCH, interval: Duration::ZERO, follow: None }
    }

    fn at_rate(per_second: u64, gateway: &'a Gateway) -> Self {
        let steps = 1_000 / u64::try_from(STEP.as_millis()).unwrap_or(1);
        let batch = usize::try_from(per_second.max(MIN_RATE) / steps).unwrap_or(MAX_BATCH);
        Self { batch: batch.clamp(1, MAX_BATCH), interval: STEP, follow: Some(gateway) }
    }
}

/// Produces the records and says where each of them is.
pub(super) async fn produce(
    broker: &Broker,
    plan: &Plan,
    records: &[PlannedRecord],
    pace: Pace<'_>,
) -> Result<Produced, Error> {
    let mut produced = Vec::with_capacity(records.len());
    let before = pace.follow.map_or(0, Gateway::notified);
    let mut orders = 0;
    let mut next = Instant::now();
    for batch in records.chunks(pace.batch) {
        while pace.follow.is_some_and(|gateway| orders > MAX_BACKLOG + gateway.notified().saturating_sub(before)) {
            tokio::time::sleep(STEP).await;
        }
        let coordinates = broker.produce(plan, batch).await?;
        produced.extend(coordinates.into_iter().zip(batch.iter().copied()));
        orders += batch.iter().map(|record| u64::from(matches!(record.content, Content::Order(_)))).sum::<u64>();
        next += pace.interval;
        tokio::time::sleep_until(next.into()).await;
    }
    Ok(produced)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::demo::plan::Chapter;

    #[tokio::test]
    async fn a_chapter_is_produced_whole_and_in_its_order() {
        let plan = Arc::new(Plan::new(200, 5));
        let broker = Broker::start().unwrap();
        let gateway = Gateway::open(Arc::clone(&plan)).await.unwrap();
        let records = plan.records(Chapter::Trouble);
        let produced = produce(&broker, &plan, records, Pace::burst(plan.orders(), &gateway)).await.unwrap();
        assert!(produced.iter().map(|(_, record)| record).eq(records));
        for partition in 0..4 {
            let offsets: Vec<_> = produced
                .iter()
                .filter(|(coordinates, _)| coordinates.partition.0 == partition)
                .map(|(coordinates, _)| coordinates.offset)
                .collect();
            assert!(offsets.is_sorted(), "{offsets:?}");
        }
    }
}
