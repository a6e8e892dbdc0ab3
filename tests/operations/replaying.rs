//! Dead letters are processed again, by the workers.

use std::time::Duration;

use serde_json::Value;

use super::{herald, herald_json, refused};
use crate::support::gateway::Answer;
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::worker::{Worker, WorkerSetup};
use crate::support::{World, orders};

/// A world whose gateway has refused so many orders for good, and its running worker.
async fn refused_orders(count: u64) -> (World, WorkerSetup, Worker) {
    let mut world = World::with_partitions(2).await;
    world.gateway.answer(Answer::status(422).with_body("quantity must be below 100"));
    let events: Vec<_> = (1..=count).map(orders::created).collect();
    world.produce_evenly(&events).await;
    let setup = world.worker().with("HERALD_RETRY__INITIAL_BACKOFF", "10ms");
    let worker = setup.start().await;
    world.buried(usize::try_from(count).unwrap()).await;
    (world, setup, worker)
}

async fn column(world: &World, statement: &'static str) -> Vec<String> {
    sqlx::query_scalar(statement).fetch_all(&world.database.pool).await.unwrap()
}

async fn states(world: &World) -> Vec<String> {
    column(world, "SELECT concat(count(*), ' ', state) FROM dead_letters GROUP BY state ORDER BY state").await
}

async fn change(world: &World, statement: &'static str) {
    sqlx::query(statement).execute(&world.database.pool).await.unwrap();
}

/// Plans all that is permanent, and gives the plan's id.
async fn plan(setup: &WorkerSetup, more: &[&str]) -> String {
    let arguments = [&["dlq", "replay", "--reason", "permanent", "--json"][..], more].concat();
    let told = herald_json(setup, &arguments).await;
    told[0]["plan"].as_str().unwrap().to_owned()
}

async fn replay(setup: &WorkerSetup, id: &str) -> Value {
    herald_json(setup, &["dlq", "replays", &id.replace('p', "r"), "--json"]).await.remove(0)
}

async fn in_state(setup: &WorkerSetup, id: &str, state: &str) -> Value {
    wait_until(&format!("replay {id} is {state}"), EVENTUALLY, async || {
        let replay = replay(setup, id).await;
        if replay["state"] == state { Ok(replay) } else { Err(replay.to_string()) }
    })
    .await
}

