//! A run that did not happen, told in milliseconds.

use std::time::{Duration, Instant};

use bytes::Bytes;
use herald::core::record::{Coordinates, Header, Offset, Partition, Record};
use serde_json::json;

use crate::chronicle::{Entry, Fault, Life};
use crate::content::{Fate, NUMBER_HEADER, Planned};
use crate::judge::parking::{Change, Taking};
use crate::judge::{self, Check, Evidence, LedgerRow, Verdict};
use crate::load::{Receipt, Sent};
use crate::support::gateway::Request;
use crate::support::kafka::NewRecord;
use crate::{Ordering, Semantics, crew};

pub struct Story {
    start: Instant,
    evidence: Evidence,
}

pub fn worker(number: usize) -> Life {
    Life { number, slot: None }
}

impl Story {
    pub fn new() -> Self {
        let evidence = Evidence {
            sent: Vec::new(),
            log: Vec::new(),
            requests: Vec::new(),
            ledger: Vec::new(),
            letters: Vec::new(),
            published: Vec::new(),
            parking: Vec::new(),
            takings: Vec::new(),
            entries: Vec::new(),
            crew: crew::Record::default(),
            ordering: Ordering::OrderId,
            semantics: Semantics::AtLeastOnce,
            is_long: false,
            left: None,
            recovered_in: Duration::ZERO,
        };
        Self { start: Instant::now(), evidence }
    }

    /// An event of the one order that this is about, at a partition and an offset; gives its number.
    pub fn event(&mut self, event_type: &str, at: [i32; 2]) -> usize {
        let number = self.evidence.sent.len();
        let planned = Planned {
            record: NewRecord::default(),
            fate: Fate::Notified,
            identity: Some(("1".to_owned(), event_type.to_owned())),
            user: 1,
            is_copy: false,
        };
        self.evidence.sent.push(Sent { planned, receipt: Receipt::Uncertain });
        self.arrives(number, at);
        number
    }

    /// A record is in the log, perhaps once more.
    pub fn arrives(&mut self, number: usize, [partition, offset]: [i32; 2]) {
        let value = Some(Bytes::from(number.to_string()));
        self.evidence.log.push(Record {
            coordinates: Coordinates { partition: Partition(partition), offset: Offset(offset.into()) },
            timestamp: None,
            key: None,
            value: None,
            headers: vec![Header { name: Bytes::from_static(NUMBER_HEADER), value }],
        });
    }

    /// A request for a record, from one millisecond to another.
    pub fn asks(&mut self, life: Life, number: usize, time: [u64; 2], status: Option<u16>) {
        let [from, to] = time.map(|millis| self.at(millis));
        let (order_id, event_type) = self.evidence.sent[number].planned.identity.clone().unwrap();
        self.evidence.requests.push(Request {
            received: from,
            answered: status.map(|_| to),
            status,
            sequence: 0,
            path: format!("/notify?{}", life.query()),
            headers: vec![("idempotency-key".to_owned(), event_type.clone())],
            body: json!({"type": event_type, "order": {"order_id": order_id}, "request_id": number.to_string()}),
            raw: Bytes::new(),
        });
    }

    pub fn happens(&mut self, fault: Fault, [from, to]: [u64; 2]) {
        let entry = Entry { fault, from: self.at(from), to: Some(self.at(to)) };
        self.evidence.entries.push(entry);
    }

    pub fn settled(&mut self, number: usize, claimed: u64, settled: u64) {
        let row = LedgerRow {
            identity: self.evidence.sent[number].planned.identity.clone().unwrap(),
            state: "d".to_owned(),
            coordinates: self.evidence.log[number].coordinates,
            claimed: self.at(claimed),
            settled: Some(self.at(settled)),
        };
        self.evidence.ledger.push(row);
    }

    /// A worker takes a partition.
    pub fn takes(&mut self, life: Life, partition: i32, at: u64) {
        let taking = Taking { at: self.at(at), by: life.name(), partition: Partition(partition) };
        self.evidence.takings.push(taking);
    }

    /// A worker removes a record from parking.
    pub fn unparks(&mut self, life: Life, number: usize, at: u64) {
        let identity = self.evidence.sent[number].planned.identity.clone().unwrap();
        self.evidence.parking.push(Change { at: self.at(at), by: life.name(), identity, is_parked: false });
    }

    pub fn verdict(&self) -> Verdict {
        judge::judge(&self.evidence)
    }

    pub fn found(&self, check: Check) -> usize {
        self.verdict().findings.get(&check).map_or(0, Vec::len)
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }
}
