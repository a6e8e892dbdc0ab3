//! Spans, as an OTLP endpoint receives them.

use std::time::Duration;

use bytes::Bytes;
use herald::core::record::Header;
use serde_json::Value;

use crate::support::collector::Collector;
use crate::support::gateway::{Answer, Request};
use crate::support::kafka::NewRecord;
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::{World, orders};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PRODUCER_SPAN: &str = "00f067aa0ba902b7";
const CLIENT: u64 = 3;
const PRODUCER: u64 = 4;
const CONSUMER: u64 = 5;

fn traced(order_id: u64, traceparent: &str) -> NewRecord {
    let value = Some(Bytes::copy_from_slice(traceparent.as_bytes()));
    NewRecord {
        headers: vec![Header { name: Bytes::from_static(b"traceparent"), value }],
        ..orders::record(&orders::created(order_id)).in_partition(0)
    }
}

fn traceparent(request: &Request) -> &str {
    request.header("traceparent").unwrap()
}

fn of_trace<'a>(spans: &'a [Value], trace: &str, kind: u64) -> Vec<&'a Value> {
    spans.iter().filter(|span| span["trace_id"] == trace && span["kind"] == kind).collect()
}

#[tokio::test]
async fn a_record_its_attempts_and_its_dead_letter_are_in_its_producers_trace() {
    let world = World::with_partitions(1).await;
    let collector = Collector::start().await;
    world.gateway.answer_order("1", [Answer::status(500).with_body("busy")]);
    world.gateway.always_answer_order("3", Answer::status(422));
    let mut worker = world
        .worker()
        .with("HERALD_TELEMETRY__OTLP_ENDPOINT", &collector.endpoint)
        .with("HERALD_RETRY__INITIAL_BACKOFF", "10ms")
        .start()
        .await;
    let sampled = format!("00-{TRACE}-{PRODUCER_SPAN}-01");
    let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let untraced = orders::record(&orders::created(3)).in_partition(0);
    world.kafka.produce(&world.topic, vec![traced(1, &sampled), traced(2, unsampled), untraced]).await;
    world.all_committed().await;
    world.published(1).await;
    worker.wait_for_metric("herald_dead_letters_published_total", &[], 1.0).await;
    worker.sigterm();
    assert_eq!(worker.wait_exit(Duration::from_secs(30)).await, 0, "{}", worker.log());

    let spans = collector.spans();
    let [record] = of_trace(&spans, TRACE, CONSUMER)[..] else { panic!("{spans:#?}") };
    assert_eq!(record["parent_span_id"], PRODUCER_SPAN);
    assert_eq!(record["links"], serde_json::json!([format!("{TRACE}-{PRODUCER_SPAN}")]));
    assert_eq!(record["attributes"]["herald.outcome"], "notified");
    assert_eq!(record["attributes"]["herald.order_id"], "1");
    assert_eq!(record["attributes"]["messaging.kafka.offset"], 0);
    assert_eq!(record["resource"]["service.name"], "herald");

    let attempts = of_trace(&spans, TRACE, CLIENT);
    assert_eq!(attempts.len(), 2, "{spans:#?}");
    for (attempt, request) in attempts.iter().zip(world.gateway.requests_for("1")) {
        assert_eq!(attempt["parent_span_id"], record["span_id"]);
        let sent = format!("00-{TRACE}-{}-01", attempt["span_id"].as_str().unwrap());
        assert_eq!(traceparent(&request), sent, "the gateway's spans hang below the attempt");
        assert!(attempt["nanoseconds"].as_u64() <= record["nanoseconds"].as_u64());
    }
    assert!(attempts[0]["error"].as_str().unwrap().contains("busy"), "{attempts:#?}");
    assert_eq!(attempts[1]["error"], "");

    let unsampled_trace = "0af7651916cd43dd8448eb211c80319c";
    assert!(spans.iter().all(|span| span["trace_id"] != unsampled_trace), "{spans:#?}");
    assert!(traceparent(&world.gateway.requests_for("2")[0]).starts_with(&format!("00-{unsampled_trace}-")));
    assert!(traceparent(&world.gateway.requests_for("2")[0]).ends_with("-00"));

    let dead = spans.iter().find(|span| span["attributes"]["herald.outcome"] == "dead_lettered").unwrap();
    let own_trace = dead["trace_id"].as_str().unwrap();
    let [published] = of_trace(&spans, own_trace, PRODUCER)[..] else { panic!("{spans:#?}") };
    assert_eq!(published["attributes"]["herald.dead_letter.reason"], "permanent");
    assert_eq!(published["attributes"]["messaging.destination.name"], world.dlq_topic);
    assert!(worker.log().contains(&format!(r#""trace_id":"{TRACE}""#)), "{}", worker.log());
    assert!(worker.log().contains(&format!(r#""trace_id":"{own_trace}""#)), "{}", worker.log());
}

#[tokio::test]
async fn a_replay_is_in_its_producers_trace_and_linked_to_the_dead_letter_whichever_worker_does_it() {
    let world = World::with_partitions(1).await;
    let collector = Collector::start().await;
    world.gateway.answer(Answer::status(422).with_body("too many"));
    let setup = world.worker().with("HERALD_TELEMETRY__OTLP_ENDPOINT", &collector.endpoint);
    let mut first = setup.start().await;
    let sampled = format!("00-{TRACE}-{PRODUCER_SPAN}-01");
    let untraced = orders::record(&orders::created(2)).in_partition(0);
    world.kafka.produce(&world.topic, vec![traced(1, &sampled), untraced]).await;
    world.published(2).await;
    first.wait_for_metric("herald_dead_letters_published_total", &[], 2.0).await;
    first.sigterm();
    assert_eq!(first.wait_exit(EVENTUALLY).await, 0, "{}", first.log());

    let mut second = setup.start().await;
    let replay = async |result: &str, count: f64| {
        let planned = setup.run_command(&["dlq", "replay", "--reason", "permanent", "--json"]).await;
        let plan: Value = serde_json::from_str(&planned.stdout).unwrap();
        let replayed = setup.run_command(&["dlq", "replay", "--plan", plan["plan"].as_str().unwrap(), "--wait"]).await;
        assert!(matches!(replayed.code, Some(0 | 4)), "{replayed:?}");
        second.wait_for_metric("herald_replays_total", &[("result", result)], count).await;
    };
    replay("dead_lettered", 2.0).await;
    second.wait_for_metric("herald_dead_letters_published_total", &[], 2.0).await;
    world.gateway.answer(Answer::ok());
    replay("notified", 2.0).await;
    second.sigterm();
    assert_eq!(second.wait_exit(EVENTUALLY).await, 0, "{}", second.log());

    let spans = collector.spans();
    let mut traces: Vec<&str> = spans.iter().filter_map(|span| span["trace_id"].as_str()).collect();
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 2, "one trace for each record, over both workers: {spans:#?}");
    for trace in traces {
        let [letter, again] = of_trace(&spans, trace, PRODUCER)[..] else { panic!("{spans:#?}") };
        let origin = (trace == TRACE).then(|| format!("{TRACE}-{PRODUCER_SPAN}"));
        let links: Vec<String> =
            origin.into_iter().chain([format!("{trace}-{}", letter["span_id"].as_str().unwrap())]).collect();
        let links = serde_json::json!(links);
        let replays: Vec<_> = of_trace(&spans, trace, CONSUMER)
            .into_iter()
            .filter(|span| span["name"] == format!("process replayed {}", world.topic))
            .collect();
        let outcomes: Vec<_> = replays.iter().map(|span| &span["attributes"]["herald.outcome"]).collect();
        assert_eq!(outcomes, ["dead_lettered", "notified"]);
        assert!(replays.iter().all(|span| span["links"] == links), "{replays:#?} are not linked to {letter}");
        assert_eq!(again["links"], links, "what is published after a failed replay is linked to the first");
        let attempts = of_trace(&spans, trace, CLIENT);
        assert!(attempts.iter().any(|attempt| attempt["parent_span_id"] == replays[1]["span_id"]), "{attempts:#?}");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nothing_up() {
    let mut world = World::with_partitions(1).await;
    let mut worker = world.worker().with("HERALD_TELEMETRY__OTLP_ENDPOINT", "http://127.0.0.1:9").start().await;
    let events: Vec<Value> = (0..200).map(orders::created).collect();
    world.produce(&events).await;
    world.all_committed().await;
    worker.sigterm();
    assert_eq!(worker.wait_exit(Duration::from_secs(30)).await, 0, "{}", worker.log());
    assert!(world.verdict().is_clean(), "{:?}", world.verdict());
}

#[tokio::test]
async fn without_a_collector_the_producers_trace_is_passed_on_as_it_came() {
    let world = World::with_partitions(1).await;
    let _worker = world.worker().start().await;
    let sampled = format!("00-{TRACE}-{PRODUCER_SPAN}-01");
    world.kafka.produce(&world.topic, vec![traced(1, &sampled), traced(2, "00-not-a-trace")]).await;
    wait_until("both are notified", EVENTUALLY, async || {
        let accepted = world.gateway.accepted();
        if accepted == 2 { Ok(()) } else { Err(format!("{accepted} of 2")) }
    })
    .await;
    assert_eq!(traceparent(&world.gateway.requests_for("1")[0]), sampled);
    assert_eq!(world.gateway.requests_for("2")[0].header("traceparent"), None);
}
