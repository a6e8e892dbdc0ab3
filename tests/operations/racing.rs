//! Two operators at the same time: one wins, and the other is told who and when.

use herald::operations::{CloseReason, Frozen, OperationError, Operations, ReplayWish, Selection};
use herald::postgres::{ReplayTo, Scheduling};

use super::Office;
use crate::ledger::fixture::{CONTENT, KEY, at, identity, record};

fn wish() -> ReplayWish {
    ReplayWish {
        to: ReplayTo::Workers,
        rate: 100.0,
        canary: 0,
        max_failure_ratio: 0.2,
        override_cap: false,
        reason: String::new(),
    }
}

pub(super) fn of(ids: &[i64]) -> Selection {
    Selection::of_ids(ids.to_vec())
}

/// The letter of the order with this number, as a worker schedules it.
pub(super) fn scheduling(place: i32, number: i64) -> Scheduling {
    let order_id = number.to_string();
    let record = record(at(0, number), &order_id);
    Scheduling { place, id: number, identity: identity(&order_id), fingerprint: CONTENT, key: KEY, record }
}

/// A plan of all these letters that runs already.
pub(super) async fn running(operator: &Operations, ids: &[i64]) -> i64 {
    let plan = operator.plan_replay(of(ids), &wish()).await.unwrap().replay.id;
    operator.execute_plan(plan).await.unwrap();
    plan
}

fn why<T: std::fmt::Debug>(result: Result<T, OperationError>) -> String {
    match result.unwrap_err() {
        OperationError::Refused(why) => why,
        OperationError::Unavailable(why) => panic!("not refused, but unavailable: {why}"),
    }
}

#[tokio::test]
async fn a_plan_that_two_execute_at_the_same_time_runs_once_and_the_other_is_told_who_and_when() {
    let office = Office::with_letters(3).await;
    let (ana, ben) = (office.operator("ana"), office.operator("ben"));
    for _ in 0..10 {
        let plan = ana.plan_replay(of(&[1, 2, 3]), &wish()).await.unwrap().replay.id;
        let (one, other) = tokio::join!(ana.execute_plan(plan), ben.execute_plan(plan));
        let (winner, loser) = if one.is_ok() { ("ana", other) } else { ("ben", one) };
        let told = why(loser);
        assert!(told.starts_with(&format!("r{plan} is running since 20")), "{told}");
        assert!(told.ends_with(&format!("by {winner}")), "{told}");
        let (_, what, result, _, detail) = office.last_audit().await;
        assert_eq!((&*what, &*result, &detail), ("replay", "conflict", &told));
        ana.cancel_replay(plan).await.unwrap();
    }
    let executed =
        "SELECT count(*)::text FROM operator_audit WHERE action = 'replay' AND result = 'done' AND filter ? 'replay'";
    assert_eq!(office.database.look(executed).await, "10");
}

#[tokio::test]
async fn of_a_replay_and_a_discard_of_one_letter_one_wins_and_the_other_is_told_who_and_when() {
    const LETTERS: u32 = 30;
    let office = Office::with_letters(LETTERS).await;
    let (ana, ben) = (office.operator("ana"), office.operator("ben"));
    let ids: Vec<i64> = (1..=LETTERS.into()).collect();
    let plan = running(&ana, &ids).await;
    let (mut replayed, mut discarded) = (0, 0);
    for (place, id) in (1..).zip(ids) {
        let frozen = Frozen { selection: of(&[id]), ids: vec![id] };
        let letters = [scheduling(place, id)];
        let (scheduled, closed) = tokio::join!(
            office.database.postgres.schedule(plan, &letters),
            ben.discard(&frozen, CloseReason::Obsolete, "")
        );
        scheduled.unwrap();
        let order = id.to_string();
        let ledger = office.database.ledger(&order).await;
        match closed {
            Ok(_) => {
                discarded += 1;
                assert_eq!((&*office.state(&order).await, &ledger[..1]), ("discarded", "x"));
            }
            Err(error) => {
                replayed += 1;
                let told = why::<()>(Err(error));
                assert!(told.contains(&format!("a replay has it: r{plan} by ana since 20")), "{told}");
                assert_eq!((&*office.state(&order).await, &ledger[..1]), ("replaying", "p"));
            }
        }
    }
    let progress = ana.replay(plan).await.unwrap().progress;
    assert_eq!((progress.scheduled, progress.left_out), (replayed, discarded));
    assert_eq!(office.database.look("SELECT count(*)::text FROM parked_events").await, replayed.to_string());
}

#[tokio::test]
async fn who_comes_second_to_a_letter_is_told_whichever_came_first() {
    let office = Office::with_letters(2).await;
    let (ana, ben) = (office.operator("ana"), office.operator("ben"));
    // Discarded before the replay comes to it.
    let plan = running(&ana, &[1]).await;
    ben.discard(&Frozen { selection: of(&[1]), ids: vec![1] }, CloseReason::Obsolete, "").await.unwrap();
    office.database.postgres.schedule(plan, &[scheduling(1, 1)]).await.unwrap();
    let ended = ana.show(1, herald::operations::Sight::Masked).await.unwrap().letter;
    let replay = &ended.replays[0];
    assert_eq!((&*replay.by, replay.outcome.as_deref()), ("ana", Some("left_out")));
    assert!(
        replay.detail.as_ref().is_some_and(|detail| detail.starts_with("it was discarded by ben at 20")),
        "{replay:?}"
    );
    assert!(why(ana.plan_replay(of(&[1]), &wish()).await).contains("discarded by ben at 20"));

    // Taken by the replay before the discard comes.
    let plan = running(&ana, &[2]).await;
    office.database.postgres.schedule(plan, &[scheduling(1, 2)]).await.unwrap();
    let told = why(ben.discard(&Frozen { selection: of(&[2]), ids: vec![2] }, CloseReason::Obsolete, "").await);
    assert!(told.contains(&format!("a replay has it: r{plan} by ana since 20")), "{told}");
    let told = why(ben.plan_replay(of(&[2]), &wish()).await);
    assert!(told.contains(&format!("is being replayed: r{plan} by ana since 20")), "{told}");
}
