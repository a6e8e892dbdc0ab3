//! A DLQ topic that refuses: dead letters wait in Postgres, nothing else does, and all are published when it is back.

use bytes::Bytes;
use herald::core::record::Coordinates;
use serde_json::Value;

use crate::support::gateway::Answer;
use crate::support::kafka::{Broker, NewRecord};
use crate::support::letters::{headers, letter_of, text};
use crate::support::wait::{EVENTUALLY, SOON, wait_until};
use crate::support::worker::Worker;
use crate::support::{World, orders};

const DLQ: (&str, &str) = ("dependency", "dlq");

/// A record that nobody can notify, of this many bytes that no compression makes smaller.
fn poison(bytes: usize) -> NewRecord {
    NewRecord::of((0..bytes).map(|_| fastrand::u8(..)).collect::<Bytes>())
}

/// Deletes it when it takes no more letters: one that it still took in its last moment would be gone with it.
async fn delete_dlq_topic(world: &World) {
    let sealed = async || world.kafka.sealed(&world.dlq_topic, 300).await;
    wait_until("the DLQ topic is sealed", SOON, sealed).await;
    world.kafka.delete_topic(&world.dlq_topic).await;
}

async fn produce_poison(world: &World, records: &[NewRecord]) -> Vec<Coordinates> {
    world.kafka.produce(&world.topic, records.to_vec()).await
}

/// Waits until the worker says why it is not ready: for these reasons and no others.
async fn wait_unready(worker: &Worker, expected: &[&str]) {
    wait_until(&format!("the worker is not ready: {expected:?}"), EVENTUALLY, async || {
        let (status, body) = worker.get("/readyz").await.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&body).unwrap();
        let reasons: Vec<_> = answer["reasons"].as_array().unwrap().iter().map(|reason| &reason["reason"]).collect();
        if status == 503 && reasons == expected { Ok(()) } else { Err(format!("{status} {body}")) }
    })
    .await;
}

async fn assert_letters_wait(world: &World, worker: &Worker, count: u32) {
    wait_unready(worker, &["dlq"]).await;
    worker.wait_for_metric("herald_breaker_state", &[DLQ, ("state", "open")], 1.0).await;
    assert_unpublished(world, worker, count).await;
}

async fn assert_unpublished(world: &World, worker: &Worker, count: u32) {
    worker.wait_for_metric("herald_dead_letters_unpublished", &[], f64::from(count)).await;
    let metrics = worker.metrics().await;
    assert!(metrics.sum("herald_dead_letter_publish_failures_total", &[]) > 0.0);
    assert!(metrics.sum("herald_dead_letters_oldest_unpublished_timestamp_seconds", &[]) > 0.0);
    let rows = world.buried(count as usize).await;
    assert_eq!(rows.iter().filter(|row| !row.is_published).count(), count as usize);
    assert!(worker.log().contains("dead letters cannot be published"), "{}", worker.log());
}

async fn assert_nothing_waits(worker: &Worker) {
    worker.wait_ready().await;
    worker.wait_for_metric("herald_breaker_state", &[DLQ, ("state", "closed")], 1.0).await;
    worker.wait_for_metric("herald_dead_letters_unpublished", &[], 0.0).await;
    worker.wait_for_metric("herald_dead_letters_oldest_unpublished_timestamp_seconds", &[], 0.0).await;
    worker.assert_accounting_closes().await;
}

