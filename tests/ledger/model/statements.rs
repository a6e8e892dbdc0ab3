//! Statements at random: most as an owner would send them next, some late, some of owners of before, some of other copies.

use herald::core::attempts::FailedAttempt;
use herald::core::effect::{Claim, DeadLetter, ParkedKey, Parking, Settlement, Start};
use herald::core::event::Identity;
use herald::core::failure::Reason;
use herald::core::input::{Holder, Ticket};
use herald::core::key::LaneKey;

use super::*;
use crate::ledger::fixture::{CONTENT, OTHER_CONTENT, at, dead_letter, identity, record};

/// Copies of one order.
const COPIES: u64 = 4;

#[derive(Debug)]
pub(super) enum Statement {
    Raise { partition: Partition, owner: u64, start: Offset },
    EndClean(Partition, Epoch),
    Claim(Vec<Claim>),
    Yield(Vec<Settlement>),
    Start(Vec<Start>),
    Done(Vec<Settlement>),
    Park(Vec<Parking>),
    Bury(Vec<DeadLetter>),
    ParkedKeys(Partition),
    Load(Vec<ParkedKey>),
    Prune(Identity),
}

impl Statement {
    pub(super) const NAMES: [&str; 11] =
        ["raise", "end clean", "claim", "yield", "start", "done", "park", "bury", "parked keys", "load", "prune"];

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Raise { .. } => "raise",
            Self::EndClean(..) => "end clean",
            Self::Claim(_) => "claim",
            Self::Yield(_) => "yield",
            Self::Start(_) => "start",
            Self::Done(_) => "done",
            Self::Park(_) => "park",
            Self::Bury(_) => "bury",
            Self::ParkedKeys(_) => "parked keys",
            Self::Load(_) => "load",
            Self::Prune(_) => "prune",
        }
    }
}

impl World {
    pub(super) fn next_statement(&mut self) -> Statement {
        self.serial += 1;
        match self.random.u8(0..100) {
            0..4 => self.raise(),
            4..6 => {
                let partition = self.partition();
                Statement::EndClean(partition, self.epoch(partition))
            }
            6..34 => Statement::Claim(self.batch(Self::claim)),
            34..39 => Statement::Yield(self.batch(Self::settlement)),
            39..50 => Statement::Start(self.batch(Self::start)),
            50..53 => Statement::Done(self.batch(Self::settlement)),
            53..72 => Statement::Park(self.batch(Self::parking)),
            72..76 => Statement::Bury(self.batch(Self::letter)),
            76..79 => Statement::ParkedKeys(self.partition()),
            79..89 => self.load(),
            _ => Statement::Prune(self.order().0),
        }
    }

    /// A new process has counted less than others, or more.
    fn raise(&mut self) -> Statement {
        self.serial = if self.random.bool() { self.serial + 50 } else { self.random.u64(0..=self.serial) };
        let (owner, start) = (self.random.u64(0..3), Offset(self.random.i64(0..2)));
        Statement::Raise { partition: self.partition(), owner, start }
    }

    fn load(&mut self) -> Statement {
        let mut keys: Vec<ParkedKey> = Vec::new();
        for _ in 0..self.random.usize(1..4) {
            let partition = self.partition();
            let (epoch, order) = (self.epoch(partition), self.random.u64(0..self.shape.keys));
            let asked = ParkedKey { partition, epoch, key: self.key(order) };
            // One epoch of each partition, as an owner asks.
            let is_new =
                |other: &ParkedKey| other.partition != partition || (other.epoch == epoch && other.key != asked.key);
            if keys.iter().all(is_new) {
                keys.push(asked);
            }
        }
        Statement::Load(keys)
    }

    /// Rows of distinct orders, with the serial of one statement.
    fn batch<T>(&mut self, row: fn(&mut Self, Settlement) -> T) -> Vec<T> {
        let is_late = self.random.u8(0..5) == 0;
        let serial = Serial(if is_late { self.random.u64(0..=self.serial) } else { self.serial });
        let mut orders: Vec<Identity> = Vec::new();
        let mut rows = Vec::new();
        for _ in 0..self.random.usize(1..=4) {
            let (identity, coordinates) = self.order();
            if orders.contains(&identity) {
                continue;
            }
            orders.push(identity.clone());
            self.tickets += 1;
            let settlement = Settlement {
                ticket: Ticket(self.tickets),
                fingerprint: if self.random.u8(0..8) == 0 { OTHER_CONTENT } else { CONTENT },
                coordinates,
                epoch: self.epoch(coordinates.partition),
                serial,
                address: self.addresses.get(&identity).copied().unwrap_or_default(),
                identity,
                was_parked: self.random.bool(),
            };
            rows.push(row(self, settlement));
        }
        rows
    }

