//! Behind PgBouncer in transaction mode, where each statement may meet another connection, and what others left there.

use crate::operations::herald_json;
use crate::support::gateway::Answer;
use crate::support::pgbouncer::PgBouncer;
use crate::support::{World, orders};

#[tokio::test]
async fn orders_are_notified_once_parked_buried_and_replayed_as_without_it() {
    const ORDERS: u64 = 400;
    const REFUSED: u64 = 9;
    let mut world = World::with_partitions(4).await;
    let pgbouncer = PgBouncer::start(&world.database.url).await;
    world.gateway.answer_order("7", [Answer::status(503).retry_after("3")]);
    world.gateway.answer_order(&REFUSED.to_string(), [Answer::status(422)]);
    let events: Vec<_> = (0..ORDERS).map(orders::created).collect();
    world.produce(&events).await;
    let setup = pgbouncer.before(world.worker()).with("HERALD_RETRY__PARK_AFTER", "1s");
    let workers = [setup.start().await, setup.start().await];
    world.shared_equally(&workers.each_ref()).await;
    // Nearly all of them again, and others.
    world.produce(&events[10..]).await;
    world.produce(&(ORDERS..2 * ORDERS).map(orders::created).collect::<Vec<_>>()).await;
    world.all_committed().await;
    world.parked_when(0).await;
    let [letter] = &world.buried(1).await[..] else { panic!("more than one is buried") };
    assert_eq!((&*letter.order_id, &*letter.reason), (&*REFUSED.to_string(), "permanent"));
    assert_eq!(world.published(1).await.len(), 1);

    herald_json(&setup, &["dlq", "replay", "--reason", "permanent", "--json"]).await;
    let ended = herald_json(&setup, &["dlq", "replay", "--plan", "p1", "--wait", "--json"]).await;
    assert_eq!((&ended[0]["state"], &ended[0]["notified"]), (&"done".into(), &1.into()));
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}\n{}{}", workers[0].log(), workers[1].log());
    let mut parked = 0.0;
    for worker in &workers {
        worker.assert_accounting_closes().await;
        parked += worker.metrics().await.sum("herald_records_total", &[("outcome", "parked")]);
    }
    assert!(parked >= 1.0, "order 7 waits longer than a lane may");
}

#[tokio::test]
async fn check_says_what_to_turn_off_when_it_is_not_told_of_pgbouncer() {
    let world = World::with_partitions(1).await;
    let pgbouncer = PgBouncer::start(&world.database.url).await;
    let setup = world.worker().with("DATABASE_URL", pgbouncer.url());
    let check = setup.run_command(&["check"]).await;
    assert_eq!(check.code, Some(3), "{}", check.stdout);
    assert!(check.stdout.contains("unsupported startup parameter"), "{}", check.stdout);
    assert!(check.stdout.contains("set database.prepared_statements to false"), "{}", check.stdout);

    let told = pgbouncer.before(setup).run_command(&["check"]).await;
    assert_eq!(told.code, Some(0), "{}", told.stdout);
}

#[tokio::test]
async fn workers_that_migrate_at_once_all_succeed_and_keep_no_lock() {
    let world = World::with_partitions(1).await;
    let pgbouncer = PgBouncer::start(&world.database.url).await;
    world.database.forget_migrations().await;
    let setup = pgbouncer.before(world.worker());
    // Neither is for migrations.
    let settings = "DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET statement_timeout = 5', current_database());
        EXECUTE format('ALTER DATABASE %I SET lock_timeout = 5', current_database()); END $$";
    sqlx::raw_sql(settings).execute(&world.database.pool).await.unwrap();
    for _ in 0..3 {
        let all = futures_util::future::join_all((0..6).map(|_| setup.run_command(&["migrate"]))).await;
        for ended in all {
            assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
        }
        let kept = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                     WHERE l.locktype = 'advisory' AND d.datname = current_database()";
        let kept: i64 = sqlx::query_scalar(kept).fetch_one(&world.database.pool).await.unwrap();
        assert_eq!(kept, 0);
    }
}
