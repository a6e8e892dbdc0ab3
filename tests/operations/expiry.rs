//! Dead letters past their retention.

use std::time::Duration;

use herald::postgres::Expired;

use super::Office;
use crate::support::gateway::Answer;
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::{World, orders};

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn what_expires_is_removed_but_not_what_a_replay_has_or_the_topic_has_not() {
    let office = Office::with_letters(5).await;
    office
        .database
        .execute("UPDATE dead_letters SET published_at = now(), failed_at = now() - interval '31 days' WHERE id < 5")
        .await;
    office.database.execute("UPDATE dead_letters SET state = 'discarded' WHERE id = 2").await;
    office.database.execute("UPDATE dead_letters SET state = 'replaying' WHERE id = 3").await;
    office.database.execute("UPDATE dead_letters SET published_at = NULL WHERE id = 4").await;
    let postgres = &office.database.postgres;
    assert_eq!(postgres.open_letters_older_than(29 * DAY).await.unwrap(), 2);
    assert_eq!(postgres.expire_letters(30 * DAY, 100).await.unwrap(), Expired { letters: 2, open: 1 });
    assert_eq!(office.database.look("SELECT string_agg(id::text, ' ' ORDER BY id) FROM dead_letters").await, "3 4 5");
    let (who, what, _, letters, _) = office.last_audit().await;
    assert_eq!((&*who, &*what, letters), ("herald", "expire", 2));
    assert_eq!(postgres.expire_letters(30 * DAY, 100).await.unwrap(), Expired::default());
}

#[tokio::test]
async fn the_worker_warns_of_what_expires_within_a_day() {
    let mut world = World::with_partitions(1).await;
    world.gateway.answer(Answer::status(422));
    world.produce_in(0, &[orders::created(1)]).await;
    let setup = world.worker().with("HERALD_DEAD_LETTERS__RETENTION", "20h");
    let first = setup.start().await;
    world.published(1).await;
    drop(first);
    let worker = setup.start().await;
    worker.wait_for_metric("herald_dead_letters_expiring", &[], 1.0).await;
    wait_until("the warning is logged", EVENTUALLY, async || {
        let log = worker.log();
        if log.contains("expire within a day") { Ok(()) } else { Err(log) }
    })
    .await;
}
