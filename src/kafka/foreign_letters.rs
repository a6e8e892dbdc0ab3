//! Dead-letter records read back, whoever wrote them: Herald, Spring Kafka, Kafka Connect, Kafka Streams, or a broker for a share
//! group. Each writer has its own family of headers; what is left of the headers is the original record's.

use bytes::Bytes;
use chrono::DateTime;

use super::letter_headers::{
    ATTEMPTS, CLASS, DLQ_DELIVERY_COUNT, DLQ_GROUP, DLQ_MESSAGE, DLQ_OFFSET, DLQ_PARTITION, DLQ_TOPIC, ERROR,
    FIRST_FAILED_AT, ID, LAST_FAILED_AT, PAYLOAD, REASON, REPLAYS, TIMESTAMP,
};
use crate::core::failure::Reason;
use crate::core::record::{Coordinates, Header, Offset, Partition, Record, Timestamp};

/// Who wrote a dead-letter record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    Herald,
    ShareGroup,
    SpringKafka,
    KafkaConnect,
    KafkaStreams,
}

/// A dead-letter record, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadLetter {
    pub writer: Writer,
    /// As it was in its topic.
    pub record: Record,
    pub topic: String,
    /// Absent where the writer does not tell.
    pub group: Option<String>,
    /// Only Herald tells.
    pub reason: Option<Reason>,
    pub class: String,
    pub error: String,
    pub attempts: u32,
    pub replays: u32,
    pub first_failed_at: Timestamp,
    pub last_failed_at: Timestamp,
    /// The value is not here: it was too large for the topic, or the writer does not copy any.
    pub is_pointer: bool,
}

/// The names that a writer uses.
struct Family {
    writer: Writer,
    prefixes: &'static [&'static str],
    topic: &'static str,
    partition: &'static str,
    offset: &'static str,
    group: &'static str,
    timestamp: &'static str,
    attempts: &'static str,
    error: &'static str,
    /// The first that there is.
    classes: &'static [&'static str],
}

const HERALD_PREFIX: &str = "herald-";
const SHARE_PREFIX: &str = "__dlq.errors.";
const SPRING_PREFIXES: [&str; 5] =
    ["kafka_dlt-", "kafka_original-", "kafka_exception-", "retry_topic-", "springDeserializerException"];

/// In the order in which they are looked for: Herald writes the share group's headers, too.
const FAMILIES: [Family; 6] = [
    Family {
        writer: Writer::Herald,
        prefixes: &[HERALD_PREFIX, SHARE_PREFIX],
        topic: DLQ_TOPIC,
        partition: DLQ_PARTITION,
        offset: DLQ_OFFSET,
        group: DLQ_GROUP,
        timestamp: TIMESTAMP,
        attempts: ATTEMPTS,
        error: ERROR,
        classes: &[CLASS],
    },
    Family {
        writer: Writer::ShareGroup,
        prefixes: &[SHARE_PREFIX],
        topic: DLQ_TOPIC,
        partition: DLQ_PARTITION,
        offset: DLQ_OFFSET,
        group: DLQ_GROUP,
        timestamp: "",
        attempts: DLQ_DELIVERY_COUNT,
        error: DLQ_MESSAGE,
        classes: &[],
    },
    Family {
        writer: Writer::SpringKafka,
        prefixes: &SPRING_PREFIXES,
        topic: "kafka_dlt-original-topic",
        partition: "kafka_dlt-original-partition",
        offset: "kafka_dlt-original-offset",
        group: "kafka_dlt-original-consumer-group",
        timestamp: "kafka_dlt-original-timestamp",
        attempts: "retry_topic-attempts",
        error: "kafka_dlt-exception-message",
        classes: &["kafka_dlt-exception-cause-fqcn", "kafka_dlt-exception-fqcn"],
    },
    // Behind its retry topics the same class writes other names.
    Family {
        writer: Writer::SpringKafka,
        prefixes: &SPRING_PREFIXES,
        topic: "kafka_original-topic",
        partition: "kafka_original-partition",
        offset: "kafka_original-offset",
        group: "kafka_original-consumer-group",
        timestamp: "kafka_original-timestamp",
        attempts: "retry_topic-attempts",
        error: "kafka_exception-message",
        classes: &["kafka_exception-cause-fqcn", "kafka_exception-fqcn"],
    },
    Family {
        writer: Writer::KafkaConnect,
        prefixes: &["__connect.errors."],
        topic: "__connect.errors.topic",
        partition: "__connect.errors.partition",
        offset: "__connect.errors.offset",
        group: "",
        timestamp: "",
        attempts: "",
        error: "__connect.errors.exception.message",
        classes: &["__connect.errors.exception.class.name"],
    },
    Family {
        writer: Writer::KafkaStreams,
        prefixes: &["__streams.errors."],
        topic: "__streams.errors.topic",
        partition: "__streams.errors.partition",
        offset: "__streams.errors.offset",
        group: "",
        timestamp: "",
        attempts: "",
        error: "__streams.errors.message",
        classes: &["__streams.errors.exception"],
    },
];