#[tokio::test]
async fn while_the_dlq_topic_is_gone_partitions_move_on_and_when_it_is_back_all_letters_arrive() {
    let mut world = World::on_our_broker(3).await;
    let worker = world.worker().start().await;
    produce_poison(&world, &[poison(10), poison(10), poison(10)]).await;
    world.published(3).await;

    delete_dlq_topic(&world).await;
    let records: Vec<NewRecord> = (0..150).map(|_| poison(100)).collect();
    let places = produce_poison(&world, &records).await;
    world.produce(&(0..100).map(orders::created).collect::<Vec<_>>()).await;
    world.all_committed().await;
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_letters_wait(&world, &worker, 150).await;

    // Fewer partitions than before.
    world.kafka.create_topic(&world.dlq_topic, 2).await;
    let letters = world.published(153).await;
    for (record, place) in records.iter().zip(places) {
        let letter = letter_of(&letters, place);
        assert_eq!(letter.value, record.value);
        assert_eq!(letter.coordinates.partition.0, place.partition.0 % 2);
    }
    assert_eq!(letters.len(), 150);
    assert_nothing_waits(&worker).await;
}

#[tokio::test]
async fn letters_that_the_dlq_topic_refuses_hold_up_none_of_another_partition() {
    let world = World::with_partitions(2).await;
    let worker = world.worker().start().await;
    let poison = [poison(10).in_partition(0), poison(10).in_partition(1)];
    world.kafka.produce(&world.topic, poison.to_vec()).await;
    world.published(2).await;

    // Headers of a long error are too large. More such letters than a batch, all older than those of the other partition.
    world.kafka.alter_topic(&world.dlq_topic, &[("max.message.bytes", "900")]).await;
    for (partition, count, error) in [
        (
            0,
            250,
            "(SELECT string_agg(encode(decode(md5(n || '/' || i), 'hex'), 'base64'), '') FROM generate_series(1, 64) i)",
        ),
        (1, 20, "'short'"),
    ] {
        let insert = format!(
            "INSERT INTO dead_letters (consumer_group, topic, kpartition, koffset, record, order_id, event_type, reason, class,
                    error, bug, attempts, first_failed_at, last_failed_at, failed_at)
             SELECT consumer_group, topic, kpartition, 1000 + n, record, 'order ' || n, event_type, reason, class,
                    {error}, bug, attempts, now(), now(), now() FROM dead_letters, generate_series(1, {count}) n
              WHERE kpartition = {partition}"
        );
        sqlx::query(sqlx::AssertSqlSafe(insert)).execute(&world.database.pool).await.unwrap();
    }
    world.published(22).await;
    assert_letters_wait(&world, &worker, 250).await;
    world.kafka.alter_topic(&world.dlq_topic, &[]).await;
    world.published(272).await;
    assert_nothing_waits(&worker).await;
}

#[tokio::test]
async fn letters_left_unpublished_by_a_stopped_worker_are_published_by_the_next() {
    let mut world = World::on_our_broker(2).await;
    let mut worker = world.worker().start().await;
    delete_dlq_topic(&world).await;
    let places = produce_poison(&world, &[poison(10), poison(20), poison(30)]).await;
    world.produce(&[orders::created(1)]).await;
    world.all_committed().await;
    assert_letters_wait(&world, &worker, 3).await;
    worker.sigterm();
    assert_eq!(worker.wait_exit(EVENTUALLY).await, 0, "{}", worker.log());

    let refused = world.worker().spawn();
    assert_eq!(refused.wait_exit(EVENTUALLY).await, 3, "{}", refused.log());
    assert!(refused.log().contains(&world.dlq_topic), "{}", refused.log());

    world.kafka.create_topic(&world.dlq_topic, 2).await;
    let next = world.worker().start().await;
    let letters = world.published(3).await;
    assert_eq!(letters.len(), 3);
    for place in places {
        letter_of(&letters, place);
    }
    assert!(world.verdict().is_clean());
    assert_nothing_waits(&next).await;
}

