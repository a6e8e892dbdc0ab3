//! What operators do, and what they leave undone.

use std::ops::Range;

use crate::drill::Drill;
use crate::prometheus::Prometheus;
use crate::support::gateway::Answer;
use crate::support::kafka::NewRecord;
use crate::support::{World, letters, orders};
use crate::traffic::Batch;

/// An hour of the drills' clock is two minutes, so a day is 48. The worker's own clock is not faster: what it warns of expires
/// within a day of its retention.
pub async fn nobody_looks(prometheus: &Prometheus) {
    let world = World::with_partitions(2).await;
    let setup = world.worker().with("HERALD_DEAD_LETTERS__RETENTION", "1470m");
    let drill = Drill::with(prometheus, "herald-unattended", world, setup, 1).await;
    drill.world.kafka.produce(&drill.world.topic, vec![NewRecord::of("no JSON")]).await;
    drill.world.published(1).await;
    assert_eq!(letters::rows(&drill.world.database.pool).await.len(), 1);
    let backdated = "UPDATE dead_letters SET failed_at = failed_at - interval '50 minutes'";
    sqlx::query(backdated).execute(&drill.world.database.pool).await.unwrap();
    drill.raises(&["HeraldDeadLetterNewReason", "HeraldDeadLettersExpiring", "HeraldDeadLettersUnattended"]).await;
}

/// The cause is not mended: the first three fail again and stop the replay. Somebody insists on what is not permitted.
pub async fn refused_and_a_replay_fails(prometheus: &Prometheus) {
    let orders = Batch::REFUSED.start..Batch::REFUSED.start + 5;
    let drill = with_dead_letters(prometheus, "herald-operators", orders.clone()).await;
    drill.raises(&["HeraldDeadLetterNewReason"]).await;
    for _ in 0..12 {
        drill.operator(&["dlq", "replay"], 3).await;
    }
    drill.raises(&["HeraldDeadLetterNewReason", "HeraldOperatorRefused"]).await;
    drill.operator(&["dlq", "replay", "--reason", "permanent", "--canary", "3"], 0).await;
    drill.operator(&["dlq", "replay", "--plan", "p1"], 0).await;
    drill.workers[0].wait_for_metric("herald_replay_runs", &[("state", "stopped")], 1.0).await;
    drill.raises(&["HeraldDeadLetterNewReason", "HeraldOperatorRefused", "HeraldReplayFailing"]).await;
    drill.follow("HeraldOperatorRefused", &[]).await;
    drill.gateway_answers(orders, &Answer::ok());
    drill.follow("HeraldReplayFailing", &[("42", "1"), ("GROUP", &drill.group().await)]).await;
    for (state, replays) in [("cancelled", 1.0), ("done", 1.0), ("running", 0.0), ("stopped", 0.0)] {
        drill.workers[0].wait_for_metric("herald_replay_runs", &[("state", state)], replays).await;
    }
    drill.workers[0].wait_for_metric("herald_replays_total", &[("result", "notified")], 5.0).await;
    drill.workers[0].wait_for_metric("herald_dead_letters", &[("state", "resolved")], 5.0).await;
}

/// The gateway takes the replayed orders and never answers.
pub async fn replay_stuck(prometheus: &Prometheus) {
    let orders = Batch::REFUSED.start..Batch::REFUSED.start + 3;
    let drill = with_dead_letters(prometheus, "herald-replay", orders.clone()).await;
    drill.gateway_answers(orders, &Answer::Hang);
    drill.operator(&["dlq", "replay", "--reason", "permanent"], 0).await;
    drill.operator(&["dlq", "replay", "--plan", "p1"], 0).await;
    drill.raises(&["HeraldDeadLetterNewReason", "HeraldReplayStuck"]).await;
    drill.workers[0].wait_for_metric("herald_replay_remaining_records", &[], 3.0).await;
    drill.follow("HeraldReplayStuck", &[]).await;
    drill.workers[0].wait_for_metric("herald_replay_runs", &[("state", "cancelled")], 1.0).await;
    drill.workers[0].wait_for_metric("herald_replay_remaining_records", &[], 0.0).await;
}

/// Orders that the gateway refuses: too few to burn the error budget.
async fn with_dead_letters<'a>(prometheus: &'a Prometheus, job: &'static str, refused: Range<u64>) -> Drill<'a> {
    let world = World::with_partitions(2).await;
    let patient = world.worker().with("HERALD_WEBHOOK__TIMEOUT", "5m");
    let mut drill = Drill::with(prometheus, job, world, patient, 1).await;
    drill.gateway_answers(refused.clone(), &Answer::status(422).with_body("too many"));
    let events: Vec<_> = refused.map(orders::created).collect();
    drill.world.produce(&events).await;
    drill.world.published(events.len()).await;
    drill
}