/// Reads a record of a dead-letter topic.
///
/// # Errors
/// What is missing to know where the record came from.
pub fn read(written: &Record) -> Result<ReadLetter, String> {
    let family = family_of(written).ok_or("no header says which topic it came from")?;
    let number = |name: &str| value(written, name).and_then(number);
    let text = |name: &str| value(written, name).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let partition = number(family.partition).and_then(|number| i32::try_from(number).ok());
    let partition = partition.ok_or_else(|| format!("{} is no partition", family.partition))?;
    let offset = number(family.offset).ok_or_else(|| format!("{} is no offset", family.offset))?;
    let is_ours = family.writer == Writer::Herald;
    let written_at = written.timestamp.unwrap_or(Timestamp(0));
    let timestamp = match number(family.timestamp) {
        // Whenever the record had one, as text: the eight bytes of a negative one are no binary number.
        _ if is_ours => text(family.timestamp).and_then(|millis| millis.parse().ok()).map(Timestamp),
        // Java clients give -1 to a record without one.
        Some(millis) => (millis >= 0).then_some(Timestamp(millis)),
        None => written.timestamp,
    };
    let moment = |name: &str| text(name).and_then(|text| rfc3339(&text)).unwrap_or(written_at);
    let last_failed_at = if is_ours { moment(LAST_FAILED_AT) } else { written_at };
    Ok(ReadLetter {
        writer: family.writer,
        record: Record {
            coordinates: Coordinates { partition: Partition(partition), offset: Offset(offset) },
            timestamp,
            key: written.key.clone(),
            value: written.value.clone(),
            headers: written.headers.iter().filter(|header| !family.owns(header)).cloned().collect(),
        },
        topic: text(family.topic).unwrap_or_default(),
        group: text(family.group),
        reason: text(REASON).filter(|_| is_ours).and_then(|name| Reason::ALL.into_iter().find(|r| r.as_str() == name)),
        class: if is_ours { text(CLASS).unwrap_or_default() } else { "unknown".to_owned() },
        error: error_of(family, family.classes.iter().find_map(|name| text(name)), text(family.error)),
        attempts: value(written, family.attempts).and_then(attempts).unwrap_or(1),
        replays: number(REPLAYS).filter(|_| is_ours).and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
        first_failed_at: if is_ours { moment(FIRST_FAILED_AT) } else { last_failed_at },
        last_failed_at,
        is_pointer: match family.writer {
            Writer::Herald => value(written, PAYLOAD).is_some(),
            // A share group copies keys and values only when it is told to.
            Writer::ShareGroup => written.value.is_none(),
            Writer::SpringKafka | Writer::KafkaConnect | Writer::KafkaStreams => false,
        },
    })
}

fn family_of(written: &Record) -> Option<&'static Family> {
    let has = |name: &str| value(written, name).is_some();
    FAMILIES.iter().find(|family| has(family.topic) && (family.writer != Writer::Herald || has(ID)))
}

/// Of others, the class of the exception stands before its message.
fn error_of(family: &Family, class: Option<String>, message: Option<String>) -> String {
    match (family.writer, class, message) {
        (Writer::Herald, _, message) => message.unwrap_or_default(),
        (_, Some(class), Some(message)) => format!("{class}: {message}"),
        (_, Some(text), None) | (_, None, Some(text)) => text,
        (_, None, None) => "the writer of the dead letter gave no error".to_owned(),
    }
}

