//! Dead letters are published to their topic again, for every group that reads it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use herald::core::record::{Header, Offset, Record};
use herald::operations::{OperationError, ReplayWish, Selection};
use herald::postgres::{Publication, ReplayTo};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use serde_json::json;

use super::{Office, herald, herald_json, refused};
use crate::ledger::fixture::{at, claim, settlement};
use crate::support::gateway::Answer;
use crate::support::kafka::{Broker, NewRecord};
use crate::support::wait::{EVENTUALLY, blocking, wait_until};
use crate::support::worker::WorkerSetup;
use crate::support::{World, orders, unique};

fn header(name: &'static [u8], value: Option<&'static [u8]>) -> Header {
    Header { name: Bytes::from_static(name), value: value.map(Bytes::from_static) }
}

/// All of a record but where and when it is.
fn content(record: &Record) -> (Option<Bytes>, Option<Bytes>, Vec<Header>) {
    (record.key.clone(), record.value.clone(), record.headers.clone())
}

async fn states(world: &World) -> Vec<String> {
    let statement = "SELECT concat(count(*), ' ', state) FROM dead_letters GROUP BY state ORDER BY state";
    sqlx::query_scalar(statement).fetch_all(&world.database.pool).await.unwrap()
}

async fn in_states(world: &World, expected: &[&str]) {
    wait_until("the dead letters are as expected", EVENTUALLY, async || {
        let states = states(world).await;
        if states == expected { Ok(()) } else { Err(format!("{states:?}")) }
    })
    .await;
}

async fn change(world: &World, statement: &'static str) {
    sqlx::query(statement).execute(&world.database.pool).await.unwrap();
}

/// A member of this group that has partitions of the topic; it commits nothing by itself.
async fn member(world: &World, group: &str, protocol: &str) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", world.kafka.bootstrap_servers())
        .set("group.id", group)
        .set("group.protocol", protocol)
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    consumer.subscribe(&[&world.topic]).unwrap();
    blocking(move || {
        let start = Instant::now();
        while consumer.assignment().unwrap().count() == 0 {
            assert!(start.elapsed() < EVENTUALLY, "no partition was assigned");
            drop(consumer.poll(Duration::from_millis(100)));
        }
        consumer
    })
    .await
}

async fn id_of(setup: &WorkerSetup, order: &str) -> String {
    herald_json(setup, &["dlq", "list", "--order", order, "--json"]).await[0]["id"].to_string()
}

/// A world whose gateway has refused so many orders for good, and how its worker is started. No worker runs.
async fn refused_orders(mut world: World, count: u64) -> (World, WorkerSetup) {
    world.gateway.answer(Answer::status(422).with_body("no such user"));
    let events: Vec<_> = (1..=count).map(orders::created).collect();
    world.produce_in(0, &events).await;
    let setup = world.worker();
    let worker = setup.start().await;
    world.published(usize::try_from(count).unwrap()).await;
    world.all_committed().await;
    drop(worker);
    (world, setup)
}

