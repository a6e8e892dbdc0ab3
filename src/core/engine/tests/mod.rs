//! The engine alone, driven by hand: one test for each thing that a reader would ask about.

// An effect that is not the one that is looked for goes back as it came.
#![allow(clippy::result_large_err)]

mod bench;
mod breaker;
mod copies;
mod evidence;
mod inspection;
mod loads;
mod memory;
mod outage;
mod parked_limit;
mod parking;
mod progress;
mod replay;
mod replayed;
mod simulation;
mod starts;
mod tables;

use std::time::Duration;

use super::*;
use crate::core;
use crate::core::effect::{Claim, Delivery, Serial};
use crate::core::event::Identity;
use crate::core::failure::{DeliveryFailure, FailureClass, LedgerFailure, Reason};
use crate::core::input::{Holder, LedgerRow, LedgerState, Operation, Raised, RowAddress};
use crate::core::key::OrderingKey;
use crate::core::record::{Coordinates, Offset, Record, Session};
use bench::*;

#[test]
fn an_offset_is_stored_only_after_the_settlement_of_all_below() {
    let mut bench = Bench::new(vec![order(P0, 0, 1), order(P0, 1, 2)]);
    bench.grant_claims();
    assert_eq!(bench.engine.stats().delivering, 2);
    bench.deliver_next(Ok(()));
    assert_eq!(bench.stored(), None);
    bench.settled();
    assert_eq!(bench.stored(), Some(1));
}

/// `ORDER_CREATED` and `ORDER_SHIPPED` of order 1, claimed: the first is being delivered.
fn two_events_of_one_order() -> Bench {
    let text = String::from_utf8(order(P0, 1, 1).value.unwrap().to_vec()).unwrap();
    let shipped = record(P0, 1, text.replace("ORDER_CREATED", "ORDER_SHIPPED"));
    let mut engine_config = config(10, 1);
    engine_config.decoder = Decoder::new(["ORDER_CREATED", "ORDER_SHIPPED"], OrderingKey::OrderId);
    let mut bench = Bench::with(engine_config, vec![order(P0, 0, 1), shipped]);
    bench.grant_claims();
    bench
}

#[test]
fn deliveries_of_one_key_follow_one_another_without_waiting_for_the_ledger() {
    let mut bench = two_events_of_one_order();
    assert_eq!(bench.engine.stats().delivering, 1);
    let first = bench.deliver_next(fails(TRANSIENT));
    assert_eq!(first.coordinates.offset, Offset(0));
    bench.wait(Duration::from_secs(2));
    assert_eq!(bench.deliver_next(Ok(())).attempt, 2);
    assert_eq!(bench.deliveries().remove(0).coordinates.offset, Offset(1));
}

#[test]
fn a_record_that_is_given_up_holds_its_lane_until_it_is_buried() {
    let mut bench = two_events_of_one_order();
    bench.deliver_next(fails(FailureClass::Permanent));
    assert!(bench.deliveries().is_empty());
    assert_eq!(bench.buried(), [(Reason::Permanent, 1)]);
    assert_eq!(bench.deliveries().remove(0).coordinates.offset, Offset(1));
}

#[test]
fn attempts_are_spent_by_failures_and_not_by_outages() {
    let mut bench = Bench::new(vec![order(P0, 0, 1)]);
    bench.grant_claims();
    for _ in 0..20 {
        bench.deliver_next(fails(FailureClass::Outage));
        bench.wait(Duration::from_secs(6));
    }
    assert_eq!(bench.deliver_next(fails(TRANSIENT)).attempt, 1);
    bench.wait(Duration::from_secs(2));
    assert_eq!(bench.deliver_next(fails(FailureClass::Unknown)).attempt, 2);
    bench.show_that_the_channel_works(1);
    bench.wait(Duration::from_secs(3));
    assert_eq!(bench.deliver_next(fails(TRANSIENT)).attempt, 3);
    assert_eq!(bench.buried(), [(Reason::Exhausted, 3)]);
    assert_eq!(bench.stored(), Some(2));
    assert_eq!(bench.engine.accounting().dead_lettered, 1);
}

#[test]
fn retry_after_is_respected() {
    let mut bench = Bench::new(vec![order(P0, 0, 1)]);
    bench.grant_claims();
    bench.deliver_next(fails(FailureClass::Transient { retry_after: Some(Duration::from_secs(20)) }));
    bench.wait(Duration::from_secs(19));
    assert!(bench.deliveries().is_empty());
    bench.wait(Duration::from_secs(3));
    assert_eq!(bench.deliveries().len(), 1);
}

