//! The deliveries that run.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::Channel;
use super::excerpt::one_line;
use crate::core::effect::Delivery;
use crate::core::failure::{DeliveryFailure, FailureClass};
use crate::core::input::Ticket;
use crate::core::trace::TraceParent;

type Attempt = Result<(), DeliveryFailure>;

/// How one attempt ended.
#[derive(Debug)]
pub struct Ended {
    pub ticket: Ticket,
    pub attempt: u32,
    /// As it was sent along.
    pub trace: Option<TraceParent>,
    pub result: Attempt,
    pub duration: Duration,
}

/// Runs deliveries concurrently. It bounds nothing: the engine starts only as many as may run.
///
/// Dropping the pool ends all that run without an answer.
pub struct DeliveryPool {
    channel: Channel,
    tasks: JoinSet<(Ticket, Attempt, Duration)>,
    running: HashMap<Ticket, Running>,
    /// Attempts that ended while they were started.
    ready: VecDeque<Ended>,
}

struct Running {
    task: AbortHandle,
    of: Started,
}

/// An attempt since it began.
#[derive(Clone, Copy)]
struct Started {
    attempt: u32,
    trace: Option<TraceParent>,
    at: Instant,
}

impl Started {
    fn now(delivery: &Delivery) -> Self {
        Self { attempt: delivery.attempt, trace: delivery.trace, at: Instant::now() }
    }

    fn ended(self, ticket: Ticket, result: Attempt, duration: Duration) -> Ended {
        Ended { ticket, attempt: self.attempt, trace: self.trace, result, duration }
    }
}

impl DeliveryPool {
    pub fn new(channel: Channel) -> Self {
        Self { channel, tasks: JoinSet::new(), running: HashMap::new(), ready: VecDeque::new() }
    }

    /// Starts one attempt. Must be called within a tokio runtime.
    pub fn start(&mut self, delivery: Delivery) {
        let (ticket, of) = (delivery.ticket, Started::now(&delivery));
        match &self.channel {
            // A task costs a hundred times what this does.
            Channel::Log(log) => {
                let result =
                    catch_unwind(AssertUnwindSafe(|| log.deliver(&delivery))).map_err(|panic| panicked(panic.as_ref()));
                self.ready.push_back(of.ended(ticket, result, of.at.elapsed()));
            }
            Channel::Webhook(webhook) => {
                let webhook = Arc::clone(webhook);
                self.spawn(ticket, of, async move { webhook.deliver(&delivery).await });
            }
            Channel::StandIn(stand_in) => {
                let stand_in = *stand_in;
                let task = self.tasks.spawn_blocking(move || {
                    stand_in.work(&delivery);
                    (ticket, Ok(()), of.at.elapsed())
                });
                self.running.insert(ticket, Running { task, of });
            }
        }
    }

    /// Ends an attempt without an answer: `next` will not return it. Nothing happens if it has been returned already.
    pub fn abort(&mut self, ticket: Ticket) {
        if let Some(running) = self.running.remove(&ticket) {
            running.task.abort();
        }
        self.ready.retain(|ended| ended.ticket != ticket);
    }