#[tokio::test]
async fn the_original_bytes_are_published_for_every_group_and_a_success_resolves_the_old_letter() {
    let world = World::with_partitions(2).await;
    world.gateway.answer(Answer::status(422));
    let mut order = NewRecord::of(orders::created(1).to_string()).in_partition(1);
    order.key = Some(Bytes::from_static(b"\x00\xff"));
    order.timestamp = Some(1_790_000_000_123);
    order.headers = vec![
        header(b"twice", Some(b"1")),
        header(b"twice", None),
        header(b"\xfe", Some(b"\x00\x01")),
        header(b"empty", Some(b"")),
        header(b"twice", Some(b"1")),
    ];
    let poison = NewRecord { key: Some(Bytes::from_static(b"k")), partition: Some(1), ..NewRecord::default() };
    world.kafka.produce(&world.topic, vec![order, poison]).await;
    let setup = world.worker();
    let _worker = setup.start().await;
    world.published(2).await;
    let billing = unique("billing");
    world.kafka.rewind(&billing, &world.topic, Offset(0)).await;
    world.kafka.rewind(&unique("elsewhere"), &world.dlq_topic, Offset(0)).await;

    let watching = unique("watching");
    let _watcher = member(&world, &watching, "classic").await;
    let modern = unique("modern");
    let of_modern = member(&world, &modern, "consumer").await;
    let mut first = of_modern.assignment().unwrap();
    first.set_all_offsets(rdkafka::Offset::Offset(0)).unwrap();
    of_modern.commit(&first, CommitMode::Sync).unwrap();

    let planned = herald(&setup, &["dlq", "replay", "--from", "1", "--to-topic", "--why", "billing lost them"]).await;
    for expected in [
        "would be published         2".to_owned(),
        format!("to {}, for every group", world.topic),
        format!("{billing}  "),
        "has committed offsets · this one".to_owned(),
        format!("{watching}  "),
        format!("{modern}  "),
        "is subscribed, nothing committed yet".to_owned(),
        "run it:  herald dlq replay --plan p1\n".to_owned(),
    ] {
        assert!(planned.contains(&expected), "{expected} in {planned}");
    }
    assert!(!planned.contains("elsewhere"), "{planned}");
    let ended = setup.run_command(&["dlq", "replay", "--plan", "p1"]).await;
    assert_eq!(ended.code, Some(3), "nobody was asked: {ended:?}");
    assert!(ended.stdout.contains(&billing) && ended.stderr.contains("needs --yes"), "{ended:?}");
    let before = world.kafka.records(&world.topic).await;
    assert_eq!(before.len(), 2);

    world.gateway.answer(Answer::ok());
    let told = herald(&setup, &["dlq", "replay", "--plan", "p1", "--yes", "--operator", "ana"]).await;
    assert!(told.contains(&billing) && told.contains("published 2"), "{told}");
    let after = world.kafka.records(&world.topic).await;
    let contents: Vec<_> = after.iter().map(content).collect();
    assert_eq!(contents[2..], contents[..2], "byte for byte, in the same partition");
    assert!(after[2..].iter().all(|record| record.coordinates.partition.0 == 1));
    // The order is notified and resolves its letter. The poison is another dead letter, and its old one is open.
    in_states(&world, &["2 open", "1 resolved"]).await;
    assert_eq!((world.gateway.accepted(), world.orders_in_state("d").await.len()), (1, 1));

    let shown = herald_json(&setup, &["dlq", "list", "--state", "resolved", "--json"]).await;
    let shown = herald_json(&setup, &["dlq", "show", &shown[0]["id"].to_string(), "--json"]).await;
    let replay = &shown[0]["replay_history"][0];
    assert_eq!(
        (&replay["by"], &replay["outcome"], &replay["reason"], &replay["to_topic"]),
        (&json!("ana"), &json!("published"), &json!("billing lost them"), &json!(true))
    );
    assert_eq!(replay["detail"], format!("{}/1 @ 2", world.topic));
    assert_eq!(shown[0]["replays"], 1);
    let audit = herald_json(&setup, &["dlq", "audit", "--json"]).await;
    assert_eq!((&audit[0]["operator"], &audit[0]["result"]), (&json!("ana"), &json!("done")));
    let groups = audit[0]["filter"]["groups"].as_array().unwrap();
    assert!(groups.contains(&json!(billing)) && groups.contains(&json!(world.group)), "{groups:?}");
}

#[tokio::test]
async fn what_fails_again_is_another_letter_and_nothing_is_published_twice_by_two_plans() {
    let (world, setup) = refused_orders(World::with_partitions(1).await, 2).await;
    let (one, two) = (id_of(&setup, "1").await, id_of(&setup, "2").await);
    herald(&setup, &["dlq", "replay", &one, "--to-topic", "--yes", "--operator", "ana"]).await;
    let why = refused(&setup, &["dlq", "replay", &one, "--to-topic", "--yes"]).await;
    assert!(why.contains("was published again since it failed: r1 by ana at 20"), "{why}");
    let told = herald_json(&setup, &["dlq", "replay", "--reason", "permanent", "--to-topic", "--json"]).await;
    assert_eq!((&told[0]["letters"], &told[0]["prospects"]["already_published"]), (&1.into(), &1.into()));
    assert_eq!(told[0]["reaches"][0]["reads"], "committed");
    assert_eq!(world.kafka.records(&world.topic).await.len(), 3);

    let _worker = setup.start().await;
    in_states(&world, &["3 open"]).await;
    let letters = herald_json(&setup, &["dlq", "list", "--order", "1", "--json"]).await;
    let prospects = herald_json(&setup, &["dlq", "replay", "--order", "1", "--json"]).await;
    assert_eq!((letters.len(), &prospects[0]["prospects"]["superseded"]), (2, &1.into()));
    world.gateway.answer(Answer::ok());
    herald(&setup, &["dlq", "replay", "--order", "1", "--yes"]).await;
    herald(&setup, &["dlq", "replay", "--plan", "p4", "--wait"]).await;
    in_states(&world, &["1 open", "2 resolved"]).await;
    // The way of the other one is as short as ever.
    herald(&setup, &["dlq", "replay", &two, "--wait"]).await;
    in_states(&world, &["3 resolved"]).await;
    assert_eq!(world.gateway.accepted(), 2);
}