#[tokio::test]
async fn a_plan_is_frozen_and_executed_and_every_order_is_notified_once() {
    let (world, setup, worker) = refused_orders(30).await;
    let text = herald(&setup, &["dlq", "replay", "--reason", "permanent", "--rate", "100", "--canary", "5"]).await;
    for expected in [
        "30 dead letters frozen",
        "would be processed        30",
        "canary 5",
        "run it:  herald dlq replay --plan p1 --wait",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    world.gateway.answer(Answer::ok());
    let ended = herald_json(
        &setup,
        &["dlq", "replay", "--plan", "p1", "--wait", "--json", "--operator", "ana", "--why", "fixed"],
    )
    .await;
    assert_eq!(
        (&ended[0]["state"], &ended[0]["notified"], &ended[0]["to_do"]),
        (&"done".into(), &30.into(), &0.into())
    );
    assert_eq!(world.gateway.accepted(), 30);
    assert_eq!(states(&world).await, ["30 resolved"]);
    assert_eq!(world.orders_in_state("d").await.len(), 30);
    assert_eq!(column(&world, "SELECT order_id FROM parked_events").await, Vec::<String>::new());
    worker.wait_for_metric("herald_replays_total", &[("result", "notified")], 30.0).await;
    worker.assert_accounting_closes().await;
    let audit = herald_json(&setup, &["dlq", "audit", "--json"]).await;
    assert_eq!(
        (&audit[0]["operator"], &audit[0]["action"], &audit[0]["letters"]),
        (&"ana".into(), &"replay".into(), &30.into())
    );
    let path = herald_json(&setup, &["order", "7", "--json"]).await;
    let told: Vec<String> = path.iter().map(|step| format!("{}: {}", step["what"], step["detail"])).collect();
    let place = |text: &str| told.iter().position(|step| step.replace('"', "").starts_with(text));
    let (begun, notified) = (place("replay r1: by ana"), place("notified"));
    assert!(begun.is_some() && begun < notified && place("replay r1: ended, notified").is_some(), "{told:?}");
    let id = column(&world, "SELECT id::text FROM dead_letters WHERE order_id = '7'").await.remove(0);
    let shown = herald(&setup, &["dlq", "show", &id]).await;
    assert!(shown.contains("replay    r1  20") && shown.contains(" by ana, notified"), "{shown}");
}

#[tokio::test]
async fn a_single_one_is_replayed_at_once_and_an_order_that_was_notified_meanwhile_ends_as_duplicate() {
    let (world, setup, _worker) = refused_orders(2).await;
    world.gateway.answer(Answer::ok());
    let listed = herald_json(&setup, &["dlq", "list", "--order", "1", "--json"]).await;
    let id = listed[0]["id"].to_string();
    assert!(herald(&setup, &["dlq", "replay", &id, "--wait"]).await.contains("notified 1"));
    let plan = plan(&setup, &[]).await;
    change(&world, "UPDATE processed_orders SET state = 'd' WHERE order_id = '2'").await;
    herald(&setup, &["dlq", "replay", "--plan", &plan]).await;
    let ended = in_state(&setup, &plan, "done").await;
    assert_eq!((&ended["notified"], &ended["duplicate"]), (&0.into(), &1.into()));
    assert_eq!((world.gateway.accepted(), world.gateway.requests_for("2").len()), (1, 1));
    assert_eq!(states(&world).await, ["2 resolved"]);
}

#[tokio::test]
async fn what_fails_again_is_the_same_dead_letter_with_both_errors_and_over_the_cap_it_is_quarantined() {
    let (world, setup, _worker) = refused_orders(1).await;
    let setup = setup.with("HERALD_DEAD_LETTERS__REPLAY_CAP", "2");
    let id = column(&world, "SELECT id::text FROM dead_letters").await.remove(0);
    for (answer, expected) in [("no such product", "1 open"), ("no such user", "1 quarantined")] {
        world.gateway.answer(Answer::status(422).with_body(answer));
        let ended = setup.run_command(&["dlq", "replay", &id, "--wait"]).await;
        assert_eq!(ended.code, Some(4), "{ended:?}");
        assert_eq!(states(&world).await, [expected]);
    }
    let shown = herald_json(&setup, &["dlq", "show", &id, "--json"]).await;
    let errors: Vec<String> =
        shown[0]["history"].as_array().unwrap().iter().map(|attempt| attempt["error"].to_string()).collect();
    assert_eq!((errors.len(), &shown[0]["replays"]), (3, &2.into()));
    for (error, expected) in errors.iter().zip(["below 100", "no such product", "no such user"]) {
        assert!(error.contains(expected), "{error}");
    }
    assert!(refused(&setup, &["dlq", "replay", &id]).await.contains("--override-cap"));
    world.gateway.answer(Answer::ok());
    herald(&setup, &["dlq", "replay", &id, "--override-cap", "--wait"]).await;
    assert_eq!(states(&world).await, ["1 resolved"]);
}

#[tokio::test]
async fn an_empty_filter_a_stale_plan_a_letter_being_replayed_and_a_pruned_one_are_refused() {
    let (world, setup, worker) = refused_orders(3).await;
    drop(worker);
    assert!(refused(&setup, &["dlq", "replay"]).await.contains("an empty filter"));
    assert!(refused(&setup, &["dlq", "replay", "--plan", "p99"]).await.contains("there is no plan p99"));
    let stale = plan(&setup, &[]).await;
    change(&world, "UPDATE replays SET valid_until = now()").await;
    assert!(refused(&setup, &["dlq", "replay", "--plan", &stale]).await.contains("stale"));
    change(&world, "UPDATE dead_letters SET state = 'replaying', run_id = 1 WHERE order_id = '1'").await;
    change(&world, "UPDATE replays SET state = 'running', started_at = now(), started_by = 'ben'").await;
    change(&world, "DELETE FROM processed_orders WHERE order_id = '2'").await;
    let id = async |order: &str| {
        herald_json(&setup, &["dlq", "list", "--order", order, "--json"]).await[0]["id"].to_string()
    };
    assert!(refused(&setup, &["dlq", "replay", &id("1").await]).await.contains("r1 by ben since 20"));
    assert!(refused(&setup, &["dlq", "replay", &id("2").await]).await.contains("was pruned"));
    let told = herald_json(&setup, &["dlq", "replay", "--reason", "permanent", "--json"]).await;
    let counts =
        ["would_be_processed", "being_replayed", "pruned"].map(|name| told[0]["prospects"][name].as_u64().unwrap());
    assert_eq!((counts, &told[0]["letters"]), ([1, 1, 1], &1.into()));
    let read_only = setup.clone().with("HERALD_DEAD_LETTERS__READ_ONLY", "true");
    assert!(refused(&read_only, &["dlq", "replay", &id("3").await]).await.contains("read_only"));
    assert!(refused(&read_only, &["dlq", "replays", "cancel", "r1"]).await.contains("read_only"));
    let audit = herald_json(&setup, &["dlq", "audit", "--json"]).await;
    let ended = |result: &str| audit.iter().filter(|row| row["result"] == result).count();
    assert_eq!((ended("refused"), ended("conflict")), (5, 1), "{audit:?}");
}

#[tokio::test]
async fn a_canary_that_fails_stops_the_replay_and_the_rest_is_not_touched() {
    let (world, setup, _worker) = refused_orders(40).await;
    let plan = plan(&setup, &["--canary", "5", "--rate", "500"]).await;
    let before = world.gateway.requests().len();
    herald(&setup, &["dlq", "replay", "--plan", &plan]).await;
    let stopped = in_state(&setup, &plan, "stopped").await;
    assert_eq!((&stopped["dead_again"], &stopped["to_do"]), (&5.into(), &35.into()));
    assert_eq!(world.gateway.requests().len() - before, 5);
    assert!(refused(&setup, &["dlq", "replays", "resume", &plan]).await.contains("--max-failure-ratio"));
    world.gateway.answer(Answer::ok());
    herald(&setup, &["dlq", "replays", "resume", &plan, "--max-failure-ratio", "100%"]).await;
    let done = in_state(&setup, &plan, "done").await;
    assert_eq!((&done["notified"], &done["dead_again"]), (&35.into(), &5.into()));
    assert_eq!(states(&world).await, ["5 open", "35 resolved"]);
}

#[tokio::test]
async fn a_replay_is_paused_resumed_and_cancelled_and_what_was_not_begun_is_open_again() {
    let (world, setup, _worker) = refused_orders(60).await;
    world.gateway.answer(Answer::ok());
    let plan = plan(&setup, &["--rate", "8"]).await;
    herald(&setup, &["dlq", "replay", "--plan", &plan]).await;
    wait_until("some are notified", EVENTUALLY, async || {
        let accepted = world.gateway.accepted();
        if accepted >= 5 { Ok(()) } else { Err(accepted.to_string()) }
    })
    .await;
    herald(&setup, &["dlq", "replays", "pause", &plan]).await;
    // Letters are due for longer than workers take to look, and nobody begins them.
    let waiting = "SELECT concat(count(*) FILTER (WHERE loaded_at IS NOT NULL), ' begun, ',
                          count(*) FILTER (WHERE due_at < now() - interval '2 seconds') > 0) FROM parked_events";
    wait_until("what was begun has ended, and what is due is left alone", EVENTUALLY, async || {
        let seen = column(&world, waiting).await.remove(0);
        if seen == "0 begun, t" { Ok(()) } else { Err(seen) }
    })
    .await;
    let paused = world.gateway.accepted();
    assert!(paused < 60, "{paused}");
    herald(&setup, &["dlq", "replays", "resume", &plan]).await;
    wait_until("it goes on", EVENTUALLY, async || {
        let accepted = world.gateway.accepted();
        if accepted > paused { Ok(()) } else { Err(accepted.to_string()) }
    })
    .await;
    assert!(herald(&setup, &["dlq", "replays", "cancel", &plan]).await.contains("cancelled"));
    let ended = wait_until("all have ended", EVENTUALLY, async || {
        let replay = replay(&setup, &plan).await;
        if replay["to_do"] == 0 { Ok(replay) } else { Err(replay.to_string()) }
    })
    .await;
    let (notified, cancelled) = (ended["notified"].as_u64().unwrap(), ended["cancelled"].as_u64().unwrap());
    assert_eq!(notified + cancelled, 60, "{ended}");
    assert!(cancelled > 0);
    assert_eq!(world.gateway.accepted() as u64, notified);
    assert_eq!(states(&world).await, [format!("{cancelled} open"), format!("{notified} resolved")]);
    assert_eq!(world.orders_in_state("x").await.len() as u64, cancelled);
    assert!(refused(&setup, &["dlq", "replays", "resume", &plan]).await.contains("is cancelled since 20"));
    let again = herald_json(&setup, &["dlq", "replay", "--reason", "permanent", "--json"]).await;
    assert_eq!(again[0]["letters"], cancelled, "they can be planned again");
}

