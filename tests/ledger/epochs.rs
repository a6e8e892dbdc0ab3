use herald::core::input::Holder;
use herald::core::record::{Epoch, Offset, Partition};

use crate::ledger::fixture::{TestDatabase, at, claim, test_database};

/// Partitions of which an ownership begins at their start.
async fn raise(database: &TestDatabase, partitions: &[Partition], owner: &str) -> Vec<(Partition, Epoch)> {
    let starts: Vec<_> = partitions.iter().map(|partition| (*partition, Offset(0))).collect();
    let raised = database.postgres.raise(&starts, owner).await.unwrap();
    raised.into_iter().map(|(partition, raised)| (partition, raised.epoch)).collect()
}

#[tokio::test]
async fn each_raise_is_a_new_epoch_of_its_partition_alone() {
    let database = test_database().await;
    let (zero, one) = (Partition(0), Partition(1));
    let mut raised = raise(&database, &[one, zero], "a").await;
    raised.sort_unstable();
    assert_eq!(raised, [(zero, Epoch(1)), (one, Epoch(1))]);
    assert_eq!(raise(&database, &[one], "b").await, [(one, Epoch(2))]);
    let mut read = database.postgres.read(&[zero, one, Partition(2)]).await.unwrap();
    read.sort_unstable();
    assert_eq!(read, [(zero, Epoch(1)), (one, Epoch(2))]);
    assert_eq!(raise(&database, &[], "a").await, []);
}

#[tokio::test]
async fn a_raise_that_arrives_late_locks_nobody_out() {
    let database = test_database().await;
    let partition = [Partition(0)];
    raise(&database, &partition, "old").await;
    let current = raise(&database, &partition, "owner").await[0].1;
    raise(&database, &partition, "old").await;
    let fenced = database.claim_one(claim("1", at(0, 5), current)).await;
    assert_eq!(fenced, None);
    let again = raise(&database, &partition, "owner").await[0].1;
    assert!(database.claim_one(claim("1", at(0, 5), again)).await.is_some());
}

#[tokio::test]
async fn raises_of_the_same_partitions_at_once_all_succeed() {
    let database = test_database().await;
    let raise = |starts: Vec<(Partition, Offset)>| {
        let postgres = database.postgres.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                postgres.raise(&starts, "worker").await.unwrap();
            }
        })
    };
    let forward: Vec<_> = (0..50).map(|partition| (Partition(partition), Offset(0))).collect();
    let backward = forward.iter().rev().copied().collect();
    let (one, other) = (raise(forward), raise(backward));
    one.await.unwrap();
    other.await.unwrap();
    assert_eq!(database.look("SELECT DISTINCT epoch::text FROM partition_epochs").await, "40");
}

/// Raises for this owner from this offset; gives the unclean ends before it.
async fn unclean_ends(database: &TestDatabase, owner: &str, start: i64) -> u32 {
    database.postgres.raise(&[(Partition(0), Offset(start))], owner).await.unwrap()[0].1.unclean_ends
}

#[tokio::test]
async fn unclean_ends_are_counted_until_one_is_clean() {
    let database = test_database().await;
    assert_eq!(unclean_ends(&database, "a", 7).await, 0);
    assert_eq!(unclean_ends(&database, "a", 7).await, 0, "its answer was lost, or it was fenced");
    assert_eq!(unclean_ends(&database, "b", 7).await, 1);
    assert_eq!(unclean_ends(&database, "c", 7).await, 2);
    database.postgres.end_clean(&[(Partition(0), Epoch(1))]).await.unwrap();
    assert_eq!(unclean_ends(&database, "c", 7).await, 2, "an end of somebody before it");
    let epoch = database.postgres.read(&[Partition(0)]).await.unwrap()[0].1;
    database.postgres.end_clean(&[(Partition(0), epoch)]).await.unwrap();
    assert_eq!(unclean_ends(&database, "d", 7).await, 0);
}

#[tokio::test]
async fn an_unclean_end_after_progress_makes_no_suspects() {
    let database = test_database().await;
    unclean_ends(&database, "a", 7).await;
    assert_eq!(unclean_ends(&database, "b", 7).await, 1);
    assert_eq!(unclean_ends(&database, "c", 8).await, 0);
    assert_eq!(unclean_ends(&database, "d", 8).await, 1);
    assert_eq!(unclean_ends(&database, "d", 9).await, 0, "the same process had progress and was fenced");
    // As a version before this one has left it.
    database.execute("UPDATE partition_epochs SET start_offset = NULL, unclean_ends = 5").await;
    assert_eq!(unclean_ends(&database, "e", 9).await, 0);
}

#[tokio::test]
async fn a_claim_is_left_behind_from_when_its_partition_has_another_owner_until_that_one_claims_it() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let before = database.claim_one(claim("1", at(0, 5), epoch)).await.unwrap().holder;
    let is_left_behind = async |holder: &Holder| database.postgres.is_left_behind(holder).await.unwrap();
    assert!(!is_left_behind(&before).await);
    let next = database.raise(0).await;
    assert!(is_left_behind(&before).await);
    assert!(!is_left_behind(&Holder { topic: "another".into(), ..before.clone() }).await);

    let again = database.claim_one(claim("1", at(0, 5), next)).await.unwrap().holder;
    assert!(!is_left_behind(&again).await);
    // Who judged it before finds it taken.
    let mut copy = claim("1", at(1, 3), database.raise(1).await);
    copy.seize_from = Some(before);
    assert_eq!(database.claim_one(copy.clone()).await.unwrap().holder, again);
    database.raise(0).await;
    copy.seize_from = Some(again);
    assert_eq!(database.claim_one(copy).await.unwrap().holder.coordinates, at(1, 3));
}