#[tokio::test]
async fn what_may_not_be_published_is_refused_with_the_reason() {
    let (world, setup) = refused_orders(World::with_partitions(1).await, 3).await;
    let to_topic = ["dlq", "replay", "--reason", "permanent", "--to-topic", "--json"];
    assert!(refused(&setup, &["dlq", "replay", "--to-topic"]).await.contains("an empty filter"));
    let read_only = setup.clone().with("HERALD_DEAD_LETTERS__READ_ONLY", "true");
    assert!(refused(&read_only, &to_topic).await.contains("read_only"));
    for with in ["--canary=1", "--edit"] {
        let ended = setup.run_command(&["dlq", "replay", "1", "--to-topic", with]).await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
    }
    // Even for a single one the operator is asked, and told first whom it reaches.
    let ended = setup.run_on_terminal(&["dlq", "replay", "1", "--to-topic"], "yes\n").await;
    let (groups, question) = (ended.stdout.find(&world.group), ended.stdout.find("publishing 1 dead letters: type"));
    assert!(ended.code == Some(3) && groups.is_some() && groups < question, "{ended:?}");
    let plan = herald_json(&setup, &to_topic).await[0]["plan"].as_str().unwrap().to_owned();
    let execute = ["dlq", "replay", "--plan", &plan, "--yes"];
    assert!(refused(&read_only, &execute).await.contains("read_only"));
    change(&world, "UPDATE replays SET valid_until = now()").await;
    assert!(refused(&setup, &execute).await.contains("stale"));

    change(&world, "DELETE FROM processed_orders WHERE order_id = '1'").await;
    change(&world, "UPDATE dead_letters SET state = 'quarantined' WHERE order_id = '2'").await;
    let one = ["dlq", "replay", &id_of(&setup, "1").await, "--to-topic", "--yes"];
    assert!(refused(&setup, &one).await.contains("was pruned"));
    let two = ["dlq", "replay", &id_of(&setup, "2").await, "--to-topic", "--yes"];
    assert!(refused(&setup, &two).await.contains("--override-cap"));
    let plan = herald_json(&setup, &to_topic).await;
    assert_eq!(plan[0]["letters"], 1);
    let plan = plan[0]["plan"].as_str().unwrap();
    // It changed after it was planned.
    change(&world, "UPDATE dead_letters SET state = 'discarded' WHERE order_id = '3'").await;
    let ended = setup.run_command(&["dlq", "replay", "--plan", plan, "--yes"]).await;
    assert_eq!((ended.code, ended.stdout.contains("left out 1")), (Some(4), true), "{ended:?}");
    assert_eq!(world.kafka.records(&world.topic).await.len(), 3, "nothing was published");
}

#[tokio::test]
async fn a_topic_that_was_created_again_is_not_written_since_its_copies_would_come_before_the_dead_ones() {
    let (world, setup) = refused_orders(World::on_our_broker(1).await, 2).await;
    let planned = herald_json(&setup, &["dlq", "replay", "--reason", "permanent", "--to-topic", "--json"]).await;
    let plan = planned[0]["plan"].as_str().unwrap();
    world.kafka.delete_topic(&world.topic).await;
    world.kafka.create_topic(&world.topic, 1).await;
    let ended = setup.run_command(&["dlq", "replay", "--plan", plan, "--yes"]).await;
    assert_eq!((ended.code, ended.stdout.contains("left out 2")), (Some(4), true), "{ended:?}");
    assert!(world.kafka.records(&world.topic).await.is_empty());
    assert_eq!(states(&world).await, ["2 open"]);
    let shown = herald(&setup, &["dlq", "show", &id_of(&setup, "1").await]).await.replace(['\n', ' '], "");
    assert!(shown.contains("wascreatedagain"), "{shown}");
}

