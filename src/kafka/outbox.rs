//! Events that wait until the worker takes them: the thread never blocks on the worker.

use std::collections::VecDeque;

use tokio::sync::mpsc::Sender;

use super::consumer::ConsumerEvent;
use crate::core::record::Partition;

/// Reports beyond this are dropped: the worker stands still, and they would grow without bound.
const MAX_REPORTS: usize = 256;

#[derive(Debug)]
pub(super) struct Outbox {
    waiting: VecDeque<ConsumerEvent>,
    events: Sender<ConsumerEvent>,
}

impl Outbox {
    pub(super) fn new(events: Sender<ConsumerEvent>) -> Self {
        Self { waiting: VecDeque::new(), events }
    }

    pub(super) fn push(&mut self, event: ConsumerEvent) {
        let report = matches!(event, ConsumerEvent::Committed { .. } | ConsumerEvent::Error { .. });
        if !report || self.waiting.len() < MAX_REPORTS {
            self.waiting.push_back(event);
        }
    }

    pub(super) fn error(&mut self, class: &'static str, message: impl Into<String>) {
        self.push(ConsumerEvent::Error { class, message: message.into() });
    }

    /// Hands over what fits.
    pub(super) fn flush(&mut self) {
        while !self.waiting.is_empty() {
            let Ok(permit) = self.events.try_reserve() else {
                return;
            };
            if let Some(event) = self.waiting.pop_front() {
                permit.send(event);
            }
        }
    }

    /// Nobody takes events any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets records that were not handed over: they are above the watermark, and the next owner reads them.
    pub(super) fn forget_records(&mut self, partition: Partition) {
        self.waiting.retain(|event| !matches!(event, ConsumerEvent::Polled { partition: of, .. } if *of == partition));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::record::Session;

    fn polled(partition: i32) -> ConsumerEvent {
        ConsumerEvent::Polled { partition: Partition(partition), session: Session(1), records: Vec::new() }
    }

    #[test]
    fn events_keep_their_order_while_they_wait() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(2);
        let mut outbox = Outbox::new(sender);
        for partition in 0..4 {
            outbox.push(polled(partition));
        }
        outbox.forget_records(Partition(2));
        let mut seen = Vec::new();
        while !outbox.is_empty() {
            outbox.flush();
            while let Ok(ConsumerEvent::Polled { partition, .. }) = receiver.try_recv() {
                seen.push(partition.0);
            }
        }
        assert_eq!(seen, [0, 1, 3]);
    }

    #[test]
    fn reports_are_dropped_when_nobody_listens_but_assignments_are_not() {
        let (sender, _receiver) = tokio::sync::mpsc::channel(1);
        let mut outbox = Outbox::new(sender);
        for _ in 0..1_000 {
            outbox.error("transport", "down");
        }
        outbox.push(ConsumerEvent::Revoking(vec![Partition(1)]));
        assert_eq!(outbox.waiting.len(), MAX_REPORTS + 1);
    }
}
