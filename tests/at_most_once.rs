//! `notification.semantics = "at_most_once"`: what may have had its effect is never repeated, and an operator decides.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::gateway::{Answer, Request};
use crate::support::wait::{EVENTUALLY, equal, wait_until};
use crate::support::worker::WorkerSetup;
use crate::support::{World, orders};

fn setup(world: &World) -> WorkerSetup {
    world
        .worker()
        .with("HERALD_NOTIFICATION__SEMANTICS", "at_most_once")
        .with("HERALD_KAFKA__INSTANCE_ID", "one")
        .with("HERALD_KAFKA__SESSION_TIMEOUT", "6s")
}

fn names(order_ids: impl IntoIterator<Item = u64>) -> BTreeSet<String> {
    order_ids.into_iter().map(|order_id| order_id.to_string()).collect()
}

/// Orders by how often the gateway was asked for them.
fn asked(world: &World, times: usize) -> BTreeSet<String> {
    let requests = world.gateway.requests();
    let ids: BTreeSet<String> = requests.iter().map(Request::order_id).collect();
    ids.into_iter().filter(|id| requests.iter().filter(|request| request.order_id() == *id).count() == times).collect()
}

#[tokio::test]
async fn an_order_without_an_answer_is_uncertain_one_that_was_answered_is_tried_again_and_all_others_are_notified() {
    let mut world = World::with_partitions(2).await;
    world.gateway.answer_order("3", [Answer::Hang]);
    world.gateway.answer_order("4", [Answer::Reset]);
    world.gateway.answer_order("5", [Answer::status(503)]);
    world.produce(&(0..100).map(orders::created).collect::<Vec<_>>()).await;
    let worker = setup(&world).with("HERALD_WEBHOOK__TIMEOUT", "1s").start().await;
    world.all_committed().await;
    let letters = world.buried(2).await;
    let reasons: BTreeSet<_> =
        letters.iter().map(|letter| (&*letter.reason, &*letter.class, letter.attempts)).collect();
    assert_eq!(reasons, BTreeSet::from([("uncertain", "unknown", 1)]));
    assert_eq!(world.orders_in_state("u").await, names([3, 4]));
    assert_eq!(world.orders_in_state("d").await.len(), 98);
    assert_eq!(asked(&world, 2), names([5]));
    assert_eq!(asked(&world, 1).len(), 99);
    assert_eq!(world.published(2).await.len(), 2);
    worker.wait_for_metric("herald_dead_letters_total", &[("reason", "uncertain")], 2.0).await;

    // Produced again: only an operator may decide.
    world.produce(&[orders::created(3), orders::created(200)]).await;
    world.all_committed().await;
    assert_eq!(world.gateway.requests_for("3").len(), 1);
    assert_eq!(world.gateway.requests_for("200").len(), 1);
    worker.assert_accounting_closes().await;
}

#[tokio::test]
async fn what_was_on_its_way_when_the_worker_was_killed_is_uncertain_and_all_else_is_notified_once() {
    let mut world = World::with_partitions(1).await;
    let on_their_way = [10, 11, 12, 13];
    for order_id in on_their_way {
        world.gateway.always_answer_order(&order_id.to_string(), Answer::Hang);
    }
    world.produce(&(0..50).map(orders::created).collect::<Vec<_>>()).await;
    let setup = setup(&world).with("HERALD_WEBHOOK__TIMEOUT", "2m").with("HERALD_DELIVERY__MAX_CONCURRENT", "4");
    let mut worker = setup.spawn();
    wait_until("nothing else can start", EVENTUALLY, async || {
        let requests = world.gateway.requests();
        let unanswered: BTreeSet<String> =
            requests.iter().filter(|request| request.answered.is_none()).map(Request::order_id).collect();
        equal(unanswered, &names(on_their_way))
    })
    .await;
    // Until then it would be uncertain too.
    world.done(&asked(&world, 1).difference(&names(on_their_way)).cloned().collect()).await;
    worker.kill9().await;
    let worker = setup.start().await;
    world.all_committed().await;
    let letters = world.buried(on_their_way.len()).await;
    assert!(letters.iter().all(|letter| letter.reason == "uncertain"), "{letters:?}");
    assert_eq!(world.orders_in_state("u").await, names(on_their_way));
    assert_eq!(asked(&world, 1), names(0..50), "no order is asked for twice");
    worker.assert_accounting_closes().await;
}

#[tokio::test]
async fn while_the_gateway_hangs_each_order_it_is_asked_for_is_uncertain_and_few_are_asked_for() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    const MAX_CONCURRENT: usize = 8;
    const FAILING_KEYS: usize = 10;
    let mut world = World::with_partitions(2).await;
    world.gateway.answer(Answer::Hang);
    world.produce(&(0..200).map(orders::created).collect::<Vec<_>>()).await;
    let worker = setup(&world)
        .with("HERALD_WEBHOOK__TIMEOUT", &format!("{}s", TIMEOUT.as_secs()))
        .with("HERALD_DELIVERY__MAX_CONCURRENT", &MAX_CONCURRENT.to_string())
        .with("HERALD_BREAKER__FAILING_KEYS", &FAILING_KEYS.to_string())
        .with("HERALD_BREAKER__INITIAL_WAIT", "100ms")
        .with("HERALD_BREAKER__MAX_WAIT", "200ms")
        .start()
        .await;
    worker.wait_unready("breaker").await;
    let buried = world.buried(1).await.len();
    // Nobody knows of the probes either.
    world.buried(buried + 3).await;
    world.gateway.answer(Answer::ok());
    world.all_committed().await;
    let uncertain = world.orders_in_state("u").await;
    let letters = world.buried(uncertain.len()).await;
    assert!(letters.iter().all(|letter| letter.reason == "uncertain"), "{letters:?}");
    assert_eq!(letters.len(), uncertain.len());
    assert_eq!(asked(&world, 1), names(0..200), "no order is asked for twice");
    assert_eq!(world.gateway.accepted(), 200 - uncertain.len());
    // Those that had failed when the breaker opened, those that were on their way then, and one at a time since.
    let requests = world.gateway.requests();
    let hung = || requests.iter().filter(|request| request.answered.is_none()).map(|request| request.received);
    let within = hung().max().unwrap().duration_since(hung().min().unwrap());
    let probes = usize::try_from(within.as_secs() / TIMEOUT.as_secs()).unwrap();
    let bound = FAILING_KEYS + (MAX_CONCURRENT - 1) + probes;
    assert!(uncertain.len() <= bound, "{} of 200, within {within:?}", uncertain.len());
    worker.assert_accounting_closes().await;
}
