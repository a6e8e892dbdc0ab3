//! Copies that wait for one another across workers.

use super::*;

/// More than may be held.
const COPIES: u64 = 12;

/// A dead owner has claimed the last copies in this partition.
fn leave_claims_behind(world: &mut World, partition: usize) {
    let epoch = world.tables.raise(name(partition), 99, Offset(0)).epoch;
    for record in world.log[partition].iter().skip(usize::try_from(COPIES).unwrap()) {
        let Decoded::Event { event, .. } = world.story.decoder().decode(record) else { panic!("{record:?}") };
        let claim = Claim {
            ticket: Ticket(0),
            identity: event.identity.clone(),
            fingerprint: event.fingerprint,
            coordinates: record.coordinates,
            epoch,
            serial: Serial(1),
            seize_from: None,
        };
        assert!(world.tables.claim(&claim).unwrap().inserted);
    }
}

#[test]
fn workers_that_are_full_of_copies_which_wait_for_claims_in_one_anothers_partitions_go_on() {
    let mut world = World::new(1, Story::SmallMemory);
    // None of them is one that the ledger does not store.
    let (some, others) = (20..20 + COPIES, 100..100 + COPIES);
    let of = |partition: usize, orders: Vec<u64>| -> Vec<Record> {
        (0..).zip(orders).map(|(offset, order_id)| order(name(partition), offset, order_id)).collect()
    };
    let (first, second) = (some.clone().chain(others.clone()).collect(), others.chain(some).collect());
    world.log = vec![of(0, first), of(1, second), Vec::new()];
    world.contents.clear();
    let records: Vec<Record> = world.log.iter().flatten().cloned().collect();
    for record in &records {
        world.know(record);
    }
    (0..2).for_each(|partition| leave_claims_behind(&mut world, partition));
    world.is_calm = true;
    (0..2).for_each(|partition| world.assign(partition, partition));
    for _ in 0..50_000 {
        world.step();
    }
    assert!(world.is_done(), "{}", world.leftovers());
    world.assert_all_told();
}
