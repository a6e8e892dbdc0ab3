//! What is kept and shown of a record that was given up on: the record itself, byte for byte, and nothing of what is masked.

use bytes::Bytes;
use herald::core::dead_letter::{Letter, bug_fingerprint};
use herald::core::decode::{SYNTHETIC_EVENT_TYPE, synthetic_identity};
use herald::core::failure::Reason;
use herald::core::record::{Coordinates, Header, Offset, Record, Timestamp};
use herald::kafka::dead_letters::headers;
use herald::kafka::foreign_letters::{ReadLetter, Writer, read};
use herald::operations::{Payload, as_line, seen};
use herald::postgres::{
    DeadLetterState, ListedLetter, PastAttempt, WholeLetter, bounded_text, read_stored_form, stored_form,
};

use super::reading::{Fields, text_of};
use super::records::PARTITION;

const GROUP: &str = "notification_service_group";
const TOPIC: &str = "order_events";
/// The end of the year 9999.
const LAST_TIME: i64 = 253_402_300_799_999;

/// Panics when something of the record is lost or told apart, or shows where it may not. A gateway repeats its last header in an error.
pub fn check(record: &Record) {
    check_synthetic_identity(record);
    check_stored(record);
    let echo = record.headers.last().and_then(|header| str::from_utf8(header.value.as_ref()?).ok());
    let error = format!("webhook: 422 unprocessable: {}", echo.unwrap_or("no"));
    check_text(&error);
    let letter = letter(record, &error);
    check_published(&letter);
    check_shown(&letter);
}

/// What has no identity gets one, of its place and of all that it holds.
fn check_synthetic_identity(record: &Record) {
    let (identity, payload) = synthetic_identity(TOPIC, record);
    assert_eq!((identity.order_id.len(), &*identity.event_type), (64, SYNTHETIC_EVENT_TYPE));
    let mut other = record.clone();
    match record.size() % 5 {
        0 => other.coordinates.offset = record.coordinates.offset.next(),
        1 => other.headers.push(Header { name: Bytes::new(), value: None }),
        2 => other.key = if record.key.is_none() { Some(Bytes::new()) } else { None },
        // Where one part ends and the next begins tells records apart.
        3 => (other.key, other.value) = (record.value.clone(), record.key.clone()),
        _ => other.headers.reverse(),
    }
    let (other_identity, other_payload) = synthetic_identity(TOPIC, &other);
    assert_eq!(other_identity == identity, other == *record);
    let is_moved = Record { coordinates: record.coordinates, ..other } == *record;
    assert_eq!(other_payload == payload, is_moved);
}

fn check_stored(record: &Record) {
    let stored = stored_form(record);
    let read = read_stored_form(record.coordinates, stored.clone()).expect("what was stored can be read");
    assert_eq!(&read, record);
    assert_eq!(stored_form(&read), stored);
    // What nobody stored as a record is damaged, or is one.
    let other = read_stored_form(record.coordinates, record.value.as_deref().unwrap_or_default().to_vec());
    if let Ok(other) = other {
        assert_eq!(read_stored_form(other.coordinates, stored_form(&other)).ok().as_ref(), Some(&other));
    }
}

/// Of an error, what Postgres takes.
fn check_text(error: &str) {
    let text = bounded_text(error);
    assert!(text.len() <= 2_000 && !text.contains('\0'));
    assert!(error.replace('\0', "").starts_with(&*text));
    assert!(text.len() == error.len() || error.contains('\0') || text.len() > 1_996);
    let bug = bug_fingerprint(Reason::Invalid, error);
    assert!(bug.len() == 16 && bug.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(bug, bug_fingerprint(Reason::Invalid, &error.replace('7', "4")));
}

fn letter(record: &Record, error: &str) -> Letter {
    let number = record.headers.len();
    let failed_at = record.timestamp.unwrap_or(Timestamp(0));
    Letter {
        id: record.coordinates.offset.0,
        topic: TOPIC.into(),
        record: record.clone(),
        reason: Reason::ALL[number % Reason::ALL.len()],
        class: "permanent".to_owned(),
        error: error.to_owned(),
        attempts: number.try_into().unwrap_or(u32::MAX),
        first_failed_at: failed_at,
        last_failed_at: failed_at,
        fingerprint: bug_fingerprint(Reason::Invalid, error),
        replays: 0,
    }
}

/// The letter in the topic holds the record, with one set of our headers behind its own, and is read back as it was.
fn check_published(letter: &Letter) {
    let original = &letter.record;
    let all = headers(letter, GROUP);
    let ours = headers(&Letter { record: Record { headers: Vec::new(), ..original.clone() }, ..letter.clone() }, GROUP);
    let is_ours = |header: &&Header| {
        let mut names = ours.iter().map(|header| &*header.name).chain([&b"herald-payload"[..], b"herald-timestamp"]);
        names.any(|name| name == header.name)
    };
    let originals: Vec<&Header> = original.headers.iter().filter(|header| !is_ours(header)).collect();
    assert_eq!(all[..originals.len()].iter().collect::<Vec<_>>(), originals);
    assert_eq!(all[originals.len()..], ours);
    let size: usize = ours.iter().map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len)).sum();
    assert!(size <= 4_096 - b"herald-payloadpostgres".len(), "{size}");

    let coordinates = Coordinates { partition: PARTITION, offset: Offset(0) };
    let published = Record { coordinates, timestamp: Some(Timestamp(1)), headers: all, ..original.clone() };
    check_read_back(letter, &read(&published).expect("our own can be read"));
    // And a record that only looks like a letter is no more than that.
    if let Ok(other) = read(original) {
        assert_eq!((&other.record.key, &other.record.value), (&original.key, &original.value));
        assert!(other.record.headers.iter().all(|header| original.headers.contains(header)));
    }
}

