//! A record that ends its process again and again, and processes that end for reasons of their own.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::support::gateway::Answer;
use crate::support::letters;
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::worker::{Worker, WorkerSetup};
use crate::support::{World, orders};

/// The order whose delivery no process survives.
const DEADLY: &str = "13";
/// Until it is found out, where all before it is committed: an owner that had progress, three whose ends make a crash loop, and two
/// whose starts do not finish.
const DEATHS: usize = 6;

/// Static membership: a worker that died resumes at once.
fn setup(world: &World) -> WorkerSetup {
    world.worker().with("HERALD_KAFKA__INSTANCE_ID", "one").with("HERALD_KAFKA__SESSION_TIMEOUT", "6s")
}

/// The worker dies of the deadly order as soon as it asks for it. Says whether it did so before anything was buried.
async fn dies(world: &World, worker: &mut Worker, deaths: usize) -> bool {
    let is_deadly = wait_until("the deadly order is asked for, or buried", EVENTUALLY, async || {
        let asked = world.gateway.requests_for(DEADLY).len();
        let buried = letters::rows(&world.database.pool).await.len();
        match (asked > deaths, buried > 0) {
            (true, _) => Ok(true),
            (false, true) => Ok(false),
            (false, false) => Err(format!("asked {asked} times\n{}", worker.log())),
        }
    })
    .await;
    if is_deadly {
        worker.kill9().await;
    }
    is_deadly
}

/// In this life of a worker nothing else was on its way when the deadly order was asked for.
fn assert_ran_alone(world: &World, life: &Range<Instant>) {
    let deadly = world.gateway.requests_for(DEADLY).pop().unwrap();
    let beside = world.gateway.requests().into_iter().filter(|request| {
        let is_over = request.answered.is_some_and(|answered| answered <= deadly.received);
        life.contains(&request.received) && request.order_id() != DEADLY && !is_over
    });
    assert_eq!(beside.map(|request| request.order_id()).collect::<Vec<_>>(), Vec::<String>::new());
}

#[tokio::test]
async fn an_order_that_ends_its_process_is_quarantined_after_a_few_restarts_and_its_neighbours_are_notified() {
    let mut world = World::with_partitions(1).await;
    let setup = setup(&world).with("HERALD_DELIVERY__MAX_CONCURRENT", "8");
    let mut worker = setup.start().await;
    // A commit of theirs between two deaths would be progress.
    world.produce(&(0..13).map(orders::created).collect::<Vec<_>>()).await;
    world.all_committed().await;
    world.gateway.answer(Answer::ok().after(Duration::from_millis(100)));
    world.gateway.always_answer_order(DEADLY, Answer::Hang);
    let mut lives = vec![Instant::now()];
    world.produce(&(13..60).map(orders::created).collect::<Vec<_>>()).await;
    let mut deaths = 0;
    while dies(&world, &mut worker, deaths).await {
        deaths += 1;
        lives.push(Instant::now());
        assert!(deaths <= DEATHS, "{:?}", world.gateway.requests_for(DEADLY));
        worker = setup.spawn();
    }
    assert_eq!(deaths, DEATHS);
    assert_ran_alone(&world, &(lives[deaths - 1]..lives[deaths]));

    world.all_committed().await;
    let [letter] = &world.buried(1).await[..] else { panic!("more than one is buried") };
    assert_eq!((&*letter.order_id, &*letter.reason, &*letter.class), (DEADLY, "crash_loop", "unknown"));
    assert_eq!(world.published(1).await.len(), 1);
    let verdict = world.verdict();
    assert_eq!(verdict.lost.into_iter().map(|(order_id, _)| order_id).collect::<Vec<_>>(), [DEADLY]);
    assert!(verdict.unstable_keys.is_empty(), "{:?}", verdict.unstable_keys);
    worker.wait_for_metric("herald_dead_letters_total", &[("reason", "crash_loop")], 1.0).await;
    worker.wait_for_metric("herald_crash_loop_partitions", &[], 0.0).await;
    worker.assert_accounting_closes().await;
}

#[tokio::test]
async fn while_a_partition_is_run_carefully_the_gauge_says_so() {
    let mut world = World::with_partitions(1).await;
    world.gateway.always_answer_order(DEADLY, Answer::Hang);
    world.produce(&[orders::created(13)]).await;
    let setup = setup(&world).with("HERALD_WEBHOOK__TIMEOUT", "2m");
    let mut worker = setup.spawn();
    for deaths in 0..3 {
        assert!(dies(&world, &mut worker, deaths).await);
        worker = setup.spawn();
    }
    worker.wait_for_metric("herald_crash_loop_partitions", &[], 1.0).await;
    let statement = "SELECT starts::integer FROM processed_orders";
    wait_until("the start is durable", EVENTUALLY, async || {
        let starts: i32 = sqlx::query_scalar(statement).fetch_one(&world.database.pool).await.unwrap();
        crate::support::wait::equal(starts, &1)
    })
    .await;
}

