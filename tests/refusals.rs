//! A start that is refused: one screen that names what is wrong and how to mend it, an exit code that scripts can rely on,
//! and nothing consumed.

use std::time::Duration;

use crate::support::worker::WorkerSetup;
use crate::support::{World, orders, ports, unique};

/// Of configuration, and of preflight.
const CONFIGURATION: i32 = 2;
const REFUSED: i32 = 3;

/// Includes the patience that a start has with brokers and databases that do not answer.
const LIMIT: Duration = Duration::from_mins(1);
/// What a terminal shows at once.
const SCREEN: (usize, usize) = (24, 160);

/// Starts a worker, expects it to end with this code and to tell all of this.
async fn assert_refuses(setup: &WorkerSetup, code: i32, told: &[&str]) -> String {
    let worker = setup.spawn();
    let status = worker.wait_exit(LIMIT).await;
    let log = worker.log();
    assert_eq!(status, code, "{log}");
    for part in told {
        assert!(log.contains(part), "{part:?} is missing in\n{log}");
    }
    assert!(log.lines().count() <= SCREEN.0, "longer than a screen:\n{log}");
    assert!(log.lines().all(|line| line.chars().count() <= SCREEN.1), "wider than a screen:\n{log}");
    assert!(log.starts_with("error: "), "something was said before:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    log
}

/// A world with work to do, which a worker that starts would begin with.
async fn busy_world() -> World {
    let mut world = World::with_partitions(1).await;
    world.produce(&[orders::created(1), orders::created(2)]).await;
    world
}

async fn assert_nothing_consumed(world: &World) {
    assert!(world.gateway.requests().is_empty());
    let committed = world.kafka.committed_offsets(&world.group, &world.topic).await;
    assert!(committed.is_empty(), "{committed:?}");
}

#[tokio::test]
async fn a_bad_configuration_value_is_refused_with_its_key() {
    let world = busy_world().await;
    let setup = world.worker().with("HERALD_RETRY__MAX_ATTEMPTS", "0").with("HERALD_WEBHOOK__TIMEOUT", "soon");
    let told = ["retry.max_attempts", "HERALD_RETRY__MAX_ATTEMPTS", "webhook.timeout", "\"soon\"", "2 problems"];
    assert_refuses(&setup, CONFIGURATION, &told).await;
    assert_nothing_consumed(&world).await;
}

#[tokio::test]
async fn an_unknown_variable_is_refused_with_the_nearest_key() {
    let world = busy_world().await;
    let setup = world.worker().with("HERALD_RETRY__MAX_ATTEMPT", "3");
    assert_refuses(&setup, CONFIGURATION, &["is not a key", "did you mean HERALD_RETRY__MAX_ATTEMPTS?"]).await;
    assert_nothing_consumed(&world).await;
}

#[tokio::test]
async fn a_dead_letter_topic_that_is_the_source_topic_is_refused() {
    let world = busy_world().await;
    let setup = world.worker().with("HERALD_DEAD_LETTERS__TOPIC", &world.topic);
    assert_refuses(&setup, CONFIGURATION, &["dead_letters.topic", &world.topic, "kafka.topic"]).await;
    assert_nothing_consumed(&world).await;
}

#[tokio::test]
async fn a_broker_that_cannot_be_reached_is_refused_with_its_address() {
    let world = busy_world().await;
    let nobody = ports::local(ports::reserve().release()).to_string();
    let setup = world.worker().with("KAFKA_BOOTSTRAP_SERVERS", &nobody);
    assert_refuses(&setup, REFUSED, &["kafka", &nobody, "kafka.bootstrap_servers"]).await;
    assert_nothing_consumed(&world).await;
}

#[tokio::test]
async fn something_that_is_no_kafka_broker_is_refused_with_its_address() {
    let world = busy_world().await;
    let url = world.gateway.url();
    let web_server = url.trim_start_matches("http://").trim_end_matches("/notify");
    let setup = world.worker().with("KAFKA_BOOTSTRAP_SERVERS", web_server);
    assert_refuses(&setup, REFUSED, &[web_server, "no Kafka broker", "kafka.bootstrap_servers"]).await;
    assert_nothing_consumed(&world).await;
}

#[tokio::test]
async fn a_missing_source_topic_is_refused_with_the_command_that_creates_it() {
    let world = busy_world().await;
    let missing = unique("missing");
    let setup = world.worker().with("HERALD_KAFKA__TOPIC", &missing);
    let told = [&format!("{missing} does not exist"), "kafka.topic", "kafka-topics --create"];
    assert_refuses(&setup, REFUSED, &told).await;
    assert_nothing_consumed(&world).await;
}

#[tokio::test]
async fn a_missing_dead_letter_topic_is_refused_with_the_command_that_creates_it() {
    let world = busy_world().await;
    let missing = unique("missing-dlq");
    let setup = world.worker().with("HERALD_DEAD_LETTERS__TOPIC", &missing);
    let told = [&format!("{missing} does not exist"), "kafka-topics --create", "dead_letters.create_topic = true"];
    assert_refuses(&setup, REFUSED, &told).await;
    assert_nothing_consumed(&world).await;
}

#[tokio::test]
async fn a_database_without_the_tables_is_refused_with_the_command_that_makes_them() {
    let world = busy_world().await;
    world.database.forget_migrations().await;
    let told = ["migrations to run: 0001 ledger", "herald migrate", "database.migrate = true"];
    assert_refuses(&world.worker(), REFUSED, &told).await;
    assert_nothing_consumed(&world).await;
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_refused_without_its_password() {
    let world = busy_world().await;
    let nobody = ports::local(ports::reserve().release());
    let setup = world.worker().with("DATABASE_URL", &format!("postgres://herald:hunter2@{nobody}/herald"));
    let log = assert_refuses(&setup, REFUSED, &["database", &format!("{nobody}/herald"), "DATABASE_URL"]).await;
    assert!(!log.contains("hunter2"), "{log}");
    assert_nothing_consumed(&world).await;
}

#[tokio::test]
async fn an_http_address_that_is_in_use_is_refused_with_its_key() {
    let world = busy_world().await;
    let taken = ports::reserve();
    let address = ports::local(taken.port()).to_string();
    let setup = world.worker().with("HERALD_HTTP__ADDRESS", &address);
    assert_refuses(&setup, REFUSED, &["http.address", &address, "in use"]).await;
    assert_nothing_consumed(&world).await;
}

#[tokio::test]
async fn all_problems_of_a_start_are_told_at_once() {
    let world = busy_world().await;
    world.database.forget_migrations().await;
    let (topic, dead_letters) = (unique("missing"), unique("missing-dlq"));
    let setup = world.worker().with("HERALD_KAFKA__TOPIC", &topic).with("HERALD_DEAD_LETTERS__TOPIC", &dead_letters);
    let told = [&format!("{topic} does not exist"), &format!("{dead_letters} does not exist"), "migrations to run"];
    assert_refuses(&setup, REFUSED, &told).await;
    assert_nothing_consumed(&world).await;
}
