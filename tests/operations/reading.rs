//! Which replayed records the workers read.

use bytes::Bytes;
use herald::core::record::{Coordinates, Partition};
use herald::postgres::Scheduling;

use super::Office;
use super::racing::{running, scheduling};
use crate::ledger::fixture::at;

#[tokio::test]
async fn what_is_held_in_memory_is_not_read_again_and_hides_nothing_and_large_records_come_one_after_another() {
    let office = Office::with_letters(5).await;
    let replay = running(&office.operator("ana"), &[1, 2, 3, 4, 5]).await;
    let large = Bytes::from(vec![b'x'; 3 << 20]);
    let letters: Vec<Scheduling> = (1..)
        .zip(1..=5)
        .map(|(place, number)| {
            let mut letter = scheduling(place, number);
            letter.record.value = if number > 2 { Some(large.clone()) } else { letter.record.value };
            letter
        })
        .collect();
    let postgres = &office.database.postgres;
    postgres.schedule(replay, &letters).await.unwrap();
    // All at once, so that only their names order them.
    office.database.execute("UPDATE parked_events SET due_at = now() - interval '1 second'").await;
    let owned = [(Partition(0), office.database.raise(0).await)];
    let read = async |held: &[Coordinates], limit| -> Vec<i64> {
        let rows = postgres.load_replays(&owned, held, limit).await.unwrap();
        rows.iter().map(|row| row.row.record.coordinates.offset.0).collect()
    };
    let loaded = "SELECT loaded_at::text FROM parked_events WHERE koffset = 1";

    assert_eq!(read(&[], 2).await, [1, 2]);
    let first = office.database.look(loaded).await;
    let held = [at(0, 1), at(0, 2)];
    assert_eq!(read(&held, 2).await, [3], "the fourth has no room beside it");
    assert_eq!(read(&held, 1).await, [3], "it was not taken in");
    let held = [at(0, 1), at(0, 2), at(0, 3), at(1, 4)];
    assert_eq!(read(&held, 200).await, [4]);
    assert_eq!(read(&[at(0, 1), at(0, 2), at(0, 3), at(0, 4), at(0, 5)], 200).await, Vec::<i64>::new());
    assert_eq!(office.database.look(loaded).await, first);
    let unread = "SELECT string_agg(koffset::text, ' ') FROM parked_events WHERE loaded_at IS NULL";
    assert_eq!(office.database.look(unread).await, "5");
}