#[tokio::test]
async fn letters_that_the_dlq_topic_refuses_as_too_large_wait_through_a_restart_until_it_takes_them() {
    let mut world = World::with_partitions(1).await;
    let mut worker = world.worker().start().await;
    // Too small even for a pointer.
    world.kafka.alter_topic(&world.dlq_topic, &[("max.message.bytes", "300")]).await;
    let records = [poison(5_000), poison(10), poison(200_000)];
    let places = produce_poison(&world, &records).await;
    world.produce(&(0..20).map(orders::created).collect::<Vec<_>>()).await;
    world.all_committed().await;
    assert_letters_wait(&world, &worker, 3).await;
    worker.kill9().await;

    let next = world.worker().spawn();
    assert_letters_wait(&world, &next, 3).await;
    world.kafka.alter_topic(&world.dlq_topic, &[]).await;
    let letters = world.published(3).await;
    for (record, place) in records.iter().zip(places) {
        let letter = letter_of(&letters, place);
        assert_eq!(letter.value, record.value);
        assert!(headers(letter, "herald-payload").is_empty());
    }
    assert!(world.verdict().is_clean());
    assert_nothing_waits(&next).await;
}

#[tokio::test]
async fn of_a_record_too_large_for_the_dlq_topic_a_pointer_to_its_row_is_published_and_smaller_ones_go_whole() {
    let world = World::with_partitions(1).await;
    let worker = world.worker().start().await;
    world.kafka.alter_topic(&world.dlq_topic, &[("max.message.bytes", "4000")]).await;
    let key = Some(Bytes::from_static(b"its key"));
    let large = NewRecord { key: key.clone(), ..poison(5_000) };
    let large_key = NewRecord { key: poison(5_000).value, ..poison(10) };
    let small = poison(500);
    let places = produce_poison(&world, &[large.clone(), large_key.clone(), small.clone()]).await;
    let letters = world.published(3).await;

    let pointer = letter_of(&letters, places[0]);
    assert_eq!((&pointer.key, &pointer.value), (&key, &None));
    assert_eq!(text(pointer, "herald-payload"), "postgres");
    let bare = letter_of(&letters, places[1]);
    assert_eq!((&bare.key, &bare.value), (&None, &None));
    assert_eq!(text(bare, "herald-payload"), "postgres");
    let whole = letter_of(&letters, places[2]);
    assert_eq!(whole.value, small.value);
    assert!(headers(whole, "herald-payload").is_empty());

    for (letter, original) in [(pointer, &large), (bare, &large_key)] {
        let id: i64 = text(letter, "herald-id").parse().unwrap();
        let row = sqlx::query_scalar("SELECT record FROM dead_letters WHERE id = $1").bind(id);
        let stored: Vec<u8> = row.fetch_one(&world.database.pool).await.unwrap();
        for kept in [&original.key, &original.value].into_iter().flatten() {
            assert!(stored.windows(kept.len()).any(|bytes| bytes == kept));
        }
    }
    assert_nothing_waits(&worker).await;
}

#[tokio::test]
async fn a_letter_written_while_the_broker_is_gone_is_published_when_it_is_back() {
    let mut broker = Broker::private().await;
    let mut world = World::on((*broker).clone(), 2).await;
    let worker = world
        .worker()
        .with("HERALD_RETRY__MAX_ATTEMPTS", "100")
        .with("HERALD_RETRY__INITIAL_BACKOFF", "200ms")
        .with("HERALD_RETRY__MAX_BACKOFF", "200ms")
        .start()
        .await;
    world.gateway.always_answer_order("1", Answer::status(503));
    world.produce(&[orders::created(1), orders::created(2)]).await;
    wait_until("the first order is tried", EVENTUALLY, async || {
        let tries = world.gateway.requests_for("1").len();
        if tries > 0 { Ok(()) } else { Err("no request") }
    })
    .await;
    broker.kill().await;
    world.gateway.always_answer_order("1", Answer::status(400));
    wait_unready(&worker, &["kafka", "dlq"]).await;
    assert_unpublished(&world, &worker, 1).await;

    broker.restart().await;
    let letters = world.published(1).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(text(&letters[0], "herald-reason"), "permanent");
    world.all_committed().await;
    assert_eq!(world.gateway.accepted(), 1);
    assert_nothing_waits(&worker).await;
}
