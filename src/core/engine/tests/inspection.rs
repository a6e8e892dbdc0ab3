//! Who may take the claim of a copy that an earlier owner of its partition left behind.

use super::*;

const P1: Partition = Partition(1);

/// A copy in this partition waits for one whose delivery runs in a session that is over; gives the claim that is answered so.
fn behind_an_orphan() -> (Bench, Delivery, Holder) {
    let mut bench = Bench::new(Vec::new());
    let session = Session(9);
    let parked = Vec::new();
    bench.input(Input::Assigned { partition: P1, session, start: Offset(0), raised: raised(1), parked });
    bench.input(Input::Polled { partition: P1, session, records: vec![order(P1, 9, 1)] });
    let claim = bench.claims().remove(0);
    let there = ours(&claim, true);
    bench.claimed(vec![(claim.ticket, there.clone())]);
    let running = bench.deliveries().remove(0);
    bench.input(Input::Lost { partitions: vec![P1] });
    bench.input(Input::Polled { partition: P0, session: SESSION, records: vec![order(P0, 4, 1)] });
    (bench, running, there.holder)
}

/// Answers each claim with this holder until it is asked whether that one is gone for good, and says so; gives the claim that follows.
fn claim_after_inspection(bench: &mut Bench, holder: &Holder) -> Claim {
    for _ in 0..100 {
        let claims = bench.claims();
        let busy = |claim: &Claim| LedgerRow { holder: holder.clone(), ..ours(claim, false) };
        bench.claimed(claims.iter().map(|claim| (claim.ticket, busy(claim))).collect());
        let asked = bench
            .take(|effect| if let Effect::InspectHolder { ticket, .. } = effect { Ok(ticket) } else { Err(effect) });
        if let Some(ticket) = asked.first() {
            bench.input(Input::HolderInspected { ticket: *ticket, abandoned: Some(holder.clone()) });
            return bench.claims().remove(0);
        }
        bench.wait(Duration::from_millis(500));
    }
    panic!("nobody asks for the holder");
}

#[test]
fn a_claim_is_never_seized_while_a_delivery_of_its_partition_runs_here_still() {
    let (mut bench, running, holder) = behind_an_orphan();
    let claim = claim_after_inspection(&mut bench, &holder);
    assert_eq!(claim.seize_from, None, "the two would be notified side by side");
    let busy = LedgerRow { holder: holder.clone(), ..ours(&claim, false) };
    bench.claimed(vec![(claim.ticket, busy)]);
    bench.input(Input::Delivered { results: vec![(running.ticket, fails(TRANSIENT))] });
    let claim = claim_after_inspection(&mut bench, &holder);
    assert_eq!(claim.seize_from, Some(holder));
}

#[test]
fn the_claim_of_a_later_owner_is_never_seized_for_not_being_here() {
    for (epoch, is_seized) in [(Epoch(1), true), (Epoch(2), false)] {
        let mut bench = Bench::new(Vec::new());
        let parked = Vec::new();
        let (session, start) = (Session(9), Offset(0));
        bench.input(Input::Assigned { partition: P1, session, start, raised: raised(1), parked });
        bench.input(Input::Polled { partition: P0, session: SESSION, records: vec![order(P0, 4, 1)] });
        let claim = bench.claims().remove(0);
        // This worker has fetched nothing of that partition.
        let coordinates = Coordinates { partition: P1, offset: Offset(9) };
        let there = Holder { coordinates, epoch, ..ours(&claim, false).holder };
        let busy = LedgerRow { holder: there.clone(), ..ours(&claim, false) };
        bench.claimed(vec![(claim.ticket, busy)]);
        bench.wait(Duration::from_secs(1));
        let claim = bench.claims().remove(0);
        assert_eq!(claim.seize_from, is_seized.then_some(there), "{epoch:?}");
    }
}
