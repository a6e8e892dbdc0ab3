//! How long a record waits that nothing stands before: from appended to its delivery started.
//!
//! In terms of what it cannot do without: one fetch, and the claim's commit. Both are measured on the same records in the same run: the
//! fetch by a bare consumer of the same topic, the commit by a claim of one row while the worker idles.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use crate::bare::Commits;
use crate::gateway::{Behaviour, Gateway};
use crate::source::Source;
use crate::stage::Stage;
use crate::support::wait::{EVENTUALLY, SOON, wait_until};
use crate::support::{orders, unique};
use crate::table::{Goal, Row, grouped, percentile};
use crate::work;
use crate::worker::{Watch, setup_with_gateway};

/// The idle time before a record is this at most: now and then a fetch has just begun to wait, now and then it has waited long.
const LONGEST_PAUSE_MILLIS: u64 = 40;

/// Orders that open connections and fill caches before it counts.
const WARM_UP: u64 = 20;

/// Of one record, in milliseconds since it was given to the producer.
#[derive(Clone, Copy, Debug)]
struct Sample {
    delivery_started: f64,
    fetched: f64,
    commit: f64,
}

pub async fn measure(stage: &Stage) -> Vec<Row> {
    let gateway = Gateway::start(Behaviour::Remembers);
    let source = Source::empty(&stage.kafka, 1).await;
    let ledger = stage.server.fresh().await;
    let group = unique("bench");
    let watch = Watch::spawn(&setup_with_gateway(&source, &ledger, &group, gateway.url()));
    wait_until("the worker has its partition", EVENTUALLY, async || {
        let assigned = watch.assigned().await;
        if assigned == [1.0] { Ok(()) } else { Err(format!("{assigned:?}")) }
    })
    .await;
    let mut commits = Commits::open(&ledger).await;
    let fetched = bare_consumer(&source);
    let producer = producer(&source);
    let mut samples = Vec::new();
    for order in 0..u64::from(stage.amounts.samples) + WARM_UP {
        tokio::time::sleep(Duration::from_millis(work::millis(order, LONGEST_PAUSE_MILLIS))).await;
        let appended = append(&producer, &source.topic, order);
        let started = gateway.arrived(order, SOON).await;
        let fetched = fetched.recv_timeout(SOON).expect("the bare consumer has it too");
        samples.push(Sample {
            delivery_started: millis(started - appended),
            fetched: millis(fetched - appended),
            commit: millis(commits.one().await),
        });
    }
    samples.drain(..usize::try_from(WARM_UP).unwrap());
    [("p50", 0.5), ("p99", 0.99)].map(|(name, part)| row(&samples, name, part)).into()
}

fn row(samples: &[Sample], name: &str, part: f64) -> Row {
    let of = |value: fn(&Sample) -> f64| percentile(samples.iter().map(value), part);
    let (started, fetched, commit) =
        (of(|sample| sample.delivery_started), of(|sample| sample.fetched), of(|sample| sample.commit));
    let bound = of(|sample| sample.fetched + 2.0 * sample.commit);
    Row {
        measure: format!(
            "latency {name} of {} records, idle",
            grouped(f64::from(u32::try_from(samples.len()).unwrap()))
        ),
        herald: format!("{started:.1} ms"),
        against: format!("{bound:.1} ms: a fetch {fetched:.1}, 2 commits of {commit:.1}"),
        ratio: started / bound,
        goal: Goal::AtMost(1.0),
    }
}

/// The moment before it is given away, so that the produce request counts for both that wait for the record.
fn append(producer: &BaseProducer, topic: &str, order: u64) -> Instant {
    let value = orders::created(order).to_string();
    let appended = Instant::now();
    producer.send(BaseRecord::<(), str>::to(topic).payload(&value).partition(0)).map_err(|(error, _)| error).unwrap();
    producer.flush(SOON).unwrap();
    appended
}

fn producer(source: &Source) -> BaseProducer {
    ClientConfig::new()
        .set("bootstrap.servers", source.kafka.bootstrap_servers())
        .set("linger.ms", "0")
        .set("acks", "all")
        .create()
        .unwrap()
}

/// When each record arrived, in order. The thread ends when nobody listens any more.
fn bare_consumer(source: &Source) -> Receiver<Instant> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", source.kafka.bootstrap_servers())
        .set("group.id", "unused")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&source.topic, 0, KafkaOffset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        while let Some(message) = consumer.poll(SOON) {
            let arrived = Instant::now();
            let is_heard = message.is_ok_and(|message| message.payload().is_some()) && sender.send(arrived).is_ok();
            if !is_heard {
                return;
            }
        }
    });
    receiver
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
