//! The producer, and its memory of every record: acknowledged, or uncertain.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;
use herald::core::record::{Coordinates, Offset, Partition};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use crate::content::{Author, Fate, Planned, Temper};
use crate::support::gateway::Gateway;
use crate::support::headers;
use crate::support::kafka::Kafka;

/// The share of the rate that goes on when only healthy orders are produced.
const TRICKLE: f64 = 0.2;
const TICK: Duration = Duration::from_millis(50);
/// How long the last records may take to be acknowledged.
const FLUSH: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub struct Sent {
    pub planned: Planned,
    pub receipt: Receipt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    Pending,
    Acknowledged(Coordinates),
    /// Not acknowledged in time: it may be in the log or not.
    Uncertain,
}

/// Produces until it is told to stop.
#[derive(Debug)]
pub struct Load {
    phase: Arc<AtomicU8>,
    thread: JoinHandle<Vec<Sent>>,
}

/// Everything, in waves.
const MIXED: u8 = 0;
/// A few orders that nothing is wrong with.
const HEALTHY: u8 = 1;
const OVER: u8 = 2;

type Memory = Arc<Mutex<Vec<Sent>>>;
type Chaotic = BaseProducer<Receipts>;

struct Receipts(Memory);

impl Load {
    pub fn start(kafka: &Kafka, topic: &'static str, gateway: Arc<Gateway>, rng: Rng, rate: u32) -> Self {
        let phase = Arc::new(AtomicU8::new(MIXED));
        let (seen, servers) = (Arc::clone(&phase), kafka.bootstrap_servers().to_owned());
        let thread = thread::spawn(move || {
            let mut producing = Producing {
                servers,
                topic,
                memory: Memory::default(),
                author: Author::new(rng.clone()),
                gateway,
                rng,
                rate,
            };
            producing.run(&seen)
        });
        Self { phase, thread }
    }

    /// From now on a few healthy orders only: that they are notified is the evidence against those that always fail.
    pub fn only_healthy(&self) {
        self.phase.store(HEALTHY, Ordering::Relaxed);
    }

    /// Blocks until every record is acknowledged or uncertain.
    pub fn finish(self) -> Vec<Sent> {
        self.phase.store(OVER, Ordering::Relaxed);
        self.thread.join().expect("the producer does not panic")
    }
}

struct Producing {
    servers: String,
    topic: &'static str,
    memory: Memory,
    author: Author,
    gateway: Arc<Gateway>,
    rng: Rng,
    rate: u32,
}

impl Producing {
    fn run(&mut self, phase: &AtomicU8) -> Vec<Sent> {
        let mut producer = self.producer();
        let mut due = 0.0;
        let mut wave = Wave::next(&mut self.rng);
        loop {
            let phase = phase.load(Ordering::Relaxed);
            if phase == OVER {
                break;
            }
            if producer.client().fatal_error().is_some() {
                producer = self.producer();
            }
            if wave.until < Instant::now() {
                wave = Wave::next(&mut self.rng);
            }
            let strength = if phase == HEALTHY { TRICKLE } else { wave.strength };
            due += f64::from(self.rate) * strength * TICK.as_secs_f64();
            while due >= 1.0 {
                self.produce(&producer, phase);
                due -= 1.0;
            }
            producer.poll(TICK);
        }
        // What is not acknowledged by then is uncertain.
        let _ = producer.flush(FLUSH);
        drop(producer);
        let mut memory = self.memory.lock().unwrap();
        for sent in memory.iter_mut().filter(|sent| sent.receipt == Receipt::Pending) {
            sent.receipt = Receipt::Uncertain;
        }
        memory.clone()
    }

    fn produce(&mut self, producer: &Chaotic, phase: u8) {
        let (number, planned) = {
            let mut memory = self.memory.lock().unwrap();
            let originals: Vec<&Planned> = memory.iter().rev().take(1_000).rev().filter_map(Sent::original).collect();
            let (planned, temper) =
                if phase == HEALTHY { (self.author.healthy(), None) } else { self.author.next(&originals) };
            if let Some((order, temper)) = temper {
                tell(&self.gateway, order, temper);
            }
            memory.push(Sent { planned: planned.clone(), receipt: Receipt::Pending });
            (memory.len() - 1, planned)
        };
        let mut record = BaseRecord::<[u8], [u8], _>::with_opaque_to(self.topic, Box::new(number));
        record.partition = planned.record.partition;
        record.key = planned.record.key.as_deref();
        record.payload = planned.record.value.as_deref();
        record.headers = Some(headers::to_kafka(&planned.record.headers));
        if let Err((_, refused)) = producer.send(record) {
            self.memory.lock().unwrap()[*refused.delivery_opaque].receipt = Receipt::Uncertain;
        }
    }

    fn producer(&self) -> Chaotic {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.servers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("message.timeout.ms", "8000")
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "500")
            .set_log_level(RDKafkaLogLevel::Emerg);
        config.create_with_context(Receipts(Arc::clone(&self.memory))).unwrap()
    }
}

impl Sent {
    /// What may be produced again: an order that is known to be in the log and to be notified.
    fn original(&self) -> Option<&Planned> {
        let is_there = matches!(self.receipt, Receipt::Acknowledged(_));
        let planned = &self.planned;
        (is_there && !planned.is_copy && planned.fate == Fate::Notified).then_some(planned)
    }
}

/// Load comes and goes.
struct Wave {
    strength: f64,
    until: Instant,
}

impl Wave {
    fn next(rng: &mut Rng) -> Self {
        let strength = [0.0, 0.5, 1.0, 1.0, 1.5, 2.5][rng.usize(..6)];
        Self { strength, until: Instant::now() + Duration::from_millis(rng.u64(1_000..6_000)) }
    }
}

fn tell(gateway: &Gateway, order: u64, temper: Temper) {
    match temper {
        Temper::Always(answer) => gateway.always_answer_order(&order.to_string(), answer),
        Temper::First(answers) => gateway.answer_order(&order.to_string(), answers),
    }
}

impl ClientContext for Receipts {}

impl ProducerContext for Receipts {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Box<usize>) {
        let receipt = match result {
            Ok(message) => Receipt::Acknowledged(Coordinates {
                partition: Partition(message.partition()),
                offset: Offset(message.offset()),
            }),
            Err(_) => Receipt::Uncertain,
        };
        self.0.lock().unwrap()[*number].receipt = receipt;
    }
}
