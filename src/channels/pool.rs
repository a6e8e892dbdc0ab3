//! The deliveries that run.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

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
    running: HashMap<Ticket, Running>,
    started: u64,
    tell: UnboundedSender<Told>,
    told: UnboundedReceiver<Told>,
    /// Attempts that ended while they were started.
    ready: VecDeque<Ended>,
}

/// What an attempt that runs elsewhere says at its end.
struct Told {
    of: Started,
    result: Attempt,
    duration: Duration,
}

/// An attempt since it began.
#[derive(Clone, Copy)]
struct Started {
    /// Tells it from an attempt of the same ticket that was aborted.
    number: u64,
    ticket: Ticket,
    attempt: u32,
    trace: Option<TraceParent>,
    at: Instant,
}

struct Running {
    number: u64,
    /// None where nothing can be aborted: what it says is not listened to.
    task: Option<AbortHandle>,
}

impl Started {
    fn ended(self, result: Attempt, duration: Duration) -> Ended {
        Ended { ticket: self.ticket, attempt: self.attempt, trace: self.trace, result, duration }
    }

    fn tell(self, to: &UnboundedSender<Told>, result: Attempt) {
        // Nobody listens once the pool is gone.
        let _ = to.send(Told { of: self, result, duration: self.at.elapsed() });
    }
}

impl DeliveryPool {
    pub fn new(channel: Channel) -> Self {
        let (tell, told) = unbounded_channel();
        Self { channel, running: HashMap::new(), started: 0, tell, told, ready: VecDeque::new() }
    }

    /// Starts one attempt. Must be called within a tokio runtime.
    pub fn start(&mut self, delivery: Delivery) {
        let of = self.begin(&delivery);
        match &self.channel {
            // A task costs a hundred times what this does.
            Channel::Log(log) => {
                let result = catch_unwind(AssertUnwindSafe(|| log.deliver(&delivery)));
                let result = result.map_err(|panic| panicked(panic.as_ref()));
                self.ready.push_back(of.ended(result, of.at.elapsed()));
            }
            Channel::Webhook(webhook) => {
                let webhook = Arc::clone(webhook);
                self.spawn(of, async move { webhook.deliver(&delivery).await });
            }
            Channel::StandIn(stand_in) => {
                let tell = self.tell.clone();
                stand_in.work(delivery, move || of.tell(&tell, Ok(())));
                self.running.insert(of.ticket, Running { number: of.number, task: None });
            }
        }
    }

    /// Ends an attempt without an answer: `next` will not return it. Nothing happens if it has been returned already.
    pub fn abort(&mut self, ticket: Ticket) {
        // Dropped, and so aborted.
        self.running.remove(&ticket);
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
            // Never none: this pool can tell itself.
            let Some(told) = self.told.recv().await else {
                return std::future::pending().await;
            };
            if let Some(ended) = self.accept(told) {
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
        while let Ok(told) = self.told.try_recv() {
            if let Some(ended) = self.accept(told) {
                return Some(ended);
            }
        }
        None
    }

    fn begin(&mut self, delivery: &Delivery) -> Started {
        self.started += 1;
        let Delivery { ticket, attempt, trace, .. } = *delivery;
        Started { number: self.started, ticket, attempt, trace, at: Instant::now() }
    }

    fn spawn(&mut self, of: Started, delivery: impl Future<Output = Attempt> + Send + 'static) {
        let tell = self.tell.clone();
        let task = tokio::spawn(async move {
            let result = AssertUnwindSafe(delivery).catch_unwind().await;
            of.tell(&tell, result.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))));
        });
        self.running.insert(of.ticket, Running { number: of.number, task: Some(task.abort_handle()) });
    }

    /// None for an attempt that was aborted, even if it had just ended.
    fn accept(&mut self, told: Told) -> Option<Ended> {
        let Told { of, result, duration } = told;
        self.running.get(&of.ticket).filter(|running| running.number == of.number)?;
        self.running.remove(&of.ticket);
        Some(of.ended(result, duration))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
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
pub(super) mod tests {
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

    pub(in crate::channels) fn delivery(ticket: u64) -> Delivery {
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

    /// Starts an attempt of this ticket that does this.
    fn spawn(pool: &mut DeliveryPool, ticket: u64, attempt: u32, work: impl Future<Output = Attempt> + Send + 'static) {
        let of = pool.begin(&Delivery { attempt, ..delivery(ticket) });
        pool.spawn(of, work);
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
        spawn(&mut pool, 1, 3, async { panic!("bad\nindex {}", 7) });
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
        spawn(&mut pool, 1, 1, pending());
        spawn(&mut pool, 2, 1, async { Ok(()) });
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
        spawn(&mut pool, 1, 1, async { Ok(()) });
        tokio::task::yield_now().await;
        pool.abort(Ticket(1));
        spawn(&mut pool, 1, 2, async { Ok(()) });
        let ended = timeout(DEADLINE, pool.next()).await.unwrap();
        assert_eq!(ended.attempt, 2);
        assert!(is_silent(&mut pool).await);
    }

    #[tokio::test]
    async fn a_wait_that_is_cancelled_loses_nothing() {
        let mut pool = pool();
        let (release, released) = oneshot::channel::<()>();
        spawn(&mut pool, 1, 1, async {
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
