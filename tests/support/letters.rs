//! What the DLQ topic and the table of dead letters hold.

use herald::core::record::{Coordinates, Header, Offset, Partition, Record};
use herald::postgres::stored_form;
use sqlx::PgPool;

use super::World;
use super::wait::{EVENTUALLY, wait_until};

/// A row of `dead_letters`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Row {
    pub id: i64,
    pub kpartition: i32,
    pub koffset: i64,
    pub order_id: String,
    pub reason: String,
    pub class: String,
    pub error: String,
    pub bug: String,
    pub attempts: i32,
    /// As in the headers.
    pub first_failed_at: String,
    pub last_failed_at: String,
    pub is_published: bool,
}

/// All rows of this database, in the order in which they were written.
pub async fn rows(pool: &PgPool) -> Vec<Row> {
    let statement = r#"SELECT id, kpartition, koffset, order_id, reason, class, error, bug, attempts,
        to_char(first_failed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS first_failed_at,
        to_char(last_failed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS last_failed_at,
        published_at IS NOT NULL AS is_published FROM dead_letters ORDER BY id"#;
    sqlx::query_as(statement).fetch_all(pool).await.unwrap()
}

impl Row {
    pub fn place(&self) -> Coordinates {
        Coordinates { partition: Partition(self.kpartition), offset: Offset(self.koffset) }
    }

    pub fn is_of(&self, coordinates: Coordinates) -> bool {
        (self.kpartition, self.koffset) == (coordinates.partition.0, coordinates.offset.0)
    }
}

impl World {
    /// Waits until the table holds this many dead letters.
    pub async fn buried(&self, count: usize) -> Vec<Row> {
        self.rows_when("dead letters", count, |_| true).await
    }

    /// Waits until this many dead letters were published, and gives what the DLQ topic holds.
    pub async fn published(&self, count: usize) -> Vec<Record> {
        self.rows_when("published dead letters", count, |row| row.is_published).await;
        self.kafka.records(&self.dlq_topic).await
    }

    /// Asserts that the rows of these dead letters hold the records of the source topic byte for byte.
    pub async fn assert_kept_as_they_came(&self, places: &[Coordinates]) {
        let source = self.kafka.records(&self.topic).await;
        for place in places {
            let record = source.iter().find(|record| record.coordinates == *place).unwrap();
            let statement = "SELECT record FROM dead_letters WHERE kpartition = $1 AND koffset = $2";
            let row = sqlx::query_scalar(statement).bind(place.partition.0).bind(place.offset.0);
            let stored: Vec<u8> = row.fetch_one(&self.database.pool).await.unwrap();
            assert!(stored == stored_form(record), "the row of {place:?} holds another record");
        }
    }

    async fn rows_when(&self, what: &str, count: usize, wanted: fn(&Row) -> bool) -> Vec<Row> {
        wait_until(&format!("{count} {what}"), EVENTUALLY, async || {
            let rows = rows(&self.database.pool).await;
            let found = rows.iter().filter(|row| wanted(row)).count();
            if found >= count { Ok(rows) } else { Err(format!("{found} in {rows:#?}")) }
        })
        .await
    }
}

/// Asserts that the letter holds the record whole, or points to its row because it is too large; says which.
pub fn is_whole(letter: &Record, original: &Record) -> bool {
    let is_ours = |header: &&Header| header.name.starts_with(b"herald-") || header.name.starts_with(b"__dlq.errors.");
    let kept = |record: &'_ Record| record.headers.iter().filter(|one| !is_ours(one)).cloned().collect::<Vec<_>>();
    let is_whole = headers(letter, "herald-payload").is_empty();
    if is_whole {
        assert!((&letter.key, &letter.value) == (&original.key, &original.value), "the letter was changed");
        assert!(kept(letter) == kept(original), "its headers were changed");
    } else {
        assert_eq!(text(letter, "herald-payload"), "postgres");
        assert!(letter.value.is_none());
    }
    is_whole
}

/// The letter of the record that was polled from there.
pub fn letter_of(letters: &[Record], source: Coordinates) -> &Record {
    let (partition, offset) = (source.partition.to_string(), source.offset.to_string());
    let is_of = |letter: &&Record| {
        text(letter, "__dlq.errors.partition") == partition && text(letter, "__dlq.errors.offset") == offset
    };
    let found: Vec<_> = letters.iter().filter(is_of).collect();
    assert_eq!(found.len(), 1, "letters of {source:?}");
    found[0]
}

/// The value of the one header of this name.
pub fn text<'a>(record: &'a Record, name: &str) -> &'a str {
    let found = headers(record, name);
    assert_eq!(found.len(), 1, "{name} in {:?}", record.headers);
    std::str::from_utf8(found[0].value.as_deref().unwrap()).unwrap()
}

pub fn headers<'a>(record: &'a Record, name: &str) -> Vec<&'a Header> {
    record.headers.iter().filter(|header| header.name == name.as_bytes()).collect()
}