#[tokio::test]
async fn a_replay_survives_kill_9_of_the_command_and_of_the_worker() {
    let (world, setup, mut worker) = refused_orders(150).await;
    world.gateway.answer(Answer::ok().after(Duration::from_millis(30)));
    let plan = plan(&setup, &["--rate", "60"]).await;
    let mut command = setup.spawn_command(&["dlq", "replay", "--plan", &plan, "--wait", "--yes"]);
    let some = async |least: usize| {
        wait_until("some are notified", EVENTUALLY, async || {
            let accepted = world.gateway.accepted();
            if accepted >= least { Ok(()) } else { Err(accepted.to_string()) }
        })
        .await;
    };
    some(10).await;
    command.kill().unwrap();
    command.wait().unwrap();
    some(40).await;
    worker.kill9().await;
    let held = world.orders_in_state("p").await;
    let _worker = setup.start().await;
    let done = in_state(&setup, &plan, "done").await;
    assert_eq!((&done["notified"], &done["left_out"]), (&150.into(), &0.into()));
    assert_eq!(states(&world).await, ["150 resolved"]);
    for order in 1..=150_u64 {
        let mut accepted = world.gateway.requests_for(&order.to_string());
        accepted.retain(crate::support::gateway::Request::is_accepted);
        let keys: std::collections::BTreeSet<_> =
            accepted.iter().filter_map(crate::support::gateway::Request::idempotency_key).collect();
        assert_eq!(keys.len(), 1, "order {order}");
        // What the killed worker had sent and not settled is sent again with the same key: the one honest limit.
        assert!(accepted.len() == 1 || held.contains(&order.to_string()), "order {order}: {}", accepted.len());
    }
}

