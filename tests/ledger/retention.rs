use std::collections::BTreeSet;
use std::time::Duration;

use herald::postgres::Postgres;
use herald::preflight::Retention;

use crate::ledger::fixture::{GROUP, TOPIC, at, claim, dead_letter, settings, settlement, test_database};

const WEEK: Duration = Duration::from_hours(7 * 24);
const LEFT: &str = "SELECT coalesce(string_agg(order_id, ' ' ORDER BY order_id), '') FROM processed_orders";

#[tokio::test]
async fn pruning_keeps_what_is_young_unfinished_or_has_a_dead_letter_to_care_for() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let orders = ["claimed", "done", "open", "published", "resolved", "young", "late"];
    let offset_of =
        |order: &str| orders.iter().zip(0..).find(|(one, _)| **one == order).map(|(_, offset)| offset).unwrap();
    for (order, offset) in orders.into_iter().zip(0..) {
        database.claim_one(claim(order, at(0, offset), epoch)).await;
    }
    let done = ["done", "young", "late"].map(|order| settlement(order, at(0, offset_of(order)), epoch));
    database.postgres.done(&done).await.unwrap();
    let dead = [
        dead_letter("open", at(0, 2), epoch),
        dead_letter("published", at(0, 3), epoch),
        dead_letter("resolved", at(0, 4), epoch),
    ];
    database.postgres.bury(&dead).await.unwrap();
    database.execute("UPDATE dead_letters SET published_at = now() WHERE order_id = 'published'").await;
    database
        .execute("UPDATE dead_letters SET published_at = now(), state = 'resolved' WHERE order_id = 'resolved'")
        .await;
    database
        .execute(
            "UPDATE processed_orders SET claimed_at = claimed_at - interval '8 days',
                    settled_at = settled_at - CASE order_id WHEN 'late' THEN interval '6 days' ELSE interval '8 days' END
              WHERE order_id <> 'young'",
        )
        .await;

    assert_eq!(database.postgres.prune(WEEK, 100).await.unwrap(), 2);
    assert_eq!(database.look(LEFT).await, "claimed late open published young");
    let letters = "SELECT string_agg(order_id, ' ' ORDER BY order_id) FROM dead_letters";
    assert_eq!(database.look(letters).await, "open published");
    assert_eq!(database.postgres.prune(WEEK, 100).await.unwrap(), 0);
}

#[tokio::test]
async fn pruning_goes_through_the_whole_table_in_bounded_steps() {
    let database = test_database().await;
    // Some 1,700 pages: more than one call looks at.
    database
        .execute(
            "INSERT INTO processed_orders (consumer_group, order_id, event_type, state, fingerprint, topic, kpartition,
                    koffset, epoch, claimed_at)
             SELECT 'notification_service_group', n::text, 'ORDER_CREATED', 'd', sha256('x'), 'order_events', 0, n, 1,
                    now() - interval '8 days' FROM generate_series(1, 35000) n",
        )
        .await;
    let pages = "SELECT (pg_relation_size('processed_orders') / 8192 > 1100)::text";
    assert_eq!(database.look(pages).await, "true");
    let mut pruned = Vec::new();
    while pruned.iter().sum::<u64>() < 35_000 {
        pruned.push(database.postgres.prune(WEEK, 10_000).await.unwrap());
        assert!(pruned.len() < 10, "{pruned:?}");
    }
    assert!(pruned.iter().all(|rows| *rows <= 10_000), "{pruned:?}");
    assert_eq!(database.look(LEFT).await, "");
}

/// Migrations that another role ran bring tables that this one may not have been let into.
#[tokio::test]
async fn preflight_knows_what_the_role_may_not_write() {
    let database = test_database().await;
    let url = database.own_url();
    let separator = if url.contains('?') { '&' } else { '?' };
    // A role of every server: it reads everything and writes nothing.
    let reader = format!("{url}{separator}options[role]=pg_read_all_data");
    let reader = Postgres::open(&settings(&reader), GROUP, TOPIC).unwrap();
    let missing = reader.preflight_facts().await.unwrap().missing_privileges;
    let tables = ["partition_epochs", "processed_orders", "parked_events", "dead_letters", "replays", "replay_letters"];
    let mut expected = vec!["INSERT on operator_audit".to_owned()];
    expected.extend(
        tables.iter().flat_map(|table| ["INSERT", "UPDATE", "DELETE"].map(|what| format!("{what} on {table}"))),
    );
    assert_eq!(missing.iter().collect::<BTreeSet<_>>(), expected.iter().collect());
}

#[tokio::test]
async fn a_migration_that_waits_for_a_lock_for_too_long_says_so() {
    let database = test_database().await;
    database.forget_migrations().await;
    let mut holder = database.tables.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('herald migrations', 0))")
        .execute(&mut *holder)
        .await
        .unwrap();
    let error = database.postgres.migrate().await.unwrap_err().to_string();
    assert!(error.contains("look for what holds locks"), "{error}");
}

#[tokio::test]
async fn preflight_and_migrations_know_what_is_missing() {
    let database = test_database().await;
    assert_eq!(database.postgres.pending_migrations().await.unwrap(), Vec::<String>::new());
    database.postgres.migrate().await.unwrap();
    database.postgres.ping().await.unwrap();
    let facts = database.postgres.preflight_facts().await.unwrap();
    assert!(facts.version_number >= 150_000);
    assert_eq!(facts.statement_timeout, Some(Duration::from_secs(10)));
    assert_eq!(facts.missing_privileges, Vec::<String>::new());
    let findings = database.postgres.preflight(WEEK, Retention::Between { least: WEEK, most: WEEK }).await;
    let database_line = findings.iter().find(|finding| finding.area == "database").unwrap();
    assert!(database_line.detail.contains("migrations current"), "{findings:?}");

    database.forget_migrations().await;
    let all = [
        "0001 ledger",
        "0002 parking",
        "0003 starts",
        "0004 operators",
        "0005 replays",
        "0006 audit counts",
        "0007 to topic",
        "0008 serials",
    ];
    assert_eq!(database.postgres.pending_migrations().await.unwrap(), all);
    let (one, other) = (database.postgres.clone(), database.postgres.clone());
    let (one, other) =
        (tokio::spawn(async move { one.migrate().await }), tokio::spawn(async move { other.migrate().await }));
    one.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
    assert_eq!(database.postgres.pending_migrations().await.unwrap(), Vec::<String>::new());
}
