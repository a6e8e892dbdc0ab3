//! What the demo produces, and so the truth that its accounts are checked against: every record of the story and how it must end.
//!
//! Payloads are made when they are needed, so that a long story costs a few bytes a record.

use std::collections::HashMap;

use fastrand::Rng;

use crate::core::failure::Reason;

pub const PARTITIONS: i32 = 4;
/// Headers of the poison records; the dead letters must have them unchanged.
pub const POISON_HEADERS: [(&str, &[u8]); 2] = [("x-tenant", b"acme"), ("flags", &[0x00, 0xff])];

/// How far behind its original a duplicate or a conflict may be, in orders.
const MAX_DISTANCE: u64 = 50;
/// Later orders than those of the story: the gateway refuses or fails each of these.
const REFUSED: [u16; 2] = [400, 422];
const FAILING: u64 = 2;

#[derive(Debug)]
pub struct Plan {
    seed: u64,
    orders: u64,
    /// The timestamp in the events: the same bytes whenever a value is made again.
    timestamp: String,
    flaky: HashMap<u64, Flaky>,
    chapters: HashMap<Chapter, Vec<PlannedRecord>>,
}

/// The parts of the story that produce records, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Chapter {
    Healthy,
    Trouble,
    Outage,
    Crash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedRecord {
    pub partition: i32,
    pub content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// An order that ends as notified, flaky or not.
    Order(u64),
    /// The same order once more.
    Duplicate(u64),
    /// An event type that nobody asked for.
    Ignored(u64),
    Poison(Poison),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    NotJson,
    CutOff,
    NotUtf8,
    Empty,
    Tombstone,
    MissingOrderId,
    MistypedQuantity,
    NulInOrderId,
    LongOrderId,
    /// An order of the story with another quantity.
    Conflict(u64),
    /// The gateway answers with a client error.
    Refused(u64),
    /// The gateway answers 500 for ever.
    Failing(u64),
}

/// An order that the gateway fails a few times before it accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flaky {
    pub status: u16,
    pub times: u32,
}

/// What the gateway does with an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    Accept,
    FailFirst(Flaky),
    /// This status, always.
    Always(u16),
}

impl Chapter {
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Trouble, Self::Outage, Self::Crash];

    /// Its share of the orders, in percent.
    fn share(self) -> u64 {
        match self {
            Self::Healthy => 45,
            Self::Trouble => 20,
            Self::Outage => 10,
            Self::Crash => 25,
        }
    }
}

impl Poison {
    pub fn reason(self) -> Reason {
        match self {
            Self::NotJson | Self::CutOff | Self::NotUtf8 | Self::Empty | Self::Tombstone => Reason::Undecodable,
            Self::MissingOrderId | Self::MistypedQuantity | Self::NulInOrderId | Self::LongOrderId => Reason::Invalid,
            Self::Conflict(_) => Reason::Conflict,
            Self::Refused(_) => Reason::Permanent,
            Self::Failing(_) => Reason::Exhausted,
        }
    }
}

impl Plan {
    /// A story with this many orders that end as notified.
    pub fn new(orders: u64, seed: u64) -> Self {
        let timestamp = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let mut plan = Self { seed, orders, timestamp, flaky: HashMap::new(), chapters: HashMap::new() };
        let mut random = Rng::with_seed(seed);
        let mut first = 1;
        let mut share = 0;
        for chapter in Chapter::ALL {
            share += chapter.share();
            let last = orders * share / 100;
            let records = plan.write(chapter, (first, last), &mut random);
            plan.chapters.insert(chapter, records);
            first = last + 1;
        }
        plan
    }

    /// Orders that end as notified: 1 to this number.
    pub fn orders(&self) -> u64 {
        self.orders
    }

    pub fn flaky(&self) -> usize {
        self.flaky.len()
    }

    pub fn records(&self, chapter: Chapter) -> &[PlannedRecord] {
        self.chapters.get(&chapter).map_or(&[], Vec::as_slice)
    }

    pub fn all_records(&self) -> impl Iterator<Item = &PlannedRecord> {
        Chapter::ALL.into_iter().flat_map(|chapter| self.records(chapter))
    }

    /// The orders that are notified once this chapter, and all before it, are done.
    pub fn orders_until(&self, chapter: Chapter) -> u64 {
        let share: u64 = Chapter::ALL.iter().take_while(|&&earlier| earlier != chapter).map(|one| one.share()).sum();
        self.orders * (share + chapter.share()) / 100
    }

    pub fn dead_letters(&self) -> usize {
        self.all_records().filter(|record| matches!(record.content, Content::Poison(_))).count()
    }

    pub fn behaviour(&self, order: u64) -> Behaviour {
        if let Some(flaky) = self.flaky.get(&order) {
            return Behaviour::FailFirst(*flaky);
        }
        let Some(beyond) = order.checked_sub(self.orders + 1) else {
            return Behaviour::Accept;
        };
        let refused = usize::try_from(beyond).ok().and_then(|index| REFUSED.get(index));
        Behaviour::Always(refused.copied().unwrap_or(500))
    }

