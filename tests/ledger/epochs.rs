use herald::core::record::{Epoch, Partition};

use crate::ledger::fixture::{at, claim, test_database};

#[tokio::test]
async fn each_raise_is_a_new_epoch_of_its_partition_alone() {
    let database = test_database().await;
    let (zero, one) = (Partition(0), Partition(1));
    let mut raised = database.postgres.raise(&[one, zero], "a").await.unwrap();
    raised.sort_unstable();
    assert_eq!(raised, [(zero, Epoch(1)), (one, Epoch(1))]);
    assert_eq!(database.postgres.raise(&[one], "b").await.unwrap(), [(one, Epoch(2))]);
    let mut read = database.postgres.read(&[zero, one, Partition(2)]).await.unwrap();
    read.sort_unstable();
    assert_eq!(read, [(zero, Epoch(1)), (one, Epoch(2))]);
    assert_eq!(database.postgres.raise(&[], "a").await.unwrap(), []);
}

#[tokio::test]
async fn a_raise_that_arrives_late_locks_nobody_out() {
    let database = test_database().await;
    let partition = [Partition(0)];
    database.postgres.raise(&partition, "old").await.unwrap();
    let current = database.postgres.raise(&partition, "owner").await.unwrap()[0].1;
    database.postgres.raise(&partition, "old").await.unwrap();
    let fenced = database.claim_one(claim("1", at(0, 5), current)).await;
    assert_eq!(fenced, None);
    let again = database.postgres.raise(&partition, "owner").await.unwrap()[0].1;
    assert!(database.claim_one(claim("1", at(0, 5), again)).await.is_some());
}

#[tokio::test]
async fn raises_of_the_same_partitions_at_once_all_succeed() {
    let database = test_database().await;
    let raise = |partitions: Vec<Partition>| {
        let postgres = database.postgres.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                postgres.raise(&partitions, "worker").await.unwrap();
            }
        })
    };
    let forward: Vec<Partition> = (0..50).map(Partition).collect();
    let backward = forward.iter().rev().copied().collect();
    let (one, other) = (raise(forward), raise(backward));
    one.await.unwrap();
    other.await.unwrap();
    assert_eq!(database.look("SELECT DISTINCT epoch::text FROM partition_epochs").await, "40");
}

#[tokio::test]
async fn unclean_ends_are_counted_until_one_is_clean() {
    let database = test_database().await;
    let partition = [Partition(0)];
    let state = "SELECT clean_end || ' ' || unclean_ends FROM partition_epochs";
    database.postgres.raise(&partition, "a").await.unwrap();
    assert_eq!(database.look(state).await, "false 0");
    // The same owner again: its answer was lost, or it was fenced.
    database.postgres.raise(&partition, "a").await.unwrap();
    assert_eq!(database.look(state).await, "false 0");
    database.postgres.raise(&partition, "b").await.unwrap();
    let raised = database.postgres.raise(&partition, "c").await.unwrap();
    assert_eq!(database.look(state).await, "false 2");
    // Somebody else's end, and then its own.
    database.postgres.end_clean(&[(Partition(0), Epoch(1))]).await.unwrap();
    assert_eq!(database.look(state).await, "false 2");
    database.postgres.end_clean(&raised).await.unwrap();
    assert_eq!(database.look(state).await, "true 2");
    database.postgres.raise(&partition, "d").await.unwrap();
    assert_eq!(database.look(state).await, "false 0");
}