#[test]
fn poison_ends_as_a_dead_letter_and_its_neighbours_go_on() {
    let mut bench = Bench::new(vec![order(P0, 0, 1), record(P0, 1, "no json".into()), order(P0, 2, 2)]);
    bench.grant_claims();
    assert_eq!(bench.engine.stats().delivering, 2);
    assert_eq!(bench.buried(), [(Reason::Undecodable, 0)]);
}

#[test]
fn a_busy_copy_spends_no_attempt_and_is_delivered_when_the_holder_never_ends() {
    // In a partition of another worker, and below where this one began.
    for (partition, offset) in [(Partition(9), 3), (P0, -1)] {
        let coordinates = Coordinates { partition, offset: Offset(offset) };
        seize_from(&holder(coordinates));
    }
}

fn seize_from(holder: &Holder) {
    let mut bench = Bench::new(vec![order(P0, 4, 1)]);
    let mut inspected = 0;
    for _ in 0..40 {
        for claim in bench.claims() {
            let row = if claim.seize_from.as_ref() == Some(holder) {
                ours(&claim, false)
            } else {
                LedgerRow { holder: holder.clone(), ..ours(&claim, false) }
            };
            bench.claimed(vec![(claim.ticket, row)]);
        }
        for ticket in bench
            .take(|effect| if let Effect::InspectHolder { ticket, .. } = effect { Ok(ticket) } else { Err(effect) })
        {
            inspected += 1;
            let abandoned = (inspected > 1).then(|| holder.clone());
            bench.input(Input::HolderInspected { ticket, abandoned });
        }
        bench.wait(Duration::from_millis(500));
    }
    assert_eq!(inspected, 2);
    assert_eq!(bench.deliver_next(Ok(())).attempt, 1);
}

#[test]
fn a_claim_of_a_record_that_is_not_there_any_more_is_seized_at_once() {
    let mut bench = Bench::new(vec![order(P0, 0, 1), order(P0, 2, 2)]);
    // The topic was recreated: what held the claim at offset 1 of the old one is no record of this.
    let holder = holder(Coordinates { partition: P0, offset: Offset(1) });
    let claims = bench.claims();
    let found = claims.iter().map(|claim| {
        let holder = if claim.coordinates.offset == Offset(0) { ours(claim, true).holder } else { holder.clone() };
        (claim.ticket, LedgerRow { holder, ..ours(claim, false) })
    });
    let found = found.collect();
    bench.claimed(found);
    assert_eq!(bench.claims().remove(0).seize_from, Some(holder));
}