    /// The `order` object of an order of the story, as it must reach the gateway.
    pub fn order_json(&self, order: u64) -> String {
        order_json(&order.to_string(), &self.quantity(order).to_string(), order)
    }

    /// The value of a record; a tombstone has none.
    pub fn value(&self, content: Content) -> Option<Vec<u8>> {
        match content {
            Content::Order(order) | Content::Duplicate(order) => Some(self.created(&self.order_json(order), order)),
            Content::Ignored(order) => Some(self.event_json("ORDER_SHIPPED", &self.order_json(order), order)),
            Content::Poison(poison) => self.poison(poison),
        }
    }

    fn created(&self, order_json: &str, seed: u64) -> Vec<u8> {
        self.event_json("ORDER_CREATED", order_json, seed)
    }

    /// Every other caller of the order service sends no headers; the service then writes "N/A".
    fn event_json(&self, event_type: &str, order: &str, seed: u64) -> Vec<u8> {
        let (timestamp, request_id) = if seed.is_multiple_of(2) {
            ("N/A", "N/A".to_owned())
        } else {
            (self.timestamp.as_str(), format!("demo-{seed}"))
        };
        format!(
            r#"{{"event_type":"{event_type}","order":{order},"timestamp":"{timestamp}","request_id":"{request_id}"}}"#
        )
        .into_bytes()
    }

    fn quantity(&self, order: u64) -> u64 {
        Rng::with_seed(self.seed ^ order).u64(1..=9)
    }

    fn poison(&self, poison: Poison) -> Option<Vec<u8>> {
        let created = |order_id: &str, quantity: &str| self.created(&order_json(order_id, quantity, 1), 1);
        let value = match poison {
            Poison::NotJson => b"order 17 was created".to_vec(),
            Poison::CutOff => br#"{"event_type":"ORDER_CREATED","order":{"order_id":17,"#.to_vec(),
            Poison::NotUtf8 => b"{\"event_type\":\"ORDER_CREATED\xff\xfe\"}".to_vec(),
            Poison::Empty => Vec::new(),
            Poison::Tombstone => return None,
            Poison::MissingOrderId => self.created(r#"{"user_id":7,"quantity":2,"status":"CREATED"}"#, 1),
            Poison::MistypedQuantity => created("17", "\"two\""),
            Poison::NulInOrderId => created("\"17\\u0000\"", "2"),
            Poison::LongOrderId => created(&format!("\"{}\"", "7".repeat(300)), "2"),
            Poison::Conflict(order) => {
                let other = order_json(&order.to_string(), &(self.quantity(order) + 1).to_string(), order);
                self.created(&other, order)
            }
            Poison::Refused(order) | Poison::Failing(order) => self.created(&self.order_json(order), order),
        };
        Some(value)
    }

    /// The records of one chapter: the orders from first to last, and what the chapter adds between them.
    fn write(&mut self, chapter: Chapter, (first, last): (u64, u64), random: &mut Rng) -> Vec<PlannedRecord> {
        let mut draft = Draft::default();
        let mut partitions = HashMap::new();
        for order in first..=last {
            let partition = random.i32(0..PARTITIONS);
            partitions.insert(order, partition);
            draft.add_order(order, PlannedRecord { partition, content: Content::Order(order) });
        }
        let count = (last + 1).saturating_sub(first);
        for _ in 0..(count / 25).max(1) {
            let order = random.u64(first..=last.max(first));
            let same = partitions.get(&order).copied().unwrap_or_default();
            let partition = if random.bool() { same } else { random.i32(0..PARTITIONS) };
            let distance = random.u64(0..MAX_DISTANCE);
            draft.add_after(order + distance, PlannedRecord { partition, content: Content::Duplicate(order) });
        }
        for _ in 0..(count / 250).max(1) {
            let order = random.u64(first..=last.max(first));
            let partition = random.i32(0..PARTITIONS);
            draft.add_after(order, PlannedRecord { partition, content: Content::Ignored(order) });
        }
        if chapter == Chapter::Trouble {
            self.add_trouble(&mut draft, (first, last), &partitions, random);
        }
        draft.finish()
    }

    fn add_trouble(
        &mut self,
        draft: &mut Draft,
        (first, last): (u64, u64),
        partitions: &HashMap<u64, i32>,
        random: &mut Rng,
    ) {
        let count = (last + 1).saturating_sub(first);
        for _ in 0..(count / 20).max(2) {
            let status = if random.bool() { 500 } else { 503 };
            self.flaky.insert(random.u64(first..=last.max(first)), Flaky { status, times: random.u32(1..=2) });
        }
        let poison = self.poison_list(first);
        let gap = (count / u64::try_from(poison.len()).unwrap_or(1)).max(1);
        for (number, poison) in (0..).zip(poison) {
            // Behind its order in the same partition, so that it is certain which of the two is the conflict.
            let partition = match poison {
                Poison::Conflict(order) => partitions.get(&order).copied().unwrap_or_default(),
                _ => random.i32(0..PARTITIONS),
            };
            draft.add_after(first + number * gap, PlannedRecord { partition, content: Content::Poison(poison) });
        }
    }

    fn poison_list(&self, first: u64) -> Vec<Poison> {
        let mut list = vec![
            Poison::NotJson,
            Poison::MissingOrderId,
            Poison::CutOff,
            Poison::Conflict(first),
            Poison::NotUtf8,
            Poison::MistypedQuantity,
            Poison::Empty,
            Poison::NulInOrderId,
            Poison::Tombstone,
            Poison::LongOrderId,
        ];
        let mut order = self.orders;
        for _ in REFUSED {
            order += 1;
            list.push(Poison::Refused(order));
        }
        for _ in 0..FAILING {
            order += 1;
            list.push(Poison::Failing(order));
        }
        list
    }
}

/// Records with the place that each is to have.
#[derive(Default)]
struct Draft(Vec<(u64, PlannedRecord)>);

impl Draft {
    fn add_order(&mut self, order: u64, record: PlannedRecord) {
        self.0.push((2 * order, record));
    }

