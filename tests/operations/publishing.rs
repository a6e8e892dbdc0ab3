//! Two commands that publish the same dead letters, and workers that notify them meanwhile.

use herald::operations::{OperationError, Operations, Selection};
use herald::postgres::{Postgres, Publication, Taking};

use super::Office;
use super::to_topic::to_topic;
use crate::ledger::fixture::{at, settlement};

const LEASES_ARE_OVER: &str = "UPDATE replay_letters SET scheduled_at = scheduled_at - interval '61 seconds'";
const LETTERS: &str =
    "SELECT string_agg(concat_ws(' ', state, outcome), ', ' ORDER BY replay_id, place) FROM replay_letters";

/// A replay of these letters that a command publishes.
async fn publishing(office: &Office, operator: &Operations, ids: &[i64]) -> i64 {
    let plan = operator.plan_replay(Selection::of_ids(ids.to_vec()), &to_topic()).await.unwrap().replay.id;
    office.database.execute("UPDATE replays SET state = 'publishing', started_at = now()").await;
    plan
}

async fn take(postgres: &Postgres, replay: i64) -> Vec<Taking> {
    postgres.take_to_publish(replay, 10).await.unwrap().iter().map(|letter| letter.taking).collect()
}

#[tokio::test]
async fn a_late_mark_leaves_a_letter_to_the_command_that_took_it_over_unless_it_says_that_it_was_published() {
    let office = Office::with_letters(2).await;
    let postgres = &office.database.postgres;
    let replay = publishing(&office, &office.operator("ana"), &[1, 2]).await;
    let slow = take(postgres, replay).await;
    office.database.execute(LEASES_ARE_OVER).await;
    let quick = take(postgres, replay).await;
    assert_eq!((slow.len(), quick.len()), (2, 2));

    let left_out = Publication::LeftOut("it is too large".to_owned());
    postgres.end_publishing(replay, &[(slow[0], Publication::GivenBack), (slow[1], left_out)]).await.unwrap();
    assert_eq!(office.database.look(LETTERS).await, "scheduled, scheduled");
    assert_eq!((office.state("1").await, office.state("2").await), ("replaying".to_owned(), "replaying".to_owned()));

    let published = |offset| Publication::Published(at(0, offset));
    postgres.end_publishing(replay, &[(slow[0], published(11))]).await.unwrap();
    let ends = [(quick[0], Publication::GivenBack), (quick[1], published(12))];
    postgres.end_publishing(replay, &ends).await.unwrap();
    postgres.end_publishing(replay, &ends).await.unwrap();
    assert_eq!(office.database.look(LETTERS).await, "ended published, ended published");
    assert_eq!(take(postgres, replay).await, []);
    let letters = "SELECT string_agg(concat_ws(' ', state, replays), ', ' ORDER BY id) FROM dead_letters";
    assert_eq!(office.database.look(letters).await, "open 1, open 1");
}

#[tokio::test]
async fn a_letter_that_another_replay_publishes_at_the_same_moment_is_not_published_again() {
    let office = Office::with_letters(1).await;
    let (ana, ben) = (office.operator("ana"), office.operator("ben"));
    let postgres = &office.database.postgres;
    let first = publishing(&office, &ana, &[1]).await;
    let second = publishing(&office, &ben, &[1]).await;
    // The second one looks before the first one takes it, and locks after that one has published it.
    let mut held = office.database.tables.begin().await.unwrap();
    sqlx::query("SELECT FROM replays WHERE id = $1 FOR UPDATE").bind(second).execute(&mut *held).await.unwrap();
    let late = tokio::spawn({
        let postgres = postgres.clone();
        async move { take(&postgres, second).await }
    });
    office.database.until_blocked(1).await;
    let taken = take(postgres, first).await;
    postgres.end_publishing(first, &[(taken[0], Publication::Published(at(0, 11)))]).await.unwrap();
    held.commit().await.unwrap();
    assert_eq!(late.await.unwrap(), []);
    assert_eq!(take(postgres, second).await, []);
    assert_eq!(office.database.look(LETTERS).await, "ended published, ended left_out");
}

#[tokio::test]
async fn successes_and_marks_lock_dead_letters_in_one_order() {
    let office = Office::with_letters(0).await;
    for (offset, order_id) in [(1, "b"), (2, "a")] {
        office.bury(order_id, at(0, offset)).await;
    }
    let postgres = &office.database.postgres;
    let replay = publishing(&office, &office.operator("ana"), &[1, 2]).await;
    let taken = take(postgres, replay).await;
    // Behind that of b in the table, as in the ids, and before it by its order.
    office.database.execute("UPDATE dead_letters SET error = error WHERE order_id = 'a'").await;
    let mut held = office.database.tables.begin().await.unwrap();
    sqlx::query("SELECT FROM dead_letters WHERE order_id = 'a' FOR UPDATE").execute(&mut *held).await.unwrap();
    let ends: Vec<_> = taken.iter().map(|&taking| (taking, Publication::GivenBack)).collect();
    let marking = tokio::spawn({
        let postgres = postgres.clone();
        async move { postgres.end_publishing(replay, &ends).await }
    });
    office.database.until_blocked(1).await;
    let epoch = office.database.raise(0).await;
    let settling = tokio::spawn({
        let postgres = postgres.clone();
        async move { postgres.done(&[settlement("b", at(0, 11), epoch), settlement("a", at(0, 12), epoch)]).await }
    });
    office.database.until_blocked(2).await;
    held.commit().await.unwrap();
    marking.await.unwrap().unwrap();
    settling.await.unwrap().unwrap();
    assert_eq!((office.state("a").await, office.state("b").await), ("resolved".to_owned(), "resolved".to_owned()));
}

#[tokio::test]
async fn a_topic_that_cannot_be_opened_is_written_down_and_the_plan_stays() {
    let mut office = Office::with_letters(1).await;
    office.settings.kafka.bootstrap_servers = "127.0.0.1:1".to_owned();
    let ana = office.operator("ana");
    let plan = ana.plan_replay(Selection::of_ids(vec![1]), &to_topic()).await.unwrap().replay.id;
    let Err(OperationError::Unavailable(why)) = ana.begin_publishing(plan, &[]).await else { panic!("published") };
    let (who, what, result, _, detail) = office.last_audit().await;
    assert_eq!((&*who, &*what, &*result, detail), ("ana", "replay", "failed", why));
    assert_eq!(office.database.look("SELECT state FROM replays").await, "planned");

    office.database.execute("UPDATE replays SET state = 'paused', started_at = now()").await;
    let Err(OperationError::Unavailable(why)) = ana.resume_publishing(plan).await else { panic!("published") };
    let (_, what, result, _, detail) = office.last_audit().await;
    assert_eq!((&*what, &*result, detail), ("resume", "failed", why));
    assert_eq!(office.database.look("SELECT state FROM replays").await, "paused");
}