#[tokio::test]
async fn a_killed_publication_goes_on_where_it_was_and_every_order_is_notified_once() {
    let (world, setup) = refused_orders(World::with_partitions(1).await, 60).await;
    world.gateway.answer(Answer::ok());
    let planned =
        herald_json(&setup, &["dlq", "replay", "--reason", "permanent", "--to-topic", "--rate", "20", "--json"]).await;
    let plan = planned[0]["plan"].as_str().unwrap();
    let _worker = setup.start().await;
    let mut command = setup.spawn_command(&["dlq", "replay", "--plan", plan, "--yes", "--operator", "ana"]);
    wait_until("some are notified", EVENTUALLY, async || {
        let accepted = world.gateway.accepted();
        if accepted >= 10 { Ok(()) } else { Err(accepted.to_string()) }
    })
    .await;
    command.kill().unwrap();
    command.wait().unwrap();
    let taken: Vec<String> = sqlx::query_scalar(
        "SELECT d.order_id FROM replay_letters p JOIN dead_letters d ON d.id = p.dead_letter_id WHERE p.state = 'scheduled'",
    )
    .fetch_all(&world.database.pool)
    .await
    .unwrap();
    let told = refused(&setup, &["dlq", "replay", "--plan", plan, "--yes"]).await;
    assert!(told.contains("r1 is publishing since 20") && told.contains("by ana"), "{told}");
    assert!(refused(&setup, &["dlq", "replays", "resume", "r1"]).await.contains("is publishing since 20"));
    herald(&setup, &["dlq", "replays", "pause", "r1"]).await;
    // What the killed command had taken is free after a minute.
    change(
        &world,
        "UPDATE replay_letters SET scheduled_at = scheduled_at - interval '1 minute' WHERE state = 'scheduled'",
    )
    .await;
    let told = herald(&setup, &["dlq", "replays", "resume", "r1"]).await;
    assert!(told.contains("done"), "{told}");
    in_states(&world, &["60 resolved"]).await;
    let mut copies: BTreeMap<Option<Bytes>, usize> = BTreeMap::new();
    for record in world.kafka.records(&world.topic).await {
        *copies.entry(record.value).or_default() += 1;
    }
    assert_eq!(copies.len(), 60);
    for order in 1..=60_u64 {
        let count = copies[&Some(Bytes::from(orders::created(order).to_string()))];
        // Published and not marked, and so published again: the one honest limit. The ledger makes it one notification.
        assert!(count == 2 || count == 3 && taken.contains(&order.to_string()), "order {order}: {count} copies");
        let mut accepted = world.gateway.requests_for(&order.to_string());
        accepted.retain(crate::support::gateway::Request::is_accepted);
        assert_eq!(accepted.len(), 1, "order {order}");
    }
}

#[tokio::test]
async fn a_topic_that_does_not_answer_pauses_the_publication_and_loses_nothing() {
    let mut broker = Broker::private().await;
    let (world, setup) = refused_orders(World::on((*broker).clone(), 1).await, 40).await;
    let planned =
        herald_json(&setup, &["dlq", "replay", "--reason", "permanent", "--to-topic", "--rate", "8", "--json"]).await;
    let plan = planned[0]["plan"].as_str().unwrap().to_owned();
    let running = tokio::spawn({
        let setup = setup.clone();
        async move { setup.run_command(&["dlq", "replay", "--plan", &plan, "--yes"]).await }
    });
    wait_until("some are published", EVENTUALLY, async || {
        let replay = herald_json(&setup, &["dlq", "replays", "r1", "--json"]).await.remove(0);
        if replay["published"].as_u64() >= Some(4) { Ok(()) } else { Err(replay.to_string()) }
    })
    .await;
    broker.kill().await;
    let ended = running.await.unwrap();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("r1 is paused: herald dlq replays resume r1"), "{ended:?}");
    assert_eq!(states(&world).await, ["40 open"]);
    broker.restart().await;
    let told = herald(&setup, &["dlq", "replays", "resume", "r1"]).await;
    assert!(told.contains("published 40"), "{told}");
    let records = world.kafka.records(&world.topic).await;
    let copies: std::collections::BTreeSet<_> = records[40..].iter().map(|record| record.value.clone()).collect();
    assert_eq!(copies.len(), 40, "every one is there");
}

pub(super) fn to_topic() -> ReplayWish {
    ReplayWish {
        to: ReplayTo::Topic,
        rate: 100.0,
        canary: 0,
        max_failure_ratio: 0.2,
        override_cap: false,
        reason: String::new(),
    }
}

