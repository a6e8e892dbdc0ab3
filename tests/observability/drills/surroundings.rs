//! What Herald stands on goes away: Postgres, the gateway, the DLQ topic, Kafka, its own instances.

use crate::drill::Drill;
use crate::prometheus::Prometheus;
use crate::support::kafka::{Broker, NewRecord};
use crate::support::{World, postgres};

pub async fn postgres_down(prometheus: &Prometheus) {
    let (mut server, url) = postgres::private().await;
    let world = World::with_partitions(2).await;
    // A statement waits this long before it is an outage. By the rules' clock the default of 10 s would be five minutes, in which a
    // partition that stands still is told before its cause.
    let setup = world.worker().with("DATABASE_URL", &url).with("HERALD_DATABASE__STATEMENT_TIMEOUT", "1s");
    let drill = Drill::with(prometheus, "herald-postgres", world, setup, 1).await;
    server.crash().unwrap();
    drill.raises(&["HeraldPostgresUnavailable"]).await;
}

pub async fn gateway_down(prometheus: &Prometheus) {
    let drill = Drill::usual(prometheus, "herald-gateway").await;
    drill.world.gateway.down().await;
    drill.raises(&["HeraldGatewayUnavailable"]).await;
}

pub async fn dlq_topic_gone(prometheus: &Prometheus) {
    let drill = Drill::usual(prometheus, "herald-dlq").await;
    drill.world.kafka.delete_topic(&drill.world.dlq_topic).await;
    drill.world.kafka.produce(&drill.world.topic, vec![NewRecord::of("no JSON")]).await;
    drill.raises(&["HeraldDeadLetterNewReason", "HeraldDeadLetterPublishFailing"]).await;
}

/// The first that is killed is no alert: the other does its work. By the rules' clock the default of 10 s for that would be five minutes.
pub async fn workers_killed(prometheus: &Prometheus) {
    let world = World::with_partitions(2).await;
    let setup = world.worker().with("HERALD_KAFKA__SESSION_TIMEOUT", "6s");
    let mut drill = Drill::with(prometheus, "herald-killed", world, setup, 2).await;
    drill.world.shared_equally(&[&drill.workers[0], &drill.workers[1]]).await;
    let mut first = drill.workers.remove(0);
    first.kill9().await;
    drill.world.shared_equally(&[&drill.workers[0]]).await;
    drill.sees("count(changes(herald:consumer_committed_offset{job=\"herald-killed\"}[6s]) > 0)", 2.0).await;
    drill.raises(&[]).await;
    drill.workers[0].kill9().await;
    drill.raises(&["HeraldDown"]).await;
}

/// No commit fits into the topic of the offsets any more: what is committed stands still.
pub async fn commits_refused_and_then_kafka_hangs(prometheus: &Prometheus) {
    let mut broker = Broker::private().await;
    let world = World::on(broker.clone(), 2).await;
    let setup = world.worker();
    let mut drill = Drill::with(prometheus, "herald-kafka", world, setup, 1).await;
    broker.alter_topic("__consumer_offsets", &[("cleanup.policy", "compact"), ("max.message.bytes", "10")]).await;
    drill.raises(&["HeraldCommitFailing", "HeraldPartitionStuck"]).await;
    broker.alter_topic("__consumer_offsets", &[("cleanup.policy", "compact")]).await;
    // A batch under way would wait for the broker.
    drill.traffic.take().unwrap().end().await;
    broker.freeze();
    let alerts =
        ["HeraldCommitFailing", "HeraldKafkaUnavailable", "HeraldNoPartitionsAssigned", "HeraldPartitionStuck"];
    drill.raises(&alerts).await;
    broker.thaw();
}

/// The topic gets one partition after another: each is a rebalance.
pub async fn rebalances_without_end(prometheus: &Prometheus) {
    let world = World::with_partitions(2).await;
    let setup = world.worker().with("HERALD_KAFKA__OPTIONS__TOPIC_METADATA_REFRESH_INTERVAL_MS", "200");
    let drill = Drill::with(prometheus, "herald-rebalancing", world, setup, 1).await;
    for partitions in 3..=10_u32 {
        drill.world.kafka.grow_topic(&drill.world.topic, usize::try_from(partitions).unwrap()).await;
        drill.workers[0].wait_for_metric("herald_consumer_assigned_partitions", &[], f64::from(partitions)).await;
    }
    drill.raises(&["HeraldRebalanceStorm"]).await;
}