#[tokio::test]
async fn kills_of_a_worker_that_works_or_has_nothing_to_do_make_no_suspects() {
    let mut world = World::with_partitions(1).await;
    let setup = setup(&world);
    let mut worker = setup.start().await;
    // It has nothing to do.
    for _ in 0..4 {
        worker.kill9().await;
        worker = setup.start().await;
    }
    // It works: each kill meets what is claimed and on its way.
    world.gateway.answer(Answer::ok().after(Duration::from_millis(20)));
    for round in 0..4 {
        let events: Vec<_> = (round * 200..(round + 1) * 200).map(orders::created).collect();
        world.produce(&events).await;
        wait_until("half of them are notified", EVENTUALLY, async || {
            let accepted = world.gateway.accepted();
            if accepted >= world.produced.len() - 100 { Ok(()) } else { Err(format!("{accepted}\n{}", worker.log())) }
        })
        .await;
        worker.kill9().await;
        worker = setup.start().await;
        world.all_committed().await;
    }
    assert!(world.verdict().lost.is_empty());
    worker.wait_for_metric("herald_crash_loop_partitions", &[], 0.0).await;
    assert!(letters::rows(&world.database.pool).await.is_empty());
}

#[tokio::test]
async fn deploys_that_cut_the_same_order_off_again_and_again_make_no_suspects() {
    let mut world = World::with_partitions(1).await;
    world.gateway.always_answer_order(DEADLY, Answer::Hang);
    world.produce(&(10..20).map(orders::created).collect::<Vec<_>>()).await;
    let setup = setup(&world).with("HERALD_DELIVERY__DRAIN_TIMEOUT", "1s").with("HERALD_WEBHOOK__TIMEOUT", "2m");
    for deploys in 0..5 {
        let mut worker = setup.spawn();
        wait_until("the order is asked for", EVENTUALLY, async || {
            let asked = world.gateway.requests_for(DEADLY).len();
            if asked > deploys { Ok(()) } else { Err(format!("{asked} times\n{}", worker.log())) }
        })
        .await;
        worker.sigterm();
        assert_eq!(worker.wait_exit(EVENTUALLY).await, 1, "{}", worker.log());
        assert!(worker.log().contains("1 delivery was aborted"), "{}", worker.log());
    }
    world.gateway.always_answer_order(DEADLY, Answer::ok());
    let worker = setup.start().await;
    worker.wait_for_metric("herald_crash_loop_partitions", &[], 0.0).await;
    world.all_committed().await;
    assert!(world.verdict().is_clean(), "{:?}", world.verdict());
    assert_eq!(world.gateway.requests_for(DEADLY).len(), 6);
    assert!(letters::rows(&world.database.pool).await.is_empty());
    worker.assert_accounting_closes().await;
}

#[tokio::test]
async fn of_several_workers_that_die_of_an_order_one_after_another_all_other_orders_are_notified_once() {
    let mut world = World::with_partitions(2).await;
    world.gateway.always_answer_order(DEADLY, Answer::Hang);
    // Nobody has a place of its own in the group: each death is a session that times out.
    let setup = world.worker().with("HERALD_KAFKA__SESSION_TIMEOUT", "6s").with("HERALD_WEBHOOK__TIMEOUT", "5m");
    let mut workers = vec![setup.start().await, setup.start().await, setup.start().await];
    wait_until("two of them own a partition each, and keep it", EVENTUALLY, async || {
        let owners = world.owners().await;
        let different: BTreeSet<_> = owners.values().collect();
        if different.len() == 2 { Ok(()) } else { Err(format!("{owners:?}")) }
    })
    .await;
    world.produce_evenly(&(0..60).map(orders::created).collect::<Vec<_>>()).await;
    wait_until("all others are settled", EVENTUALLY, async || {
        let settled = world.orders_in_state("d").await.len();
        if settled == 59 { Ok(()) } else { Err(settled) }
    })
    .await;
    let deadly = world.produced.iter().find(|event| event.order_id == DEADLY).unwrap().coordinates;
    wait_until("what comes before it is committed: no owner has progress from here on", EVENTUALLY, async || {
        let committed = world.kafka.committed_offsets(&world.group, &world.topic).await;
        if committed.get(&deadly.partition) == Some(&deadly.offset) { Ok(()) } else { Err(format!("{committed:?}")) }
    })
    .await;
    let mut deaths = 0;
    loop {
        let is_buried = wait_until("the deadly order is asked for again, or buried", EVENTUALLY, async || {
            let (asked, buried) =
                (world.gateway.requests_for(DEADLY).len(), letters::rows(&world.database.pool).await.len());
            if asked > deaths || buried > 0 { Ok(buried > 0) } else { Err(format!("asked {asked} times")) }
        })
        .await;
        if is_buried {
            break;
        }
        // Its successor is in the group before it dies: the death moves the partition, and nothing else does.
        workers.push(setup.start().await);
        let owner = world.owners().await[&deadly.partition];
        let dying = workers.iter().position(|worker| worker.pid() == owner).expect("one of them");
        workers.remove(dying).kill9().await;
        deaths += 1;
        assert!(deaths <= DEATHS, "{:?}", world.gateway.requests_for(DEADLY));
    }
    assert_eq!(deaths, DEATHS);
    world.all_committed().await;
    let letters = world.published(1).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters::text(&letters[0], "herald-reason"), "crash_loop");
    let verdict = world.verdict();
    assert_eq!(verdict.lost.into_iter().map(|(order_id, _)| order_id).collect::<Vec<_>>(), [DEADLY]);
    assert_eq!(world.gateway.accepted(), 59);
    assert_eq!(world.gateway.requests().len(), 59 + deaths);
}
