//! The gateway, which works, is away or fails, and orders that it never takes.

use super::*;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gateway {
    Works,
    /// It answers nobody.
    Away,
    /// It fails for everybody.
    Fails,
}

/// The last two failures of an identity in one worker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failures {
    /// When the last attempt began.
    pub(super) started: Now,
    pub(super) before_last: Option<Now>,
    pub(super) last: Option<Now>,
}

impl World {
    pub(super) fn turn_gateway(&mut self) {
        self.gateway = match self.gateway {
            _ if self.story == Story::LongLanes => Gateway::Works,
            Gateway::Works if self.random.bool() => Gateway::Away,
            Gateway::Works => Gateway::Fails,
            Gateway::Away | Gateway::Fails => Gateway::Works,
        };
    }

    pub(super) fn end_delivery(&mut self, index: usize) {
        if self.workers[index].deliveries.is_empty() {
            return;
        }
        let chosen = self.random.usize(0..self.workers[index].deliveries.len());
        let delivery = self.workers[index].deliveries.swap_remove(chosen);
        let identity = &delivery.event.identity;
        if self.is_deadly(identity) {
            self.workers[index].deliveries.push(delivery);
            self.count("died");
            return self.crash(index);
        }
        let class = self.answer(&delivery);
        match class {
            None => self.notify(&delivery),
            Some(FailureClass::Outage) => {}
            Some(_) => *self.spent.entry(identity.clone()).or_default() += 1,
        }
        if class.is_some() {
            let failures = self.failures.entry((index, identity.clone())).or_default();
            (failures.before_last, failures.last) = (failures.last, Some(self.now));
        }
        if class == Some(FailureClass::Unknown) {
            self.effects.insert(identity.clone());
        }
        self.input(index, Input::Delivered { results: vec![(delivery.ticket, class.map_or(Ok(()), fails))] });
    }

    /// Every tenth order fails until everything is calm; where parking is full more of them, and for ever.
    fn answer(&mut self, delivery: &Delivery) -> Option<FailureClass> {
        let is_hopeless = self.is_hopeless(delivery);
        match (self.gateway, self.random.u8(0..16)) {
            _ if self.is_calm && self.story.has_full_parking() && is_hopeless => Some(TRANSIENT),
            _ if self.is_calm => None,
            (Gateway::Works, dice) if is_hopeless && dice > 4 && self.story.has_replays() => {
                Some(FailureClass::Permanent)
            }
            (Gateway::Fails, dice) => Some(if dice < 8 { TRANSIENT } else { FailureClass::Unknown }),
            (Gateway::Works, dice) if is_hopeless || dice < 2 => Some(TRANSIENT),
            (Gateway::Away, _) | (Gateway::Works, 2) => Some(FailureClass::Outage),
            (Gateway::Works, 3) => Some(FailureClass::Permanent),
            (Gateway::Works, _) => None,
        }
    }

    fn is_hopeless(&self, delivery: &Delivery) -> bool {
        let order_id = &delivery.event.identity.order_id;
        let ends_with = |digits: &[char]| order_id.ends_with(digits);
        match self.story {
            Story::FullParking | Story::Replays | Story::ReplaysAndFullParking => {
                ends_with(&['1', '3', '4', '6', '7', '9'])
            }
            Story::LongLanes => order_id.parse::<u64>().is_ok_and(|number| number.is_multiple_of(USERS)),
            Story::AtLeastOnce | Story::AtMostOnce | Story::SmallMemory | Story::Deadly | Story::DeadlyAndKills => {
                ends_with(&['7'])
            }
        }
    }

    /// No worker survives any delivery of it.
    pub(super) fn is_always_deadly(&self, identity: &Identity) -> bool {
        self.story.is_deadly() && is_event(identity) && ["3", "23"].contains(&&*identity.order_id)
    }

    /// No worker survives the delivery; some orders fail before.
    pub(super) fn is_deadly(&self, identity: &Identity) -> bool {
        let is_later = &*identity.order_id == "9" && self.spent.contains_key(identity);
        self.is_always_deadly(identity) || (self.story.is_deadly() && is_event(identity) && is_later)
    }

    fn notify(&mut self, delivery: &Delivery) {
        let identity = &delivery.event.identity;
        let count = self.notified.entry(identity.clone()).or_default();
        *count += 1;
        let may_repeat = self.story != Story::AtMostOnce && self.cut_off.contains(identity);
        let detail = || format!("seed {}: {identity:?} was notified twice", self.seed);
        invariants::notified_once(*count == 1 || may_repeat, detail).unwrap();
        self.effects.insert(identity.clone());
        self.told.insert((identity.clone(), delivery.event.fingerprint));
        self.successes.push((self.lane_of(delivery), self.now));
    }

    pub(super) fn lane_of(&self, delivery: &Delivery) -> LaneKey {
        self.lanes[&delivery.coordinates]
    }
}

/// Not the identity that stands for a record without one.
pub(super) fn is_event(identity: &Identity) -> bool {
    identity.event_type.starts_with("ORDER_")
}