fn check_read_back(letter: &Letter, read: &ReadLetter) {
    let original = &letter.record;
    let kept = |header: &&Header| !header.name.starts_with(b"herald-") && !header.name.starts_with(b"__dlq.errors.");
    let expected = Record { headers: original.headers.iter().filter(kept).cloned().collect(), ..original.clone() };
    assert_eq!(read.record, expected);
    assert_eq!((read.writer, read.is_pointer, read.reason), (Writer::Herald, false, Some(letter.reason)));
    assert_eq!((&*read.topic, read.group.as_deref(), &*read.class), (TOPIC, Some(GROUP), &*letter.class));
    assert_eq!((read.attempts, read.replays), (letter.attempts, letter.replays));
    assert!(letter.error.starts_with(&read.error));
    assert!(read.error == letter.error || (1_021..=1_024).contains(&read.error.len()), "{}", read.error.len());
    if (0..=LAST_TIME).contains(&letter.first_failed_at.0) {
        assert_eq!((read.first_failed_at, read.last_failed_at), (letter.first_failed_at, letter.last_failed_at));
    }
}

/// A line of JSON, in which what is masked stands nowhere.
fn check_shown(letter: &Letter) {
    let mask: &[String] =
        if letter.record.size().is_multiple_of(4) { &[] } else { &["status".to_owned(), "order.note".to_owned()] };
    let (shown, payload) = seen(whole(letter), mask);
    let line = as_line(&shown, &payload);
    let line = Fields::of(&line).expect("a line is JSON");
    assert_eq!(line.last("error").and_then(text_of).as_ref(), Some(&shown.listed.error));
    let secret = secret_of(letter.record.value.as_deref()).filter(|_| !mask.is_empty());
    let (Some(secret), Payload::Json(text)) = (secret, payload) else { return };
    let order = Fields::of(&text).and_then(|event| Fields::of(event.last("order")?));
    assert_eq!(order.and_then(|order| order.last("status")), Some("\"***\""));
    let errors = [&shown.listed.error, &shown.history[0].error].map(String::as_bytes);
    let headers = shown.record.headers.iter().filter_map(|header| header.value.as_deref());
    for bytes in errors.into_iter().chain(shown.record.key.as_deref()).chain(headers) {
        assert!(!String::from_utf8_lossy(bytes).contains(&secret), "{secret:?} is in {bytes:?}");
    }
}

/// A status that cannot be taken for anything else.
fn secret_of(value: Option<&[u8]>) -> Option<String> {
    let event = Fields::of(str::from_utf8(value?).ok()?)?;
    let status = text_of(Fields::of(event.last("order")?)?.last("status")?)?;
    let is_telling = status.len() >= 4 && status.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_telling.then_some(status)
}

fn whole(letter: &Letter) -> WholeLetter {
    let error = letter.error.clone();
    WholeLetter {
        listed: ListedLetter {
            id: letter.id,
            coordinates: letter.record.coordinates,
            order_id: "1".to_owned(),
            event_type: "ORDER_CREATED".to_owned(),
            reason: letter.reason,
            class: letter.class.clone(),
            error: error.clone(),
            group: letter.fingerprint.clone(),
            attempts: letter.attempts,
            replays: letter.replays,
            state: DeadLetterState::Open,
            first_failed_at: letter.first_failed_at,
            last_failed_at: letter.last_failed_at,
            closed: None,
        },
        record: letter.record.clone(),
        history: vec![PastAttempt {
            number: 1,
            at: letter.first_failed_at,
            took_ms: 3,
            class: letter.class.clone(),
            error,
        }],
        replays: Vec::new(),
        published_at: None,
    }
}