#[tokio::test]
async fn an_edited_payload_is_checked_and_notified_and_the_original_is_kept() {
    let mut world = World::with_partitions(1).await;
    let broken = r#"{"event_type":"ORDER_CREATED","order":{"order_id":5,"user_id":1,"product_id":1,"quantity":"two","status":"CREATED"}}"#;
    world.kafka.produce(&world.topic, vec![crate::support::kafka::NewRecord::of(broken).in_partition(0)]).await;
    world.produce_in(0, &[orders::created(6)]).await;
    world.gateway.answer(Answer::status(422));
    let setup = world.worker();
    let _worker = setup.start().await;
    world.buried(2).await;
    world.gateway.answer(Answer::ok());
    let ids = column(&world, "SELECT id::text FROM dead_letters ORDER BY koffset").await;
    let setup = setup.with("EDITOR", r#"sed -i 's/"two"/2/'"#);
    assert!(refused(&setup, &["dlq", "replay", &ids[0], "--edit"]).await.contains("dead_letters.edit"));
    let setup = setup.with("HERALD_DEAD_LETTERS__EDIT", "true");
    let to_nothing = setup.clone().with("EDITOR", "sed -i 's/two/three/'");
    assert!(
        refused(&to_nothing, &["dlq", "replay", &ids[0], "--edit"]).await.contains("the edited payload is invalid")
    );
    let to_another = setup.clone().with("EDITOR", r#"sed -i 's/"order_id":6/"order_id":7/'"#);
    assert!(refused(&to_another, &["dlq", "replay", &ids[1], "--edit"]).await.contains("of order 7"));
    let untouched = setup.clone().with("EDITOR", "true");
    assert!(refused(&untouched, &["dlq", "replay", &ids[1], "--edit"]).await.contains("not changed"));

    herald(&setup, &["dlq", "replay", &ids[0], "--edit", "--wait"]).await;
    let sent = world.gateway.requests_for("5");
    assert_eq!((sent.len(), &sent[0].body["order"]["quantity"]), (1, &2.into()));
    let shown = herald(&setup, &["dlq", "show", &ids[0], "--json"]).await;
    assert!(shown.contains(broken), "{shown}");
    assert!(shown.contains(r#""state":"resolved""#), "{shown}");
}
