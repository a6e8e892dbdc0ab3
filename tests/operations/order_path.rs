//! `herald order`: what one order went through.

use serde_json::Value;

use super::{herald, herald_json};
use crate::support::gateway::Answer;
use crate::support::kafka::NewRecord;
use crate::support::{World, orders};

fn whats(steps: &[Value]) -> Vec<&str> {
    steps.iter().map(|step| step["what"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_path_of_an_order_tells_of_claims_attempts_dead_letters_and_notifications() {
    let mut world = World::with_partitions(1).await;
    world.gateway.answer_order("1", [Answer::status(503), Answer::status(422).with_body("too many")]);
    world.produce_in(0, &[orders::created(1), orders::created(2)]).await;
    let unfinished = r#"{"event_type":"ORDER_CREATED","order":{"order_id":4}}"#;
    world.kafka.produce(&world.topic, vec![NewRecord::of(unfinished).in_partition(0)]).await;
    let setup = world.worker().with("HERALD_RETRY__INITIAL_BACKOFF", "10ms");
    let _worker = setup.start().await;
    world.buried(2).await;
    world.all_committed().await;

    let dead = herald_json(&setup, &["order", "1", "--json"]).await;
    let told = whats(&dead);
    for expected in ["appended", "claimed", "attempt 1", "attempt 2", "dead letter"] {
        assert!(told.contains(&expected), "{expected} in {told:?}");
    }
    assert!(told.iter().position(|what| *what == "attempt 1") < told.iter().position(|what| *what == "attempt 2"));
    assert_eq!(whats(&herald_json(&setup, &["order", "2", "--json"]).await), ["claimed", "notified"]);
    assert!(
        whats(&herald_json(&setup, &["order", "4", "--json"]).await).contains(&"dead letter"),
        "poison that names it"
    );
    let text = herald(&setup, &["order", "1"]).await;
    assert!(text.contains("order 1 · ORDER_CREATED · dead since") && text.contains("too many"), "{text}");
    assert!(herald(&setup, &["order", "99"]).await.contains("nothing is known"));

    // The producer sends it again: success resolves the dead letter.
    world.produce_in(0, &[orders::created(1)]).await;
    world.all_committed().await;
    let path = herald_json(&setup, &["order", "1", "--json"]).await;
    assert_eq!(*whats(&path).last().unwrap(), "notified");
}

#[tokio::test]
async fn a_parked_order_tells_until_when_it_waits() {
    let mut world = World::with_partitions(1).await;
    world.gateway.always_answer_order("1", Answer::status(503).retry_after("600"));
    world.produce_in(0, &[orders::created(1)]).await;
    let setup = world.worker();
    let worker = setup.start().await;
    worker.wait_for_metric("herald_parked_records", &[("kind", "retry")], 1.0).await;
    let path = herald_json(&setup, &["order", "1", "--json"]).await;
    let told = whats(&path);
    assert!(told.contains(&"parked") && told.contains(&"attempt 1"), "{told:?}");
}