    /// An order, and a copy of it: mostly that of its row.
    fn order(&mut self) -> (Identity, Coordinates) {
        let order = self.random.u64(0..self.shape.orders);
        let identity = identity(&format!("{order:03}"));
        let holder = self.tables.ledger.get(&identity).map(|row| row.coordinates);
        let copy = self.random.u64(0..COPIES);
        let partition = i32::try_from(copy).unwrap() % self.shape.partitions;
        let any = at(partition, i64::try_from(order * COPIES + copy).unwrap());
        let is_of_row = self.random.u8(0..4) > 0;
        (identity, holder.filter(|_| is_of_row).unwrap_or(any))
    }

    fn claim(&mut self, settlement: Settlement) -> Claim {
        let Settlement { ticket, identity, fingerprint, coordinates, epoch, serial, .. } = settlement;
        let holder = self.tables.ledger.get(&identity).map(tables::Row::holder).filter(|_| self.random.u8(0..3) == 0);
        let seize_from = holder.map(|holder| self.perhaps_another(holder));
        Claim { ticket, identity, fingerprint, coordinates, epoch, serial, seize_from }
    }

    /// What was judged may be something else by now.
    fn perhaps_another(&mut self, holder: Holder) -> Holder {
        match self.random.u8(0..6) {
            0 => Holder { serial: Serial(holder.serial.0 + 1), ..holder },
            1 => Holder { epoch: Epoch(holder.epoch.0 + 1), ..holder },
            2 => Holder { coordinates: at(holder.coordinates.partition.0, 999), ..holder },
            _ => holder,
        }
    }

    #[allow(clippy::unused_self)]
    fn settlement(&mut self, settlement: Settlement) -> Settlement {
        settlement
    }

    fn start(&mut self, settlement: Settlement) -> Start {
        Start { settlement, starts: self.random.u16(0..3) }
    }

    fn letter(&mut self, settlement: Settlement) -> DeadLetter {
        let reason = if self.random.u8(0..4) == 0 { Reason::Uncertain } else { Reason::Permanent };
        let (order_id, coordinates, epoch) =
            (settlement.identity.order_id.clone(), settlement.coordinates, settlement.epoch);
        DeadLetter { settlement, reason, ..dead_letter(&order_id, coordinates, epoch) }
    }

    fn parking(&mut self, settlement: Settlement) -> Parking {
        let order: u64 = settlement.identity.order_id.parse().unwrap();
        let attempts = self.random.u32(0..5);
        let failures = (1..=attempts).rev().take(self.random.usize(0..3)).collect::<Vec<_>>();
        let failed = |number: u32| FailedAttempt {
            number,
            ago: Duration::from_hours(u64::from(attempts - number)),
            took: Duration::from_millis(5),
            class: "transient",
            error: "503".into(),
        };
        Parking {
            key: self.key(order),
            attempts,
            wait: Duration::from_hours(self.random.u64(0..4)),
            first_failed_ago: Duration::from_hours(self.random.u64(0..6)),
            failures: failures.into_iter().rev().map(failed).collect(),
            error: None,
            record: record(settlement.coordinates, &settlement.identity.order_id),
            settlement,
        }
    }

    /// Of an order: hashes are taken as signed numbers in the table.
    fn key(&self, order: u64) -> LaneKey {
        LaneKey((order % self.shape.keys).wrapping_sub(1))
    }

    fn partition(&mut self) -> Partition {
        Partition(self.random.i32(0..self.shape.partitions))
    }

    /// Mostly that of its owner.
    fn epoch(&mut self, partition: Partition) -> Epoch {
        let current = self.tables.epoch(partition).unwrap_or(Epoch(1));
        match self.random.u8(0..12) {
            0 => Epoch(self.random.i64(1..=current.0)),
            1 => Epoch(current.0 + 1),
            _ => current,
        }
    }
}
