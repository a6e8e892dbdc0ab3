//! The next offset to store: everything below has custody elsewhere.

use std::collections::VecDeque;

use super::input::Ticket;
use super::record::Offset;

/// Tracks the unfinished records of one session of one partition, in offset order.
///
/// Offsets may have gaps: compaction and transaction markers leave them.
#[derive(Debug)]
pub struct Watermark {
    slots: VecDeque<Slot>,
    /// The sequence number of the front slot.
    front: u64,
    start: Offset,
    /// Where the session began, or the offset after the last record that was taken in.
    end: Offset,
}

/// What is known of an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    Unfinished(Ticket),
    /// It has ended in this session, or there is no record at this offset.
    Gone,
    /// It lies before this session.
    Unknown,
    /// It has not been fetched in this session.
    NotYet,
}

/// Where a record stands in its watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence(u64);

#[derive(Debug)]
struct Slot {
    offset: Offset,
    /// `None` once the record has custody elsewhere.
    ticket: Option<Ticket>,
}

impl Watermark {
    #[must_use]
    pub fn new(start: Offset) -> Self {
        Self { slots: VecDeque::new(), front: 0, start, end: start }
    }

    /// Takes a record in; `None` when its offset was taken in before.
    pub fn push(&mut self, offset: Offset, ticket: Ticket) -> Option<Sequence> {
        if offset < self.end {
            return None;
        }
        let sequence = Sequence(self.front + self.slots.len() as u64);
        self.slots.push_back(Slot { offset, ticket: Some(ticket) });
        self.end = offset.next();
        Some(sequence)
    }

    /// The record has custody elsewhere. Says whether it had none before.
    pub fn end(&mut self, sequence: Sequence) -> bool {
        let index = sequence.0.checked_sub(self.front).and_then(|index| usize::try_from(index).ok());
        let ended = index.and_then(|index| self.slots.get_mut(index)).is_some_and(|slot| slot.ticket.take().is_some());
        while self.slots.front().is_some_and(|slot| slot.ticket.is_none()) {
            self.slots.pop_front();
            self.front += 1;
        }
        ended
    }

    /// The offset to store: the lowest unfinished one, else the one after the last record.
    #[must_use]
    pub fn value(&self) -> Offset {
        self.slots.front().map_or(self.end, |slot| slot.offset)
    }

    /// What this session knows of the record at an offset.
    #[must_use]
    pub fn locate(&self, offset: Offset) -> Whereabouts {
        if offset >= self.end {
            return Whereabouts::NotYet;
        }
        if offset < self.start {
            return Whereabouts::Unknown;
        }
        let found = self.slots.binary_search_by_key(&offset, |slot| slot.offset).ok();
        let ticket = found.and_then(|index| self.slots.get(index)).and_then(|slot| slot.ticket);
        ticket.map_or(Whereabouts::Gone, Whereabouts::Unfinished)
    }

    /// Records that are remembered: the unfinished, and all that ended behind the first of them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The records without custody elsewhere, in offset order.
    pub fn unfinished(&self) -> impl Iterator<Item = Ticket> {
        self.slots.iter().filter_map(|slot| slot.ticket)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lowest_unfinished_record_holds_the_watermark() {
        let mut watermark = Watermark::new(Offset(10));
        assert_eq!(watermark.value(), Offset(10));
        let first = watermark.push(Offset(10), Ticket(1)).unwrap();
        let second = watermark.push(Offset(14), Ticket(2)).unwrap();
        assert_eq!(watermark.push(Offset(14), Ticket(3)), None);
        assert!(watermark.end(second));
        let places = [9, 10, 12, 14, 15].map(|offset| watermark.locate(Offset(offset)));
        let unfinished = Whereabouts::Unfinished(Ticket(1));
        let (gone, unknown, not_yet) = (Whereabouts::Gone, Whereabouts::Unknown, Whereabouts::NotYet);
        assert_eq!(places, [unknown, unfinished, gone, gone, not_yet]);
        assert_eq!(watermark.value(), Offset(10));
        assert!(!watermark.end(second));
        assert!(watermark.end(first));
        assert_eq!(watermark.value(), Offset(15));
        assert!(!watermark.end(first));
    }

    proptest! {
        /// Against a model that a reader can check by eye: a sorted list of the unfinished offsets.
        #[test]
        fn it_equals_the_lowest_of_the_unfinished(gaps in prop::collection::vec(1i64..4, 1..60), order in prop::collection::vec(any::<prop::sample::Index>(), 0..80)) {
            let mut watermark = Watermark::new(Offset(0));
            let mut unfinished = Vec::new();
            let mut offset = -1;
            for (number, gap) in gaps.iter().enumerate() {
                offset += gap;
                let sequence = watermark.push(Offset(offset), Ticket(number as u64)).unwrap();
                unfinished.push((Offset(offset), sequence));
            }
            for index in order {
                if unfinished.is_empty() { break; }
                let (_, sequence) = unfinished.remove(index.index(unfinished.len()));
                prop_assert!(watermark.end(sequence));
                let expected = unfinished.first().map_or(Offset(offset + 1), |(offset, _)| *offset);
                prop_assert_eq!(watermark.value(), expected);
                prop_assert_eq!(watermark.unfinished().count(), unfinished.len());
            }
        }
    }
}
