//! What the benchmarks deliver to where the work of a notification is to be measured without a request: work in this process, as
//! a consumer library's handler does it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use crate::core::effect::Delivery;

/// Work that may block, on threads that it keeps.
#[derive(Debug)]
pub struct StandIn {
    work: fn(order_id: &str),
    idle: Arc<Mutex<Vec<Worker>>>,
}

/// A thread that works, and where it finds its next job: waking it is one call of the system, and it holds nothing that others wait for.
#[derive(Clone, Debug)]
struct Worker {
    thread: Thread,
    next: Arc<Mutex<Option<Job>>>,
}

struct Job {
    delivery: Delivery,
    then: Box<dyn FnOnce() + Send>,
}

impl StandIn {
    #[must_use]
    pub fn new(work: fn(order_id: &str)) -> Self {
        Self { work, idle: Arc::default() }
    }

    /// Works on a thread that is idle, or on a new one, and then says so there. A panic of the work is not caught.
    pub(super) fn work(&self, delivery: Delivery, then: impl FnOnce() + Send + 'static) {
        let job = Job { delivery, then: Box::new(then) };
        let idle = locked(&self.idle).pop();
        match idle {
            Some(worker) => worker.give(job),
            None => self.spawn(job),
        }
    }

    fn spawn(&self, first: Job) {
        let (idle, work) = (Arc::clone(&self.idle), self.work);
        thread::spawn(move || {
            let this = Worker { thread: thread::current(), next: Arc::new(Mutex::new(Some(first))) };
            loop {
                let Job { delivery, then } = this.take();
                work(&delivery.event.identity.order_id);
                locked(&idle).push(this.clone());
                then();
            }
        });
    }
}

impl Worker {
    fn give(&self, job: Job) {
        *locked(&self.next) = Some(job);
        self.thread.unpark();
    }

    fn take(&self) -> Job {
        loop {
            let job = locked(&self.next).take();
            if let Some(job) = job {
                return job;
            }
            thread::park();
        }
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Job").field("delivery", &self.delivery).finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use crate::channels::Channel;
    use crate::channels::pool::{DeliveryPool, tests::delivery};
    use crate::core::input::Ticket;

    use super::*;

    #[tokio::test]
    async fn a_thread_that_is_idle_works_again() {
        let stand_in = StandIn::new(|_| thread::yield_now());
        let idle = Arc::clone(&stand_in.idle);
        let mut pool = DeliveryPool::new(Channel::StandIn(stand_in));
        for ticket in 0..100 {
            pool.start(delivery(ticket));
            let ended = timeout(Duration::from_secs(10), pool.next()).await.unwrap();
            assert_eq!(ended.ticket, Ticket(ticket));
        }
        assert_eq!(locked(&idle).len(), 1);
    }
}
