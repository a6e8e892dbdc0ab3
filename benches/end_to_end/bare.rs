//! The bare loop: the same statements in full batches, on two connections, and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use herald::core::effect::{Claim, Settlement};
use herald::core::event::{Fingerprint, Identity};
use herald::core::input::Ticket;
use herald::core::record::{Coordinates, Epoch, Offset, Partition};
use herald::postgres::Postgres;
use sha2::{Digest as _, Sha256};

use crate::ledger::Server;

/// Rows of a statement: the most that the worker puts into one.
const ROWS: usize = 1_000;

/// Claims and settles this many orders.
pub async fn measure(server: &Server, orders: u32, partitions: i32) -> Duration {
    let fresh = server.fresh().await;
    let postgres = Server::open(&fresh.url, "bare", "orders");
    let owned: Vec<Partition> = (0..partitions).map(Partition).collect();
    let starts: Vec<_> = owned.iter().map(|partition| (*partition, Offset(0))).collect();
    let raised = postgres.raise(&starts, "bench").await.unwrap();
    let epoch = raised[0].1.epoch;
    let coordinates = (0_i64..).flat_map(|offset| owned.iter().map(move |of| (*of, Offset(offset))));
    let claims: Vec<Claim> = (0..orders)
        .zip(coordinates)
        .map(|(order, (partition, offset))| claim(order, Coordinates { partition, offset }, epoch))
        .collect();
    let batches: Vec<(&[Claim], Vec<Settlement>)> =
        claims.chunks(ROWS).map(|batch| (batch, batch.iter().map(settlement).collect())).collect();
    // Both connections are there before the clock starts.
    let (first, second) = tokio::join!(postgres.ping(), postgres.ping());
    first.and(second).unwrap();

    let started = Instant::now();
    tokio::join!(every_second(&postgres, &batches, 0), every_second(&postgres, &batches, 1));
    let took = started.elapsed();

    postgres.close().await;
    server.finish(fresh, orders).await;
    took
}

async fn every_second(postgres: &Postgres, batches: &[(&[Claim], Vec<Settlement>)], first: usize) {
    for (claims, settlements) in batches.iter().skip(first).step_by(2) {
        let found = postgres.claim(claims).await.unwrap();
        assert_eq!(found.len(), claims.len(), "claims that were not fenced");
        postgres.done(settlements).await.unwrap();
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
        was_parked: false,
    }
}
