//! What is produced, and how each record must end.

use std::collections::VecDeque;

use bytes::Bytes;
use fastrand::Rng;
use herald::core::failure::Reason;
use herald::core::record::Header;
use serde_json::{Value, json};

use crate::stage::{EVENT_TYPES, PARTITIONS};
use crate::support::gateway::Answer;
use crate::support::kafka::NewRecord;
use crate::support::oracle::Identity;

/// Names the record in the log, whatever became of its acknowledgement. An event's `request_id` is the same number, so that each
/// request to the gateway names the record that it was made for.
pub const NUMBER_HEADER: &[u8] = b"x-number";
/// Few, so that each has many records in every partition.
const USERS: u64 = 60;
/// Nobody else shares a key with orders that fail for good: behind such a head, others get one attempt only.
const USERS_OF_FAILING_ORDERS: std::ops::Range<u64> = 9_000..9_010;
/// How many orders are under way, each with events to come.
const OPEN_ORDERS: usize = 100;
/// Originals that may be produced again.
const REMEMBERED: usize = 400;

/// How a record must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Notified,
    Ignored,
    Dead(Reason),
}

#[derive(Clone, Debug)]
pub struct Planned {
    pub record: NewRecord,
    pub fate: Fate,
    /// Of events that are to be notified, or would be if the gateway took them.
    pub identity: Option<Identity>,
    pub user: u64,
    /// It has the identity of an earlier record.
    pub is_copy: bool,
}

/// What the gateway is to be told of an order before it is produced.
#[derive(Clone, Debug)]
pub enum Temper {
    Always(Answer),
    First(Vec<Answer>),
}

#[derive(Debug)]
pub struct Author {
    rng: Rng,
    next_order: u64,
    next_number: u64,
    open: VecDeque<Order>,
}

#[derive(Clone, Copy, Debug)]
struct Order {
    id: u64,
    user: u64,
    partition: i32,
    /// Index of the type of its next event.
    next: usize,
}

/// An acknowledged original.
pub type Original<'a> = &'a Planned;

impl Author {
    pub fn new(rng: Rng) -> Self {
        Self { rng, next_order: 1, next_number: 0, open: VecDeque::new() }
    }