#[test]
fn a_topic_with_one_record_that_waits_does_not_fill_the_memory() {
    let mut bench = Bench::new(vec![order(P0, 0, 1)]);
    bench.grant_claims();
    bench.deliver_next(fails(FailureClass::Transient { retry_after: Some(Duration::from_mins(30)) }));
    let mut offset = 1;
    while bench.engine.stats().paused.is_none() {
        let records =
            (offset..offset + 500).map(|offset| record(P0, offset, r#"{"event_type":"OTHER"}"#.into())).collect();
        bench.input(Input::Polled { partition: P0, session: SESSION, records });
        offset += 500;
        assert!(offset <= 1_000 * 60, "the watermark grows without a bound");
    }
}

#[test]
fn other_content_under_the_same_identity_is_a_conflict_with_an_identity_of_its_own() {
    let mut bench = Bench::new(vec![order(P0, 4, 1)]);
    let claim = bench.claims().remove(0);
    let row = LedgerRow {
        state: LedgerState::Done,
        holder: holder(Coordinates { partition: P0, offset: Offset(1) }),
        fingerprint: crate::core::event::Fingerprint([9; 32]),
        inserted: false,
        address: RowAddress::default(),
        starts: 0,
    };
    bench.claimed(vec![(claim.ticket, row)]);
    // An owner after a crash may tell it after all, and would leave a claim behind.
    assert_eq!(bench.claims().len(), 0);
    let has_its_own =
        |effect: &Effect| matches!(effect, Effect::Dead(batch) if batch[0].settlement.identity != claim.identity);
    assert!(bench.effects.iter().any(has_its_own));
    assert_eq!(bench.buried(), [(Reason::Conflict, 0)]);
}

#[test]
fn a_ledger_outage_holds_everything_and_loses_nothing() {
    let mut bench = Bench::new(vec![order(P0, 0, 1)]);
    for _ in 0..10 {
        assert_eq!(bench.claims().len(), 1);
        bench.claims_failed(LedgerFailure::Outage("gone".into()));
        bench.wait(Duration::from_secs(6));
    }
    bench.grant_claims();
    bench.deliver_next(Ok(()));
    let operation = Operation::Done(bench.engine.settlements.first_serial());
    bench.input(Input::LedgerFailed { operation, failure: LedgerFailure::Outage("gone".into()) });
    assert_eq!(bench.stored(), None);
    bench.wait(Duration::from_secs(6));
    bench.settled();
    assert_eq!(bench.stored(), Some(1));
}

#[test]
fn one_bad_row_becomes_a_dead_letter_and_its_neighbours_are_notified() {
    let mut bench = Bench::new((0..50).map(|offset| order(P0, offset, offset.unsigned_abs())).collect());
    let bad = |identity: &Identity| &*identity.order_id == "17";
    loop {
        let claims = bench.claims();
        if claims.is_empty() {
            break;
        }
        if claims.iter().any(|claim| bad(&claim.identity)) {
            let failure = LedgerFailure::BadData("22021".into());
            bench.claims_failed(failure);
        } else {
            let found = claims.iter().map(|claim| (claim.ticket, ours(claim, true))).collect();
            bench.claimed(found);
        }
    }
    assert_eq!(bench.buried(), [(Reason::Invalid, 0)]);
    let mut notified = 0;
    while bench.engine.stats().delivering > 0 {
        bench.deliver_next(Ok(()));
        bench.settled();
        notified += 1;
    }
    assert_eq!(notified, 49);
    assert_eq!(bench.stored(), Some(50));
}

#[test]
fn a_revoked_partition_is_released_when_what_runs_has_ended_and_nothing_new_starts() {
    let mut bench = Bench::new(vec![order(P0, 0, 1), order(P0, 1, 1), order(P0, 2, 2)]);
    bench.grant_claims();
    bench.input(Input::Revoking { partitions: vec![P0], deadline: Duration::from_secs(4) });
    let first = bench.deliver_next(Ok(()));
    assert_eq!(first.coordinates.offset, Offset(0));
    bench.deliver_next(fails(TRANSIENT));
    let released = |bench: &mut Bench| {
        bench.take(|effect| if let Effect::Release { .. } = effect { Ok(()) } else { Err(effect) }).len()
    };
    assert_eq!(released(&mut bench), 0);
    bench.settled();
    assert_eq!((bench.stored(), released(&mut bench)), (Some(1), 1));
    assert_eq!(bench.engine.accounting().handed_back, 2);
    assert!(bench.engine.is_idle());
}

#[test]
fn at_the_drain_deadline_running_deliveries_are_aborted() {
    let mut bench = Bench::new(vec![order(P0, 0, 1)]);
    bench.grant_claims();
    bench.input(Input::Shutdown { deadline: Duration::from_secs(2) });
    bench.wait(Duration::from_secs(3));
    let aborted = bench.take(|effect| if let Effect::Abort(ticket) = effect { Ok(ticket) } else { Err(effect) });
    assert_eq!((aborted.len(), bench.engine.stats().delivering), (1, 0));
    assert_eq!(bench.stored(), None);
}

#[test]
fn a_fenced_epoch_starts_nothing_and_begins_afresh_where_custody_ends() {
    let mut bench = Bench::new(vec![order(P0, 0, 1), order(P0, 1, 2)]);
    bench.claims();
    bench.claimed(Vec::new());
    assert!(bench.deliveries().is_empty());
    let restarts = bench.take(|effect| if let Effect::Restart { from, .. } = effect { Ok(from) } else { Err(effect) });
    assert_eq!(restarts, [Offset(0)]);
    bench.input(Input::Polled { partition: P0, session: SESSION, records: vec![order(P0, 2, 3)] });
    assert!(bench.claims().is_empty());
}

#[test]
fn the_late_success_of_a_lost_partition_counts_and_the_next_session_waits_for_it() {
    let mut bench = Bench::new(vec![order(P0, 0, 1)]);
    bench.grant_claims();
    let running = bench.deliveries().remove(0);
    bench.input(Input::Lost { partitions: vec![P0] });
    bench.input(Input::Assigned {
        partition: P0,
        session: Session(2),
        raised: raised(3),
        start: Offset(0),
        parked: Vec::new(),
    });
    bench.input(Input::Polled { partition: P0, session: Session(2), records: vec![order(P0, 0, 1)] });
    assert!(bench.claims().is_empty());
    bench.input(Input::Delivered { results: vec![(running.ticket, Ok(()))] });
    bench.settled();
    assert_eq!(bench.claims().len(), 1);
    assert_eq!(bench.engine.accounting().notified, 1);
}

#[test]
fn after_a_freeze_nothing_starts_until_the_epochs_are_confirmed() {
    let mut bench = Bench::new(vec![order(P0, 0, 1)]);
    bench.confirms_epochs = false;
    let claims = bench.claims();
    bench.now += Duration::from_mins(1);
    bench.claimed(claims.iter().map(|claim| (claim.ticket, ours(claim, true))).collect());
    assert!(bench.deliveries().is_empty());
    bench.input(Input::EpochsConfirmed { freeze: 1, epochs: vec![(P0, EPOCH, true)] });
    assert_eq!(bench.deliveries().len(), 1);

    bench.now += Duration::from_mins(1);
    bench.input(Input::Polled { partition: P0, session: SESSION, records: vec![order(P0, 1, 2)] });
    bench.input(Input::EpochsConfirmed { freeze: 1, epochs: vec![(P0, EPOCH, true)] });
    assert!(bench.claims().len() <= 1 && bench.engine.is_suspended, "an answer from before the second freeze counts");
    bench.input(Input::EpochsConfirmed { freeze: 2, epochs: vec![(P0, EPOCH, false)] });
    assert!(bench.deliveries().is_empty());
    assert!(bench.reports().iter().any(|report| matches!(report, Report::Fenced { .. })));
}

/// Delivered one at a time; what is asked of the epochs is not answered.
fn four_claimed_orders() -> Bench {
    let orders = (0..4).map(|offset| order(P0, offset, offset.unsigned_abs()));
    let mut bench = Bench::with(config(1, 1), orders.collect());
    bench.confirms_epochs = false;
    bench.grant_claims();
    bench
}

#[test]
fn deliveries_that_begin_a_while_after_the_last_claim_ask_whose_the_partition_is_and_do_not_wait() {
    let mut bench = four_claimed_orders();
    assert!(bench.questions().is_empty(), "the claim has just shown it");
    bench.now += Duration::from_secs(1);
    bench.deliver_next(Ok(()));
    assert_eq!(bench.questions(), [(0, vec![(P0, EPOCH)])]);
    bench.now += Duration::from_secs(1);
    bench.deliver_next(Ok(()));
    assert!(bench.questions().is_empty(), "one at a time");
    bench.input(Input::EpochsConfirmed { freeze: 0, epochs: vec![(P0, EPOCH, true)] });
    bench.deliver_next(Ok(()));
    assert!(bench.questions().is_empty(), "it has just been confirmed");
    assert_eq!(bench.running.len() + bench.deliveries().len(), 1, "no delivery has waited for an answer");
}

#[test]
fn nothing_begins_of_what_postgres_has_not_shown_to_be_ours_for_long() {
    let mut bench = four_claimed_orders();
    bench.now += Duration::from_secs(3);
    bench.deliver_next(Ok(()));
    assert!(bench.deliveries().is_empty());
    bench.input(Input::EpochsConfirmed { freeze: 0, epochs: vec![(P0, EPOCH, true)] });
    assert_eq!(bench.deliver_next(Ok(())).coordinates.offset, Offset(1), "in its order");
    assert_eq!(bench.deliveries().len(), 1);

    bench.input(Input::EpochsConfirmed { freeze: 0, epochs: vec![(P0, Epoch(0), false)] });
    assert!(bench.engine.partitions.contains_key(&P0), "that was asked before the partition had this epoch");
    bench.input(Input::EpochsConfirmed { freeze: 0, epochs: vec![(P0, EPOCH, false)] });
    assert!(bench.reports().iter().any(|report| matches!(report, Report::Fenced { .. })));
    assert!(!bench.engine.partitions.contains_key(&P0));
}

#[test]
fn memory_limits_pause_and_resume_with_hysteresis() {
    let mut engine_config = config(10_000, 1);
    engine_config.max_records = 10;
    let mut bench = Bench::of(engine_config);
    bench.input(Input::Assigned {
        partition: P0,
        session: SESSION,
        raised: raised(1),
        start: Offset(0),
        parked: Vec::new(),
    });
    let records = (0..12).map(|offset| order(P0, offset, offset.unsigned_abs())).collect();
    bench.input(Input::Polled { partition: P0, session: SESSION, records });
    assert!(bench.engine.stats().paused.is_some());
    bench.grant_claims();
    let mut ended = 0;
    while bench.engine.stats().paused.is_some() {
        bench.deliver_next(Ok(()));
        bench.settled();
        ended += 1;
    }
    assert_eq!(ended, 7);
}