/// The last one counts: writers append.
fn value<'a>(record: &'a Record, name: &str) -> Option<&'a Bytes> {
    if name.is_empty() {
        return None;
    }
    record.headers.iter().rev().find(|header| header.name == name.as_bytes())?.value.as_ref()
}

/// Digits, or the big-endian bytes that Spring Kafka writes. No partition and no offset in sight is so large that its bytes are
/// all digits.
fn number(bytes: &Bytes) -> Option<i64> {
    let is_text = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    match (&**bytes, is_text) {
        (text, true) => std::str::from_utf8(text).ok()?.parse().ok(),
        (binary, false) if binary.len() == 4 => Some(i32::from_be_bytes(binary.try_into().ok()?).into()),
        (binary, false) => Some(i64::from_be_bytes(binary.try_into().ok()?)),
    }
}

/// As other numbers, or the one byte that older versions of Spring Kafka write.
fn attempts(bytes: &Bytes) -> Option<u32> {
    match &**bytes {
        [byte] if !byte.is_ascii_digit() => Some(u32::from(*byte)),
        _ => number(bytes).and_then(|count| u32::try_from(count).ok()),
    }
}

fn rfc3339(text: &str) -> Option<Timestamp> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| Timestamp(time.timestamp_millis()))
}

impl Family {
    fn owns(&self, header: &Header) -> bool {
        self.prefixes.iter().any(|prefix| header.name.starts_with(prefix.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::letter_headers::{self, tests::letter};
    use super::*;

    fn header(name: &'static str, value: &[u8]) -> Header {
        Header { name: Bytes::from_static(name.as_bytes()), value: Some(Bytes::copy_from_slice(value)) }
    }

    fn written(headers: Vec<Header>) -> Record {
        Record {
            coordinates: Coordinates { partition: Partition(0), offset: Offset(7) },
            timestamp: Some(Timestamp(1_800_000_000_000)),
            key: None,
            value: Some(Bytes::from_static(b"{}")),
            headers,
        }
    }

    #[test]
    fn our_own_come_back_as_they_were() {
        let original = letter(vec![header("x", b"\xff"), header("x", b"2")]);
        let mut record = original.record.clone();
        record.headers = letter_headers::headers(&original, "g");
        record.coordinates = Coordinates { partition: Partition(0), offset: Offset(7) };
        record.timestamp = Some(Timestamp(1_800_000_000_000));
        let read = read(&record).unwrap();
        assert_eq!(read.record, original.record);
        assert_eq!((read.writer, read.reason, &*read.error), (Writer::Herald, Some(original.reason), &*original.error));
        assert_eq!((read.first_failed_at, read.last_failed_at), (original.first_failed_at, original.last_failed_at));
        assert_eq!((read.topic, read.group), ("order_events".to_owned(), Some("g".to_owned())));
    }

    #[test]
    fn a_time_before_the_epoch_comes_back_as_it_was() {
        for millis in [0, -1, -123, -1_234_567, i64::MIN] {
            let mut original = letter(Vec::new());
            original.record.timestamp = Some(Timestamp(millis));
            let headers = letter_headers::headers(&original, "g");
            let read = read(&Record { headers, ..original.record.clone() }).unwrap();
            assert_eq!(read.record, original.record);
        }
    }

    #[test]
    fn the_numbers_of_spring_kafka_are_binary() {
        let read = read(&written(vec![
            header("kafka_dlt-original-topic", b"order_events"),
            header("kafka_dlt-original-partition", &3_i32.to_be_bytes()),
            header("kafka_dlt-original-offset", &1_204_993_i64.to_be_bytes()),
            header("kafka_dlt-original-timestamp", &1_795_399_449_120_i64.to_be_bytes()),
            header("kafka_dlt-original-timestamp-type", b"CREATE_TIME"),
            header("kafka_dlt-original-consumer-group", b"notification_service_group"),
            header("kafka_dlt-exception-fqcn", b"java.lang.IllegalStateException"),
            header("kafka_dlt-exception-message", b"no such user"),
            header("kafka_dlt-exception-stacktrace", b"at ..."),
            header("retry_topic-attempts", &4_i32.to_be_bytes()),
            header("tenant", b"acme"),
        ]))
        .unwrap();
        assert_eq!(read.record.coordinates, Coordinates { partition: Partition(3), offset: Offset(1_204_993) });
        assert_eq!(read.record.timestamp, Some(Timestamp(1_795_399_449_120)));
        assert_eq!(read.record.headers, [header("tenant", b"acme")]);
        assert_eq!(read.error, "java.lang.IllegalStateException: no such user");
        assert_eq!((read.writer, read.attempts), (Writer::SpringKafka, 4));
        assert_eq!(read.group.as_deref(), Some("notification_service_group"));
    }

    #[test]
    fn behind_the_retry_topics_of_spring_kafka_the_names_are_others() {
        let read = read(&written(vec![
            header("kafka_original-topic", b"order_events"),
            header("kafka_original-partition", &3_i32.to_be_bytes()),
            header("kafka_original-offset", &41_i64.to_be_bytes()),
            header("kafka_original-timestamp", &(-1_i64).to_be_bytes()),
            header("kafka_original-timestamp-type", b"NoTimestampType"),
            header("kafka_original-consumer-group", b"g"),
            header("kafka_exception-fqcn", b"org.springframework.kafka.listener.ListenerExecutionFailedException"),
            header("kafka_exception-cause-fqcn", b"java.lang.IllegalStateException"),
            header("kafka_exception-message", b"no such user"),
            header("retry_topic-attempts", &[4]),
            header("retry_topic-original-timestamp", &1_795_399_449_120_i64.to_be_bytes()),
            header("tenant", b"acme"),
        ]))
        .unwrap();
        assert_eq!(read.record.coordinates, Coordinates { partition: Partition(3), offset: Offset(41) });
        assert_eq!((read.record.timestamp, &*read.record.headers), (None, &[header("tenant", b"acme")][..]));
        assert_eq!(read.error, "java.lang.IllegalStateException: no such user");
        assert_eq!((read.writer, read.attempts, read.group.as_deref()), (Writer::SpringKafka, 4, Some("g")));
    }

    #[test]
    fn a_share_group_that_copies_no_records_leaves_pointers() {
        let headers = || {
            let text = |name: &'static str, value: &[u8]| header(name, value);
            vec![
                text(DLQ_TOPIC, b"order_events"),
                text(DLQ_PARTITION, b"2"),
                text(DLQ_OFFSET, b"41"),
                text(DLQ_GROUP, b"g"),
                text(DLQ_DELIVERY_COUNT, b"5"),
                text(DLQ_MESSAGE, b"Offset delivery count exceeded the threshold."),
            ]
        };
        let with_value = read(&written(headers())).unwrap();
        assert_eq!((with_value.writer, with_value.is_pointer, with_value.attempts), (Writer::ShareGroup, false, 5));
        let without = Record { value: None, ..written(headers()) };
        assert!(read(&without).unwrap().is_pointer);
    }

    #[test]
    fn the_other_families_are_told_apart() {
        for (prefix, writer, error) in [
            ("__connect.errors.", Writer::KafkaConnect, "exception.message"),
            ("__streams.errors.", Writer::KafkaStreams, "message"),
            ("__dlq.errors.", Writer::ShareGroup, "message"),
        ] {
            let named = |name: &str, value: &[u8]| Header {
                name: Bytes::from(format!("{prefix}{name}")),
                value: Some(Bytes::copy_from_slice(value)),
            };
            let headers = vec![
                named("topic", b"order_events"),
                named("partition", b"2"),
                named("offset", b"41"),
                named(error, b"boom"),
                header("tenant", b"acme"),
            ];
            let read = read(&written(headers)).unwrap();
            assert_eq!((read.writer, &*read.error), (writer, "boom"));
            assert_eq!(read.record.coordinates, Coordinates { partition: Partition(2), offset: Offset(41) });
            assert_eq!(read.record.headers, [header("tenant", b"acme")]);
        }
    }

    #[test]
    fn what_does_not_say_where_it_came_from_is_refused() {
        assert!(read(&written(vec![header("tenant", b"acme")])).is_err());
        let headers = vec![header("__connect.errors.topic", b"t"), header("__connect.errors.partition", b"x")];
        assert!(read(&written(headers)).unwrap_err().contains("partition"));
    }
}
