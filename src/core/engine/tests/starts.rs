//! Records that abort their process, and deliveries that may not be repeated.

use super::parking::{Bench, paid};
use super::*;
use crate::core::effect::ClaimResult;

const UNKNOWN: FailureClass = FailureClass::Unknown;

fn at_least_once() -> EngineConfig {
    EngineConfig { decoder: Decoder::new(["ORDER_CREATED", "ORDER_PAID"], OrderingKey::OrderId), ..config(100, 2) }
}

fn at_most_once() -> EngineConfig {
    EngineConfig { semantics: Semantics::AtMostOnce, ..at_least_once() }
}

fn bench(of: fn() -> EngineConfig) -> Bench {
    Bench::new(|config| *config = of())
}

/// The process dies of what it runs, and the next one polls the same again.
fn die(bench: &mut Bench, of: fn() -> EngineConfig, records: &[Record]) {
    bench.restart(of());
    let records = records.iter().filter(|record| record.coordinates.offset.0 >= bench.stored).cloned();
    bench.poll(records.collect());
}

fn running(bench: &Bench) -> Vec<i64> {
    bench.running.iter().map(|delivery| delivery.coordinates.offset.0).collect()
}

fn starts(bench: &Bench, order_id: &str) -> u16 {
    let identity = Identity { order_id: order_id.into(), event_type: "ORDER_CREATED".into() };
    bench.tables.ledger[&identity].starts
}

fn orders(count: i64) -> Vec<Record> {
    (0..count).map(|offset| order(P0, offset, offset.unsigned_abs())).collect()
}

#[test]
fn a_record_that_aborts_the_process_is_quarantined_after_a_few_restarts_and_its_neighbours_are_notified() {
    let records = orders(6);
    let mut bench = bench(at_least_once);
    bench.poll(records.clone());
    let mut restarts = 0;
    // Every process dies of order 2, as soon as it runs, and may have notified some others before.
    while bench.dead().is_empty() {
        if running(&bench).contains(&2) {
            restarts += 1;
            die(&mut bench, at_least_once, &records);
        } else {
            bench.answer(Ok(()));
        }
        assert!(restarts <= 5, "{:?}", bench.reports);
    }
    assert_eq!((restarts, bench.dead()), (5, vec![(2, Reason::CrashLoop, 2)]));
    while !bench.running.is_empty() {
        bench.answer(Ok(()));
    }
    assert_eq!((bench.stored, bench.engine.stats().crash_loops), (6, 0));
}

#[test]
fn a_suspect_runs_alone_those_started_least_often_first() {
    let records = orders(4);
    let mut bench = bench(at_least_once);
    bench.poll(records.clone());
    for _ in 0..3 {
        die(&mut bench, at_least_once, &records);
    }
    assert_eq!((running(&bench), bench.engine.stats().crash_loops), (vec![0, 1, 2, 3], 1));
    assert_eq!(starts(&bench, "3"), 1);
    die(&mut bench, at_least_once, &records);
    bench.poll(vec![order(P0, 4, 4)]);
    assert_eq!(running(&bench), [0]);
    die(&mut bench, at_least_once, &records);
    assert_eq!(bench.dead(), [(0, Reason::CrashLoop, 2)]);
    for alone in 1..=3 {
        assert_eq!(running(&bench), [alone]);
        bench.answer(Ok(()));
    }
}

#[test]
fn kills_with_progress_in_between_make_no_suspects() {
    let records = orders(40);
    let mut bench = bench(at_least_once);
    bench.poll(records.clone());
    for _ in 0..20 {
        bench.answer(Ok(()));
        die(&mut bench, at_least_once, &records);
        assert!(bench.running.len() > 10 && bench.engine.stats().crash_loops == 0);
    }
    let is_loop = |report: &Report| matches!(report, Report::CrashLoop { .. });
    assert_eq!(bench.count(is_loop), 0);
}

#[test]
fn an_attempt_that_failed_did_not_abort_the_process() {
    let records = orders(1);
    let mut bench = bench(at_least_once);
    bench.poll(records.clone());
    for _ in 0..3 {
        die(&mut bench, at_least_once, &records);
    }
    assert_eq!(starts(&bench, "0"), 1);
    die(&mut bench, at_least_once, &records);
    assert_eq!(starts(&bench, "0"), 2);
    bench.answer(fails(TRANSIENT));
    assert_eq!(starts(&bench, "0"), 0);
    die(&mut bench, at_least_once, &records);
    assert_eq!((bench.answer(Ok(())), bench.dead()), ((0, 1), vec![]));
}