    /// Attempts that were started and neither returned nor aborted.
    pub fn len(&self) -> usize {
        self.running.len() + self.ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next attempt that ended; waits for ever while none runs. Cancel safe.
    pub async fn next(&mut self) -> Ended {
        // Attempts that end while they are started would else let a loop around this run without ever yielding.
        tokio::task::coop::consume_budget().await;
        loop {
            if let Some(ended) = self.ready.pop_front() {
                return ended;
            }
            let Some(joined) = self.tasks.join_next_with_id().await else {
                return std::future::pending().await;
            };
            if let Some(ended) = self.accept(joined) {
                return ended;
            }
        }
    }

    /// Waits for one attempt to end, then appends to `batch` all that have ended, at most `limit`. Cancel safe.
    pub async fn next_batch(&mut self, batch: &mut Vec<Ended>, limit: usize) {
        let first = self.next().await;
        batch.push(first);
        self.take_ended(batch, limit.saturating_sub(1));
    }

    /// Appends to `batch` what has ended, at most `limit`, and waits for nothing.
    pub fn take_ended(&mut self, batch: &mut Vec<Ended>, limit: usize) {
        for _ in 0..limit {
            let Some(ended) = self.next_ready() else {
                return;
            };
            batch.push(ended);
        }
    }

    fn next_ready(&mut self) -> Option<Ended> {
        if let Some(ended) = self.ready.pop_front() {
            return Some(ended);
        }
        while let Some(joined) = self.tasks.try_join_next_with_id() {
            if let Some(ended) = self.accept(joined) {
                return Some(ended);
            }
        }
        None
    }

    fn spawn(&mut self, ticket: Ticket, of: Started, delivery: impl Future<Output = Attempt> + Send + 'static) {
        let task = self.tasks.spawn(async move {
            let result = delivery.await;
            (ticket, result, of.at.elapsed())
        });
        self.running.insert(ticket, Running { task, of });
    }

    /// None for an attempt that was aborted, even if it had just ended.
    fn accept(&mut self, joined: Result<(Id, (Ticket, Attempt, Duration)), JoinError>) -> Option<Ended> {
        let (ticket, result, duration) = match joined {
            Ok((id, (ticket, result, duration))) => {
                let running = self.running.get(&ticket)?;
                if running.task.id() != id {
                    return None;
                }
                (ticket, result, duration)
            }
            Err(error) => {
                let (ticket, running) = self.running.iter().find(|(_, running)| running.task.id() == error.id())?;
                let failure = panicked(error.try_into_panic().ok()?.as_ref());
                (*ticket, Err(failure), running.of.at.elapsed())
            }
        };
        let running = self.running.remove(&ticket)?;
        Some(running.of.ended(ticket, result, duration))
    }
}

fn panicked(panic: &(dyn Any + Send)) -> DeliveryFailure {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    DeliveryFailure { class: FailureClass::Permanent, error: format!("panic: {}", one_line(message)) }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use bytes::Bytes;
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;
    use crate::channels::log::Log;
    use crate::core::event::{Fingerprint, Identity, OrderEvent};
    use crate::core::record::{Coordinates, Offset, Partition};

    const DEADLINE: Duration = Duration::from_secs(10);

    fn pool() -> DeliveryPool {
        DeliveryPool::new(Channel::Log(Log::new("group")))
    }

    fn delivery(ticket: u64) -> Delivery {
        Delivery {
            ticket: Ticket(ticket),
            attempt: 1,
            coordinates: Coordinates { partition: Partition(0), offset: Offset(0) },
            trace: None,
            event: Arc::new(OrderEvent {
                identity: Identity { order_id: "1".into(), event_type: "ORDER_CREATED".into() },
                order: Bytes::from_static(b"{}"),
                occurred_at: None,
                request_id: None,
                trace: None,
                fingerprint: Fingerprint([0; 32]),
            }),
        }
    }

    fn attempt(attempt: u32) -> Started {
        Started { attempt, trace: None, at: Instant::now() }
    }

    async fn is_silent(pool: &mut DeliveryPool) -> bool {
        timeout(Duration::from_millis(20), pool.next()).await.is_err()
    }

    #[tokio::test]
    async fn a_log_delivery_ends_at_once() {
        let mut pool = pool();
        pool.start(delivery(7));
        let ended = pool.next().await;
        assert_eq!((ended.ticket, ended.attempt), (Ticket(7), 1));
        assert_eq!(ended.result, Ok(()));
        assert!(pool.is_empty());
    }

    #[tokio::test]
    async fn a_panic_in_a_channel_is_a_permanent_failure() {
        let mut pool = pool();
        pool.spawn(Ticket(1), attempt(3), async { panic!("bad\nindex {}", 7) });
        let ended = timeout(DEADLINE, pool.next()).await.unwrap();
        assert_eq!((ended.ticket, ended.attempt), (Ticket(1), 3));
        let failure = ended.result.unwrap_err();
        assert_eq!(failure.class, FailureClass::Permanent);
        assert_eq!(failure.error, "panic: bad index 7");
        assert!(pool.is_empty());
    }

    #[tokio::test]
    async fn an_aborted_delivery_is_never_heard_of_again() {
        let mut pool = pool();
        pool.spawn(Ticket(1), attempt(1), pending());
        pool.spawn(Ticket(2), attempt(1), async { Ok(()) });
        pool.start(delivery(3));
        tokio::task::yield_now().await;
        for ticket in 1..=3 {
            pool.abort(Ticket(ticket));
        }
        pool.abort(Ticket(4));
        assert!(pool.is_empty());
        assert!(is_silent(&mut pool).await);
    }

    #[tokio::test]
    async fn a_ticket_started_again_after_an_abort_ends_once() {
        let mut pool = pool();
        pool.spawn(Ticket(1), attempt(1), async { Ok(()) });
        tokio::task::yield_now().await;
        pool.abort(Ticket(1));
        pool.spawn(Ticket(1), attempt(2), async { Ok(()) });
        let ended = timeout(DEADLINE, pool.next()).await.unwrap();
        assert_eq!(ended.attempt, 2);
        assert!(is_silent(&mut pool).await);
    }

    #[tokio::test]
    async fn a_wait_that_is_cancelled_loses_nothing() {
        let mut pool = pool();
        let (release, released) = oneshot::channel::<()>();
        pool.spawn(Ticket(1), attempt(1), async {
            released.await.unwrap();
            Ok(())
        });
        for _ in 0..3 {
            assert!(is_silent(&mut pool).await);
        }
        release.send(()).unwrap();
        let ended = timeout(DEADLINE, pool.next()).await.unwrap();
        assert_eq!(ended.ticket, Ticket(1));
    }

    #[tokio::test]
    async fn a_batch_takes_all_that_has_ended_and_no_more_than_asked_for() {
        let mut pool = pool();
        for ticket in 0..5 {
            pool.start(delivery(ticket));
        }
        let mut batch = Vec::new();
        pool.next_batch(&mut batch, 3).await;
        assert_eq!(batch.len(), 3);
        pool.next_batch(&mut batch, 100).await;
        let tickets: Vec<_> = batch.iter().map(|ended| ended.ticket.0).collect();
        assert_eq!(tickets, [0, 1, 2, 3, 4]);
    }
}
