//! The commands around a start: `herald check` says what `herald run` would, `herald migrate` makes the tables.

use serde_json::Value;

use crate::support::wait::EVENTUALLY;
use crate::support::{World, orders, unique};

#[tokio::test]
async fn check_says_that_all_is_well_and_changes_nothing() {
    let mut world = World::with_partitions(3).await;
    world.produce(&[orders::created(1)]).await;
    let ended = world.worker().run_command(&["check"]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    for part in
        [&format!("{}: 3 partitions", world.topic), "writable", "migrations current", "ready: herald run would start"]
    {
        assert!(ended.stdout.contains(part), "{part:?} is missing in\n{}", ended.stdout);
    }
    assert_eq!(ended.stderr, "");
    assert!(world.gateway.requests().is_empty());
    assert!(world.kafka.committed_offsets(&world.group, &world.topic).await.is_empty());
    assert!(world.kafka.records(&world.dlq_topic).await.is_empty());
}

#[tokio::test]
async fn check_tells_the_problems_that_a_start_refuses_over_and_exits_with_3() {
    let world = World::with_partitions(1).await;
    world.database.forget_migrations().await;
    let missing = unique("missing-dlq");
    let setup = world.worker().with("HERALD_DEAD_LETTERS__TOPIC", &missing);
    let (text, json) = tokio::join!(setup.run_command(&["check"]), setup.run_command(&["check", "--json"]));
    assert_eq!((text.code, json.code), (Some(3), Some(3)), "{}{}", text.stdout, text.stderr);
    assert!(text.stdout.ends_with("2 problems; herald run would refuse to start (exit 3)\n"), "{}", text.stdout);

    let findings: Vec<Value> = serde_json::from_str(&json.stdout).unwrap();
    let problems: Vec<&Value> = findings.iter().filter(|finding| finding["verdict"] == "problem").collect();
    let areas: Vec<&str> = problems.iter().map(|problem| problem["area"].as_str().unwrap()).collect();
    assert_eq!(areas, ["dead letter", "database"]);
    let worker = setup.spawn();
    assert_eq!(worker.wait_exit(EVENTUALLY).await, 3);
    for problem in problems {
        let detail = problem["detail"].as_str().unwrap();
        assert!(text.stdout.contains(detail) && worker.log().contains(detail), "{detail}\n{}", worker.log());
        let remedies = problem["remedies"].as_array().unwrap();
        assert!(!remedies.is_empty(), "{detail} has no remedy");
    }
}

#[tokio::test]
async fn check_says_of_a_gateway_that_is_down_that_a_start_waits_for_it() {
    let world = World::with_partitions(1).await;
    world.gateway.down().await;
    let ended = world.worker().run_command(&["check"]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("does not answer"), "{}", ended.stdout);
    assert!(ended.stdout.contains("it waits for the gateway"), "{}", ended.stdout);
}

#[tokio::test]
async fn migrate_makes_the_tables_once_and_may_be_repeated() {
    let mut world = World::with_partitions(1).await;
    world.database.forget_migrations().await;
    let setup = world.worker();
    let first = setup.run_command(&["migrate"]).await;
    assert_eq!((first.code, first.stderr.as_str()), (Some(0), ""));
    assert!(first.stdout.starts_with("applied 0001 ledger"), "{}", first.stdout);
    let again = setup.run_command(&["migrate"]).await;
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), "migrations are current\n"), "{}", again.stderr);

    world.produce(&[orders::created(1)]).await;
    let _worker = setup.start().await;
    world.all_committed().await;
    assert!(world.verdict().is_clean());
}

#[tokio::test]
async fn migrations_run_at_start_where_the_configuration_says_so() {
    let mut world = World::with_partitions(1).await;
    world.database.forget_migrations().await;
    world.produce(&[orders::created(1)]).await;
    let setup = world.worker().with("HERALD_DATABASE__MIGRATE", "true");
    let workers = [setup.spawn(), setup.spawn()];
    for worker in &workers {
        worker.wait_ready().await;
    }
    world.all_committed().await;
    assert!(world.verdict().is_clean());
}

#[tokio::test]
async fn a_start_creates_the_dead_letter_topic_like_the_source_topic_where_the_configuration_says_so() {
    let mut world = World::with_partitions(3).await;
    world.dlq_topic = unique("created-dlq");
    let setup = world.worker().with("HERALD_DEAD_LETTERS__CREATE_TOPIC", "true");
    let check = setup.run_command(&["check"]).await;
    assert_eq!(check.code, Some(0), "{}", check.stdout);
    let promised = format!("{} does not exist: a start creates it with 3 partitions", world.dlq_topic);
    assert!(check.stdout.contains(&promised), "{}", check.stdout);

    let _worker = setup.start().await;
    assert_eq!(world.kafka.end_offsets(&world.dlq_topic).await.len(), 3);
}

#[tokio::test]
async fn a_migration_without_a_database_says_where_it_looked() {
    let world = World::with_partitions(1).await;
    let nobody = crate::support::ports::local(crate::support::ports::reserve().release());
    let setup = world.worker().with("DATABASE_URL", &format!("postgres://herald:hunter2@{nobody}/herald"));
    let ended = setup.run_command(&["migrate"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("{nobody}/herald")), "{}", ended.stderr);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
}