    /// The next record; `originals` were acknowledged and are to be notified.
    pub fn next(&mut self, originals: &[Original<'_>]) -> (Planned, Option<(u64, Temper)>) {
        let mut temper = None;
        let recent = &originals[originals.len().saturating_sub(REMEMBERED)..];
        let original = (!recent.is_empty()).then(|| recent[self.rng.usize(..recent.len())]);
        let mut planned = match (self.rng.u32(..1000), original) {
            (0..60, Some(original)) => self.duplicate(original),
            (60..68, Some(original)) => self.conflict(original),
            (68..90, _) => self.undecodable(),
            (90..110, _) => self.invalid(),
            (110..130, _) => self.ignored(),
            (130..138, _) => {
                let (planned, id) = self.refused();
                temper = Some((id, Temper::Always(Answer::status(422).with_body("no such user"))));
                planned
            }
            (138..148, _) => {
                let (planned, id) = self.failing();
                temper = Some((id, Temper::Always(Answer::status(503))));
                planned
            }
            _ => {
                let (planned, fresh) = self.event();
                temper = fresh.and_then(|id| self.flaky().map(|answers| (id, Temper::First(answers))));
                planned
            }
        };
        self.sign(&mut planned);
        (planned, temper)
    }

    /// An event that nothing is wrong with.
    pub fn healthy(&mut self) -> Planned {
        let (mut planned, _) = self.event();
        self.sign(&mut planned);
        planned
    }

    /// The next event of an order that is under way, or the first of a new one, which is then given too.
    fn event(&mut self) -> (Planned, Option<u64>) {
        let is_new = self.open.is_empty() || (self.open.len() < OPEN_ORDERS && self.rng.u32(..3) == 0);
        let mut order = if is_new { self.order() } else { self.open.pop_front().expect("there is one") };
        let planned = self.planned(order, Fate::Notified);
        let fresh = (order.next == 0).then_some(order.id);
        order.next += 1;
        if order.next < EVENT_TYPES.len() {
            let place = self.open.len() - self.rng.usize(..=self.open.len() / 2);
            self.open.insert(place, order);
        }
        (planned, fresh)
    }

    fn order(&mut self) -> Order {
        let id = self.next_order;
        self.next_order += 1;
        Order { id, user: self.rng.u64(1..=USERS), partition: self.rng.i32(0..PARTITIONS), next: 0 }
    }

    fn planned(&mut self, order: Order, fate: Fate) -> Planned {
        let value = event(EVENT_TYPES[order.next], order.id, order.user, 1);
        Planned {
            record: NewRecord {
                key: self.rng.bool().then(|| Bytes::from(order.user.to_string())),
                ..NewRecord::of(value.to_string()).in_partition(order.partition)
            },
            fate,
            identity: Some((order.id.to_string(), EVENT_TYPES[order.next].to_owned())),
            user: order.user,
            is_copy: false,
        }
    }

    /// An order that the gateway refuses for good.
    fn refused(&mut self) -> (Planned, u64) {
        let order = self.order();
        (self.planned(order, Fate::Dead(Reason::Permanent)), order.id)
    }

    /// An order that fails however often it is tried.
    fn failing(&mut self) -> (Planned, u64) {
        let order = Order { user: self.rng.u64(USERS_OF_FAILING_ORDERS), ..self.order() };
        (self.planned(order, Fate::Dead(Reason::Exhausted)), order.id)
    }

    /// What the first few requests for an order are answered, for some orders.
    fn flaky(&mut self) -> Option<Vec<Answer>> {
        (self.rng.u32(..20) == 0).then(|| {
            let count = self.rng.usize(1..=3);
            (0..count).map(|_| self.bad_answer()).collect()
        })
    }

    fn bad_answer(&mut self) -> Answer {
        match self.rng.u32(..6) {
            0 => Answer::status(500),
            1 => Answer::status(503),
            2 => Answer::status(429).retry_after("1"),
            3 => Answer::status(504),
            4 => Answer::Reset,
            _ => Answer::Hang,
        }
    }

    /// The same event produced again, where it was or in any other partition.
    fn duplicate(&mut self, original: Original<'_>) -> Planned {
        let mut planned = original.clone();
        planned.record.headers.clear();
        planned.is_copy = true;
        if self.rng.u32(..3) > 0 {
            planned.record.partition = Some(self.rng.i32(0..PARTITIONS));
        }
        planned
    }

    /// The same identity with other content, behind its original.
    fn conflict(&mut self, original: Original<'_>) -> Planned {
        let (order_id, event_type) = original.identity.clone().expect("originals have one");
        let value = event(&event_type, order_id.parse().unwrap(), original.user, self.rng.u64(2..1_000_000));
        let record =
            NewRecord { value: Some(value.to_string().into()), headers: Vec::new(), ..original.record.clone() };
        Planned { record, fate: Fate::Dead(Reason::Conflict), is_copy: true, ..original.clone() }
    }

    fn undecodable(&mut self) -> Planned {
        let value: Option<Vec<u8>> = match self.rng.u32(..6) {
            0 => None,
            1 => Some(Vec::new()),
            2 => Some((0..self.rng.usize(1..2_000)).map(|_| self.rng.u8(..)).chain([0xff]).collect()),
            3 => Some(b"[1, 2, 3]".to_vec()),
            4 => Some(br#"{"event_type": "ORDER_CREATED", "order": {"order_id": 1"#.to_vec()),
            _ => Some(vec![b'{'; 500]),
        };
        self.poison(value, Reason::Undecodable)
    }

    fn invalid(&mut self) -> Planned {
        let mut value = event(EVENT_TYPES[0], self.rng.u64(1..1_000_000), 1, 1);
        match self.rng.u32(..6) {
            0 => drop(value.as_object_mut().unwrap().remove("order")),
            1 => value["order"]["order_id"] = json!("a\u{0}b"),
            2 => value["order"]["order_id"] = json!("9".repeat(256)),
            3 => value["order"]["user_id"] = Value::Null,
            4 => value["order"]["quantity"] = json!("many"),
            _ => value["order"] = json!([]),
        }
        self.poison(Some(value.to_string().into()), Reason::Invalid)
    }

    fn poison(&mut self, value: Option<Vec<u8>>, reason: Reason) -> Planned {
        let header = |name: &'static [u8], value: Option<&'static [u8]>| Header {
            name: Bytes::from_static(name),
            value: value.map(Bytes::from_static),
        };
        let headers = match self.rng.u32(..3) {
            0 => Vec::new(),
            1 => vec![header(b"x-tenant", Some(b"acme")), header(b"flags", Some(&[0, 0xff]))],
            _ => vec![header(b"twice", None), header(b"twice", Some(b"")), header(b"\xff\xfe", Some(b"name"))],
        };
        let record = NewRecord {
            partition: Some(self.rng.i32(0..PARTITIONS)),
            key: self.rng.bool().then(|| Bytes::from_static(b"\0key\xff")),
            value: value.map(Bytes::from),
            headers,
            timestamp: None,
        };
        Planned { record, fate: Fate::Dead(reason), identity: None, user: 0, is_copy: false }
    }

    /// Of a type that nobody is notified of.
    fn ignored(&mut self) -> Planned {
        let order = self.order();
        let value = event("ORDER_VIEWED", order.id, order.user, 1);
        let record = NewRecord::of(value.to_string()).in_partition(order.partition);
        Planned { record, fate: Fate::Ignored, identity: None, user: order.user, is_copy: false }
    }

    fn sign(&mut self, planned: &mut Planned) {
        let number = self.next_number.to_string();
        self.next_number += 1;
        let record = &mut planned.record;
        if planned.identity.is_some() {
            let mut value: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
            value["request_id"] = json!(number);
            record.value = Some(value.to_string().into());
        }
        record.headers.push(Header { name: Bytes::from_static(NUMBER_HEADER), value: Some(Bytes::from(number)) });
    }
}

fn event(event_type: &str, order_id: u64, user: u64, quantity: u64) -> Value {
    json!({
        "event_type": event_type,
        "order": {"order_id": order_id, "user_id": user, "product_id": 3, "quantity": quantity, "status": "CREATED"},
        "timestamp": "N/A",
        "request_id": "N/A",
    })
}
