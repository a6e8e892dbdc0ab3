//! The bare ledger: the worker's own statements, and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use herald::core::effect::{Claim, Parking, Serial, Settlement};
use herald::core::event::{Fingerprint, Identity};
use herald::core::input::{RowAddress, Ticket};
use herald::core::key::LaneKey;
use herald::core::record::{Coordinates, Epoch, Offset, Partition, Record};
use herald::postgres::Postgres;
use sha2::{Digest as _, Sha256};

use crate::guarantee::{Took, Used};
use crate::ledger::{Fresh, Server};
use crate::source::Source;
use crate::support::orders;

/// Rows of a statement: the most that the worker puts into one.
const ROWS: usize = 1_000;
/// Rows that carry payloads: the same.
const PARKED_ROWS: usize = 100;

/// Claims and settles this many orders, in full batches on two connections.
pub async fn measure(server: &Server, orders: u32, partitions: i32) -> Took {
    let fresh = server.fresh().await;
    let postgres = Server::open(&fresh.url, "bare", "orders");
    let owned: Vec<Partition> = (0..partitions).map(Partition).collect();
    let epoch = raise(&postgres, &owned).await;
    let coordinates = (0_i64..).flat_map(|offset| owned.iter().map(move |of| (*of, Offset(offset))));
    let claims: Vec<Claim> = (0..orders)
        .zip(coordinates)
        .map(|(order, (partition, offset))| claim(order, Coordinates { partition, offset }, epoch))
        .collect();
    let batches: Vec<&[Claim]> = claims.chunks(ROWS).collect();
    // Both connections are there before the clock starts.
    let (first, second) = tokio::join!(postgres.ping(), postgres.ping());
    first.and(second).unwrap();

    let before = Used::so_far(std::process::id(), server);
    let started = Instant::now();
    tokio::join!(every_second(&postgres, &batches, 0), every_second(&postgres, &batches, 1));
    let took = before.until_now(started.elapsed(), server);

    postgres.close().await;
    server.finish(fresh, orders).await;
    took
}

/// One claim after another, each of one row: what a commit takes.
pub struct Commits {
    postgres: Postgres,
    epoch: Epoch,
    next: u32,
}

impl Commits {
    pub async fn open(ledger: &Fresh) -> Self {
        let postgres = Server::open(&ledger.url, "commits", "orders");
        let epoch = raise(&postgres, &[Partition(0)]).await;
        Self { postgres, epoch, next: 0 }
    }

    pub async fn one(&mut self) -> Duration {
        let coordinates = Coordinates { partition: Partition(0), offset: Offset(i64::from(self.next)) };
        let claim = [claim(self.next, coordinates, self.epoch)];
        self.next += 1;
        let started = Instant::now();
        assert_eq!(self.postgres.claim(&claim).await.unwrap().len(), 1);
        started.elapsed()
    }
}

/// Parks as many orders for so long, each of a key of its own; none of them is of the source's.
pub async fn park(ledger: &Fresh, source: &Source, group: &str, keys: u32, wait: Duration) {
    let postgres = Server::open(&ledger.url, group, &source.topic);
    let owned: Vec<Partition> = (0..source.partitions).map(Partition).collect();
    let epoch = raise(&postgres, &owned).await;
    let orders: Vec<u32> = (source.orders..source.orders + keys).collect();
    for batch in orders.chunks(PARKED_ROWS) {
        let claims: Vec<Claim> = batch
            .iter()
            .map(|order| {
                let partition = Partition(i32::try_from(*order).unwrap() % source.partitions);
                claim(*order, Coordinates { partition, offset: Offset(i64::from(*order)) }, epoch)
            })
            .collect();
        postgres.claim(&claims).await.unwrap();
        let parkings: Vec<Parking> = claims.iter().map(|claim| parking(claim, wait)).collect();
        assert_eq!(postgres.park(&parkings).await.unwrap().len(), parkings.len(), "orders that were parked");
    }
    postgres.close().await;
}

fn parking(claim: &Claim, wait: Duration) -> Parking {
    let order: u64 = claim.identity.order_id.parse().unwrap();
    Parking {
        settlement: settlement(claim),
        key: LaneKey::of(claim.identity.order_id.as_bytes()),
        attempts: 3,
        wait,
        first_failed_ago: Duration::from_mins(1),
        failures: Vec::new(),
        error: Some("webhook: 503 service unavailable".to_owned()),
        record: Record {
            coordinates: claim.coordinates,
            timestamp: None,
            key: None,
            value: Some(orders::created(order).to_string().into()),
            headers: Vec::new(),
        },
    }
}

/// The first epoch, and so the same for all.
async fn raise(postgres: &Postgres, partitions: &[Partition]) -> Epoch {
    let starts: Vec<_> = partitions.iter().map(|partition| (*partition, Offset(0))).collect();
    postgres.raise(&starts, "bench").await.unwrap()[0].1.epoch
}

async fn every_second(postgres: &Postgres, batches: &[&[Claim]], first: usize) {
    for claims in batches.iter().skip(first).step_by(2) {
        let found = postgres.claim(claims).await.unwrap();
        assert_eq!(found.len(), claims.len(), "claims that were not fenced");
        let addresses: foldhash::HashMap<Ticket, RowAddress> =
            found.into_iter().map(|(ticket, row)| (ticket, row.address)).collect();
        let settlements: Vec<Settlement> =
            claims.iter().map(|claim| Settlement { address: addresses[&claim.ticket], ..settlement(claim) }).collect();
        postgres.done(&settlements).await.unwrap();
    }
}

fn claim(order: u32, coordinates: Coordinates, epoch: Epoch) -> Claim {
    let order_id: Arc<str> = order.to_string().into();
    Claim {
        ticket: Ticket(u64::from(order)),
        fingerprint: Fingerprint(Sha256::digest(order_id.as_bytes()).into()),
        identity: Identity { order_id, event_type: "ORDER_CREATED".into() },
        coordinates,
        epoch,
        serial: Serial::default(),
        seize_from: None,
    }
}

fn settlement(claim: &Claim) -> Settlement {
    Settlement {
        ticket: claim.ticket,
        identity: claim.identity.clone(),
        fingerprint: claim.fingerprint,
        coordinates: claim.coordinates,
        epoch: claim.epoch,
        serial: claim.serial,
        address: RowAddress::default(),
        was_parked: false,
    }
}