#[test]
fn a_parked_record_that_aborts_the_process_is_quarantined_too() {
    let mut bench = bench(at_least_once);
    bench.poll(vec![order(P0, 0, 1), paid(1, 1)]);
    bench.answer(fails(FailureClass::Transient { retry_after: Some(Duration::from_mins(1)) }));
    bench.wait(Duration::from_mins(2));
    // The first of them has had progress before it: the offset moved on when the records were parked.
    for _ in 0..6 {
        assert_eq!((running(&bench), bench.tables.parked.len()), (vec![0], 2));
        bench.restart(at_least_once());
    }
    assert_eq!(bench.dead(), [(0, Reason::CrashLoop, 2)]);
    assert_eq!(bench.answer(Ok(())), (1, 1));
    assert!(bench.tables.parked.is_empty());
}

#[test]
fn at_most_once_every_start_is_durable_and_what_a_dead_process_had_started_is_uncertain() {
    let records = orders(3);
    let mut bench = bench(at_most_once);
    bench.restart(EngineConfig { max_concurrent: 2, ..at_most_once() });
    bench.poll(records.clone());
    assert_eq!((running(&bench), starts(&bench, "1"), starts(&bench, "2")), (vec![0, 1], 1, 0));
    bench.answer(Ok(()));
    assert_eq!(running(&bench), [1, 2]);
    die(&mut bench, at_most_once, &records);
    assert_eq!(bench.dead(), [(1, Reason::Uncertain, 1), (2, Reason::Uncertain, 1)]);
    assert_eq!((bench.stored, bench.running.len()), (3, 0));
    let takeovers = bench.count(|report| matches!(report, Report::Claimed(ClaimResult::Takeover)));
    assert_eq!(takeovers, 2);
}

#[test]
fn at_most_once_a_claim_that_was_never_started_is_delivered_by_the_next_owner() {
    let records = vec![order(P0, 0, 1), paid(1, 1)];
    let mut bench = bench(at_most_once);
    bench.poll(records.clone());
    die(&mut bench, at_most_once, &records);
    assert_eq!(bench.dead(), [(0, Reason::Uncertain, 1)]);
    assert_eq!(bench.answer(Ok(())), (1, 1));
}

#[test]
fn at_most_once_an_attempt_without_an_answer_is_uncertain_and_one_that_was_answered_is_tried_again() {
    let mut bench = bench(at_most_once);
    bench.poll(orders(3));
    bench.answer(fails(UNKNOWN));
    bench.answer(fails(TRANSIENT));
    bench.answer(fails(FailureClass::Outage));
    assert_eq!(bench.dead(), [(0, Reason::Uncertain, 1)]);
    assert_eq!([starts(&bench, "1"), starts(&bench, "2")], [0, 0]);
    let mut retried = [bench.answer_next(Ok(())), bench.answer_next(Ok(()))];
    retried.sort_unstable();
    assert_eq!((retried, bench.stored), ([(1, 2), (2, 1)], 3));
}

#[test]
fn at_most_once_a_parked_record_of_unknown_effect_is_uncertain() {
    for is_killed in [true, false] {
        let mut bench = bench(at_most_once);
        bench.poll(vec![order(P0, 0, 1)]);
        bench.answer(fails(FailureClass::Transient { retry_after: Some(Duration::from_mins(1)) }));
        assert_eq!((starts(&bench, "1"), bench.tables.parked.len()), (0, 1));
        bench.wait(Duration::from_mins(2));
        assert_eq!((running(&bench), starts(&bench, "1")), (vec![0], 1));
        if is_killed {
            bench.restart(at_most_once());
        } else {
            bench.answer(fails(UNKNOWN));
        }
        let attempts = if is_killed { 1 } else { 2 };
        assert_eq!(bench.dead(), [(0, Reason::Uncertain, attempts)]);
        assert!(bench.tables.parked.is_empty() && bench.running.is_empty());
    }
}

#[test]
fn while_postgres_is_away_nothing_starts_that_has_to_be_durable() {
    let mut bench = bench(at_most_once);
    bench.poll(orders(2));
    bench.answer(fails(TRANSIENT));
    bench.answer(fails(TRANSIENT));
    bench.is_ledger_away = true;
    bench.wait(Duration::from_mins(1));
    assert!(bench.running.is_empty() && bench.engine.stats().is_ledger_failing);
    bench.is_ledger_away = false;
    bench.wait(Duration::from_secs(10));
    assert_eq!(bench.running.len(), 2);
}

#[test]
fn at_most_once_what_fails_while_its_partition_is_given_back_is_tried_again_by_the_next_owner() {
    let records = orders(2);
    let mut bench = bench(at_most_once);
    bench.poll(records.clone());
    bench.input(Input::Revoking { partitions: vec![P0], deadline: Now::from_secs(5) });
    bench.answer(fails(TRANSIENT));
    bench.answer(fails(UNKNOWN));
    assert!(bench.engine.is_idle());
    die(&mut bench, at_most_once, &records);
    assert_eq!(bench.dead(), [(1, Reason::Uncertain, 1)]);
    assert_eq!(bench.answer(Ok(())), (0, 1));
}
