//! A topic that is sealed before it is deleted, so that all that it ever acknowledged is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use herald::core::record::{Header, Partition, Record};
use rdkafka::client::ClientContext;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use super::client::Kafka;
use crate::support::wait::blocking;
use crate::support::{headers, unique};

/// The header of what is produced to seal a topic.
const MARK: &[u8] = b"seal";
/// Less than brokers may be away for: whoever seals tries again.
const LIMIT: Duration = Duration::from_secs(4);

/// How each partition answered.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<BTreeMap<i32, Result<(), RDKafkaErrorCode>>>>);

impl Kafka {
    /// From now on the topic refuses records of more than so many bytes, as soon as its brokers have heard of it.
    pub async fn try_limit_topic(&self, name: &str, bytes: usize) -> bool {
        self.try_alter_topic(name, &[("max.message.bytes", &bytes.to_string())]).await
    }

    /// All records of more than `bytes` that the topic ever acknowledged: it acknowledges none any more, until its limit is changed.
    ///
    /// Each partition refuses a large record, so it knows its limit. Then it acknowledges a small one: what it took before is
    /// acknowledged too, or replicated as far, and can be read.
    pub async fn sealed(&self, topic: &str, bytes: usize) -> Result<Vec<Record>, String> {
        if !self.try_limit_topic(topic, bytes).await {
            return Err("the topic's limit cannot be set".to_owned());
        }
        let mark = Bytes::from(unique("seal"));
        let config = self.config(&[("acks", "all"), ("message.timeout.ms", "3000")]);
        let (to, signed) = (topic.to_owned(), mark.clone());
        let partitions = blocking(move || {
            let answers = Answers::default();
            let producer = config.create_with_context(answers.clone()).map_err(|error| error.to_string())?;
            let partitions = partitions(&producer, &to)?;
            let large = vec![0; bytes + 1];
            let of = |value| Marked { topic: &to, mark: &signed, value };
            answers.expect(&producer, partitions, &of(&large[..]), Err(RDKafkaErrorCode::MessageSizeTooLarge))?;
            answers.expect(&producer, partitions, &of(&[]), Ok(()))?;
            Ok::<_, String>(partitions)
        })
        .await?;
        let mut records = self.try_records(topic).await.map_err(|error| error.to_string())?;
        let marked: BTreeSet<Partition> = records
            .iter()
            .filter(|record| header(record).is_some_and(|header| header.value.as_ref() == Some(&mark)))
            .map(|record| record.coordinates.partition)
            .collect();
        if marked.len() != usize::try_from(partitions).unwrap() {
            return Err(format!("not all of it can be read: {} of {partitions} partitions", marked.len()));
        }
        records.retain(|record| header(record).is_none());
        Ok(records)
    }
}

fn header(record: &Record) -> Option<&Header> {
    record.headers.iter().find(|header| header.name == MARK)
}

fn partitions(producer: &BaseProducer<Answers>, topic: &str) -> Result<i32, String> {
    let metadata = producer.client().fetch_metadata(Some(topic), LIMIT).map_err(|error| error.to_string())?;
    let count = metadata.topics().iter().find(|one| one.name() == topic).map_or(0, |one| one.partitions().len());
    if count > 0 { Ok(i32::try_from(count).unwrap()) } else { Err("the topic is not there".to_owned()) }
}

/// What is produced to each partition.
struct Marked<'a> {
    topic: &'a str,
    mark: &'a Bytes,
    value: &'a [u8],
}

impl Answers {
    /// Produces to each partition and tells what answered otherwise.
    fn expect(
        &self,
        producer: &BaseProducer<Self>,
        partitions: i32,
        record: &Marked<'_>,
        expected: Result<(), RDKafkaErrorCode>,
    ) -> Result<(), String> {
        self.0.lock().unwrap().clear();
        let header = Header { name: Bytes::from_static(MARK), value: Some(record.mark.clone()) };
        let headers = [header];
        for partition in 0..partitions {
            let outgoing = BaseRecord::<[u8], [u8]>::to(record.topic)
                .partition(partition)
                .payload(record.value)
                .headers(headers::to_kafka(&headers));
            producer.send(outgoing).map_err(|(error, _)| error.to_string())?;
        }
        producer.flush(LIMIT).map_err(|error| error.to_string())?;
        let answers = self.0.lock().unwrap();
        let is_as_expected = |partition| answers.get(&partition) == Some(&expected);
        if (0..partitions).all(is_as_expected) { Ok(()) } else { Err(format!("{answers:?}, not {expected:?}")) }
    }
}

impl ClientContext for Answers {}

impl ProducerContext for Answers {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let (partition, answer) = match result {
            Ok(message) => (message.partition(), Ok(())),
            Err((error, message)) => {
                (message.partition(), Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)))
            }
        };
        self.0.lock().unwrap().insert(partition, answer);
    }
}
