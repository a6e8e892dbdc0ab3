//! The main job: orders in, notifications out, each once.

use serde_json::json;

use crate::support::gateway::Request;
use crate::support::order_service::OrderService;
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::{World, orders};

#[tokio::test]
async fn each_order_is_notified_once_and_its_offset_committed() {
    let mut world = World::with_partitions(3).await;
    let events: Vec<_> = (0..500).map(orders::created).collect();
    world.produce(&events).await;
    let mut worker = world.worker().with("HERALD_DATABASE__MIGRATE", "true").start().await;
    world.all_committed().await;
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}\n{}", worker.log());
    worker.wait_for_metric("herald_records_total", &[("outcome", "notified")], 500.0).await;
    worker.assert_accounting_closes().await;
    worker.sigterm();
    assert_eq!(worker.wait_exit(EVENTUALLY).await, 0, "{}", worker.log());
}

#[tokio::test]
async fn orders_taken_by_the_order_service_reach_the_gateway() {
    let world = World::with_partitions(3).await;
    let service = OrderService::start(&world.kafka, &world.topic).await;
    let _worker = world.worker().with("HERALD_DATABASE__MIGRATE", "true").start().await;
    let mut order_ids = Vec::new();
    for number in 1..=100 {
        let order = json!({"user_id": number, "product_id": 3, "quantity": 2});
        let (status, answer) = service.post(&order, &[]).await;
        assert!((200..300).contains(&status), "{status} {answer}");
        order_ids.push(answer["order_id"].to_string());
    }
    wait_until("all orders are notified", EVENTUALLY, async || {
        let accepted = world.gateway.accepted();
        if accepted >= order_ids.len() { Ok(()) } else { Err(format!("{accepted} notified")) }
    })
    .await;
    let mut notified: Vec<String> = world.gateway.requests().iter().map(Request::order_id).collect();
    notified.sort();
    order_ids.sort();
    assert_eq!(notified, order_ids);
}