    /// Behind the order, and before the next.
    fn add_after(&mut self, order: u64, record: PlannedRecord) {
        self.0.push((2 * order + 1, record));
    }

    fn finish(mut self) -> Vec<PlannedRecord> {
        self.0.sort_by_key(|(place, _)| *place);
        self.0.into_iter().map(|(_, record)| record).collect()
    }
}

/// The fields are those of the order service; `order_id` and `quantity` are JSON text, since poison has them wrong.
fn order_json(order_id: &str, quantity: &str, seed: u64) -> String {
    let user = seed % 997 + 1;
    let product = seed % 89 + 1;
    format!(
        r#"{{"order_id":{order_id},"user_id":{user},"product_id":{product},"quantity":{quantity},"status":"CREATED"}}"#
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::core::decode::{Decoded, Decoder};
    use crate::core::key::OrderingKey;
    use crate::core::record::{Coordinates, Offset, Partition, Record};

    fn decoded(plan: &Plan, content: Content) -> Decoded {
        let record = Record {
            coordinates: Coordinates { partition: Partition(0), offset: Offset(0) },
            timestamp: None,
            key: None,
            value: plan.value(content).map(Bytes::from),
            headers: Vec::new(),
        };
        Decoder::new(["ORDER_CREATED"], OrderingKey::OrderId).decode(&record)
    }

    #[test]
    fn the_worker_reads_every_record_as_it_is_planned() {
        let plan = Plan::new(1_000, 7);
        for record in plan.all_records() {
            let found = decoded(&plan, record.content);
            let expected = match record.content {
                Content::Order(_) | Content::Duplicate(_) => matches!(found, Decoded::Event { .. }),
                Content::Ignored(_) => matches!(found, Decoded::Ignored { .. }),
                Content::Poison(Poison::Conflict(_) | Poison::Refused(_) | Poison::Failing(_)) => {
                    matches!(found, Decoded::Event { .. })
                }
                Content::Poison(poison) => {
                    matches!(found, Decoded::Poison { reason, .. } if reason == poison.reason())
                }
            };
            assert!(expected, "{record:?}: {found:?}");
        }
    }

    #[test]
    fn every_order_is_produced_and_copies_follow_their_original() {
        for orders in [50, 1_000, 5_000] {
            let plan = Plan::new(orders, 3);
            let mut seen = HashMap::new();
            for record in plan.all_records() {
                match record.content {
                    Content::Order(order) => assert!(seen.insert(order, record.partition).is_none()),
                    Content::Duplicate(order) | Content::Ignored(order) => assert!(seen.contains_key(&order)),
                    Content::Poison(Poison::Conflict(order)) => assert_eq!(seen[&order], record.partition),
                    Content::Poison(_) => {}
                }
            }
            assert_eq!(u64::try_from(seen.len()).unwrap(), orders);
            assert_eq!(plan.dead_letters(), 14);
            assert_eq!(plan.orders_until(Chapter::Crash), orders);
            assert!(plan.flaky() > 0);
        }
    }

    #[test]
    fn a_conflict_has_the_id_of_its_order_and_other_content() {
        let plan = Plan::new(1_000, 7);
        let fingerprint = |content| match decoded(&plan, content) {
            Decoded::Event { event, .. } => (event.identity.order_id, event.fingerprint),
            other => panic!("{other:?}"),
        };
        let (order_id, original) = fingerprint(Content::Order(9));
        let (same_id, other) = fingerprint(Content::Poison(Poison::Conflict(9)));
        assert_eq!((&*order_id, &*same_id), ("9", "9"));
        assert_ne!(original, other);
        assert_eq!(fingerprint(Content::Duplicate(9)).1, original);
    }

    #[test]
    fn the_gateway_refuses_only_orders_that_are_not_of_the_story() {
        let plan = Plan::new(1_000, 7);
        let accepted = |order| !matches!(plan.behaviour(order), Behaviour::Always(_));
        assert!((1..=1_000).all(accepted));
        let beyond: Vec<_> = (1_001..=1_004).map(|order| plan.behaviour(order)).collect();
        assert_eq!(beyond, [400, 422, 500, 500].map(Behaviour::Always));
    }
}
