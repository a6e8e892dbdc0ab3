//! Orders that go on arriving while a drill runs.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinHandle;

use crate::support::kafka::NewRecord;
use crate::support::{World, orders};

/// Between two batches; each is spread over the partitions.
const EVERY: Duration = Duration::from_millis(400);

/// Dropping it ends the traffic after the batch that is under way.
#[derive(Debug)]
pub struct Traffic {
    is_ended: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// What one batch holds.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    pub orders: u64,
    pub poison: u64,
    /// Orders from [`Batch::REFUSED`] on, for a gateway that refuses them.
    pub refused: usize,
    /// How old the records say they are.
    pub age: Duration,
}

impl Batch {
    pub const USUAL: Self = Self { orders: 4, poison: 0, refused: 0, age: Duration::ZERO };
    /// As many as no traffic comes to the end of.
    pub const REFUSED: Range<u64> = 900_000..901_000;
}

impl Traffic {
    pub fn start(world: &World, batch: Batch) -> Self {
        let (kafka, topic) = (world.kafka.clone(), Arc::<str>::from(world.topic.as_str()));
        let is_ended = Arc::<AtomicBool>::default();
        let ended = Arc::clone(&is_ended);
        let task = tokio::spawn(async move {
            let mut refused = Batch::REFUSED;
            while !ended.load(Ordering::Relaxed) {
                let refused = refused.by_ref().take(batch.refused);
                kafka.produce(&topic, records(batch, fresh_orders(batch).chain(refused))).await;
                tokio::time::sleep(EVERY).await;
            }
        });
        Self { is_ended, task }
    }

    /// Waits for the batch that is under way.
    pub async fn end(mut self) {
        self.is_ended.store(true, Ordering::Relaxed);
        (&mut self.task).await.unwrap();
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::Relaxed);
    }
}

/// One batch, without any that is to be refused.
pub async fn produce(world: &World, batch: Batch) {
    world.kafka.produce(&world.topic, records(batch, fresh_orders(batch))).await;
}

/// Of no other traffic.
fn fresh_orders(batch: Batch) -> Range<u64> {
    static NEXT: AtomicU64 = AtomicU64::new(10_000);
    let first = NEXT.fetch_add(batch.orders, Ordering::Relaxed);
    first..first + batch.orders
}

/// Without a key the client fills one partition after another, so each record is given its own.
fn records(batch: Batch, orders: impl Iterator<Item = u64>) -> Vec<NewRecord> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let timestamp = i64::try_from(now.saturating_sub(batch.age).as_millis()).unwrap();
    let orders = orders.map(|order| orders::record(&orders::created(order)));
    let poison = (0..batch.poison).map(|_| NewRecord::of("no JSON"));
    let placed = orders.chain(poison).zip([0, 1].into_iter().cycle());
    placed
        .map(|(record, partition)| NewRecord { timestamp: Some(timestamp), ..record.in_partition(partition) })
        .collect()
}
