//! What `dead_letters.mask` hides is seen nowhere, but by who asks for it and is written down.

use bytes::Bytes;
use herald::core::record::Header;
use serde_json::json;

use super::{herald, herald_json, refused};
use crate::support::World;
use crate::support::gateway::Answer;
use crate::support::kafka::NewRecord;
use crate::support::worker::WorkerSetup;

const SECRETS: [&str; 3] = ["ana@example.org", "ANA@EXAMPLE.ORG", "4111-1111"];

/// An order whose payload, key and header hold what is masked.
fn order(order_id: u64) -> NewRecord {
    let event = json!({
        "event_type": "ORDER_CREATED",
        "order": {
            "order_id": order_id, "user_id": 7, "product_id": 3, "quantity": 2, "status": "CREATED",
            "contact": {"email": "ana@example.org", "phones": [{"number": "4111-1111"}]},
        },
        "timestamp": "N/A", "request_id": "N/A",
    });
    let header = |name: &'static [u8], value: &'static [u8]| Header {
        name: Bytes::from_static(name),
        value: Some(Bytes::from_static(value)),
    };
    NewRecord {
        key: Some(Bytes::from_static(b"ana@example.org")),
        headers: vec![header(b"tenant", b"acme"), header(b"reply-to", b"\x00ana@example.org")],
        ..NewRecord::of(event.to_string()).in_partition(0)
    }
}

/// All that a command prints.
async fn printed(setup: &WorkerSetup, arguments: &[&str]) -> String {
    let ended = setup.run_command(arguments).await;
    assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
    ended.stdout + &ended.stderr
}

#[tokio::test]
async fn no_command_shows_what_is_masked_wherever_the_gateway_or_the_producer_repeats_it() {
    let world = World::with_partitions(1).await;
    let told = "no account for ANA@EXAMPLE.ORG, phone 4111-1111";
    world.gateway.answer(Answer::status(422).with_body(told));
    world.gateway.always_answer_order("2", Answer::status(503).with_body(told).retry_after("600"));
    world.kafka.produce(&world.topic, vec![order(1), order(2)]).await;
    let setup = world.worker().with("HERALD_DEAD_LETTERS__MASK", "order.contact.email, phones");
    let worker = setup.start().await;
    world.buried(1).await;
    worker.wait_for_metric("herald_parked_records", &[("kind", "retry")], 1.0).await;
    // Even the replay that fails again.
    let ended = setup.run_command(&["dlq", "replay", "1", "--wait", "--why", "again"]).await;
    assert_eq!(ended.code, Some(4), "{ended:?}");

    for arguments in [
        &["dlq", "groups"][..],
        &["dlq", "groups", "--json"],
        &["dlq", "list"],
        &["dlq", "list", "--json"],
        &["dlq", "show", "1"],
        &["dlq", "show", "1", "--json"],
        &["dlq", "export"],
        &["order", "1"],
        &["order", "1", "--json"],
        &["order", "2"],
        &["order", "2", "--json"],
        &["dlq", "replay", "--order", "1"],
        &["dlq", "replays"],
        &["dlq", "replays", "--json"],
        &["dlq", "audit", "--json"],
    ] {
        let text = printed(&setup, arguments).await;
        let seen: Vec<_> = SECRETS.iter().filter(|secret| text.contains(**secret)).collect();
        assert!(seen.is_empty(), "{arguments:?} shows {seen:?}: {text}");
    }
    let shown = herald_json(&setup, &["dlq", "show", "1", "--json"]).await.remove(0);
    assert_eq!(shown["payload"]["order"]["contact"], json!({"email": "***", "phones": "***"}));
    assert_eq!(shown["payload"]["order"]["quantity"], 2);
    assert_eq!(shown["key"], "***");
    assert_eq!(shown["headers"], json!([{"name": "tenant", "value": "acme"}, {"name": "reply-to", "value": "***"}]));
    assert_eq!(shown["history"].as_array().unwrap().len(), 2);
    assert!(shown["error"].as_str().unwrap().contains("no account for ***, phone ***"), "{shown}");
    assert!(printed(&setup, &["order", "2"]).await.contains("no account for ***"), "a parked one");

    for arguments in [&["dlq", "show", "1", "--unmask"][..], &["dlq", "export", "--unmask", "--operator", "ana"]] {
        let text = printed(&setup, arguments).await.replace(&format!("\n{}", " ".repeat(10)), "");
        assert!(SECRETS.iter().all(|secret| text.contains(secret)), "{arguments:?}: {text}");
    }
    let audit = herald_json(&setup, &["dlq", "audit", "--json"]).await;
    let unmasked: Vec<_> = audit.iter().filter(|row| row["action"] == "unmask").collect();
    assert_eq!((unmasked.len(), &unmasked[0]["operator"]), (2, &json!("ana")));
}

#[tokio::test]
async fn nobody_finds_what_is_masked_by_looking_for_it() {
    let world = World::with_partitions(1).await;
    world.gateway.answer(Answer::status(422));
    world.kafka.produce(&world.topic, vec![order(1)]).await;
    let open = world.worker();
    let _worker = open.start().await;
    world.buried(1).await;
    let look = ["--text", "ana@example.org"];
    assert_eq!(herald_json(&open, &[&["dlq", "list", "--json"], &look[..]].concat()).await.len(), 1);
    let setup = open.with("HERALD_DEAD_LETTERS__MASK", "email");
    for command in [
        &["dlq", "list"][..],
        &["dlq", "groups"],
        &["dlq", "export"],
        &["dlq", "replay"],
        &["dlq", "discard", "--why", "obsolete"],
        &["dlq", "restore"],
    ] {
        let why = refused(&setup, &[command, &look].concat()).await;
        assert!(why.contains("--text would find what it hides"), "{command:?}: {why}");
    }
    let audit = herald(&setup, &["dlq", "audit", "--json"]).await;
    assert!(!audit.contains("ana@example.org"), "{audit}");
    assert_eq!(audit.lines().count(), 6);
    let found = herald(&setup, &[&["dlq", "export", "--unmask"], &look[..]].concat()).await;
    assert!(found.contains("ana@example.org"), "{found}");
}