#[tokio::test]
async fn a_letter_is_taken_by_one_command_only_and_by_another_when_that_one_died() {
    let office = Office::with_letters(6).await;
    let ana = office.operator("ana");
    let plan = ana.plan_replay(Selection::of_ids((1..=6).collect()), &to_topic()).await.unwrap().replay.id;
    office.database.execute("UPDATE replays SET state = 'publishing', started_at = now()").await;
    let postgres = &office.database.postgres;
    let (first, second) = tokio::join!(postgres.take_to_publish(plan, 3), postgres.take_to_publish(plan, 6));
    let taken = [first.unwrap(), second.unwrap()].concat();
    let mut places: Vec<i32> = taken.iter().map(|letter| letter.taking.place).collect();
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{places:?}");
    let rest = postgres.take_to_publish(plan, 6).await.unwrap();
    places.extend(rest.iter().map(|letter| letter.taking.place));
    places.sort_unstable();
    assert_eq!(places, [1, 2, 3, 4, 5, 6]);
    assert_eq!(office.state("1").await, "replaying", "nobody else may have it meanwhile");

    let first = taken.iter().chain(&rest).find(|letter| letter.taking.place == 1).unwrap().taking;
    postgres.end_publishing(plan, &[(first, Publication::GivenBack)]).await.unwrap();
    assert_eq!(office.state("1").await, "open");
    let again = postgres.take_to_publish(plan, 6).await.unwrap();
    assert_eq!(again.iter().map(|letter| letter.taking.place).collect::<Vec<_>>(), [1]);
    office
        .database
        .execute("UPDATE replay_letters SET scheduled_at = now() - interval '61 seconds' WHERE place = 2")
        .await;
    let lost = postgres.take_to_publish(plan, 6).await.unwrap();
    assert_eq!(lost.iter().map(|letter| letter.taking.place).collect::<Vec<_>>(), [2]);

    // Cancelled while a command that is gone has them.
    ana.cancel_replay(plan).await.unwrap();
    assert!(postgres.has_cancelled_letters().await.unwrap());
    office.database.execute("UPDATE replay_letters SET scheduled_at = now() - interval '61 seconds'").await;
    postgres.take_back_cancelled().await.unwrap();
    assert!(!postgres.has_cancelled_letters().await.unwrap());
    let open = office.database.look("SELECT count(*)::text FROM dead_letters WHERE state = 'open'").await;
    assert_eq!(open, "6");
}

#[tokio::test]
async fn a_letter_that_a_worker_notified_before_its_acknowledgement_came_stays_resolved() {
    let office = Office::with_letters(2).await;
    let ana = office.operator("ana");
    let plan = ana.plan_replay(Selection::of_ids(vec![1, 2]), &to_topic()).await.unwrap().replay.id;
    office.database.execute("UPDATE replays SET state = 'publishing', started_at = now()").await;
    let postgres = &office.database.postgres;
    let taken = postgres.take_to_publish(plan, 2).await.unwrap();
    let epoch = office.database.raise(0).await;
    for number in [1, 2] {
        let copy = at(0, 10 + number);
        let order_id = number.to_string();
        office.database.claim_one(claim(&order_id, copy, epoch)).await.unwrap();
        postgres.done(&[settlement(&order_id, copy, epoch)]).await.unwrap();
    }
    // One acknowledgement comes late, the other one not at all.
    let ends = [(taken[0].taking, Publication::Published(at(0, 11))), (taken[1].taking, Publication::GivenBack)];
    postgres.end_publishing(plan, &ends).await.unwrap();
    let progress = ana.replay(plan).await.unwrap().progress;
    assert_eq!((progress.published, progress.notified, progress.planned), (1, 1, 0));
    for order in ["1", "2"] {
        assert_eq!(office.state(order).await, "resolved");
    }
    assert_eq!(office.database.look("SELECT string_agg(replays::text, ' ') FROM dead_letters").await, "1 1");
}

#[tokio::test]
async fn a_plan_for_the_topic_is_not_for_the_workers_nor_the_other_way_round() {
    let office = Office::with_letters(2).await;
    let ana = office.operator("ana");
    let of_topic = ana.plan_replay(Selection::of_ids(vec![1]), &to_topic()).await.unwrap().replay.id;
    let of_workers = ReplayWish { to: ReplayTo::Workers, ..to_topic() };
    let of_workers = ana.plan_replay(Selection::of_ids(vec![2]), &of_workers).await.unwrap().replay.id;
    let Err(OperationError::Refused(why)) = ana.execute_plan(of_topic).await else { panic!("the workers have it") };
    assert!(why.contains("a plan for the topic"), "{why}");
    let Err(OperationError::Refused(why)) = ana.begin_publishing(of_workers, &[]).await else { panic!("published") };
    assert!(why.contains("a plan for the workers"), "{why}");
    let with_canary = ReplayWish { canary: 1, ..to_topic() };
    let Err(OperationError::Refused(why)) = ana.plan_replay(Selection::of_ids(vec![1]), &with_canary).await else {
        panic!("planned")
    };
    assert!(why.contains("has no canary"), "{why}");
    let refusals = office.database.look("SELECT count(*)::text FROM operator_audit WHERE result = 'refused'").await;
    assert_eq!(refusals, "3");
}
