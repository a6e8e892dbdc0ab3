//! Which partitions are ours: epochs are raised before anything is fetched, and confirmed after a freeze.
//!
//! Kafka is asked whose the partitions are before a raise and after it. A worker that stood still may find its partitions raised before
//! Kafka tells it that they are another's. Were it to raise them again, it would fence their owner, and could deliver what that
//! one has read and delivers too. After the raise as well, since it may have stood still in between.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::statements::caught;
use super::{Answer, Worker};
use crate::config::Kafka;
use crate::core::failure::LedgerFailure;
use crate::core::input::{Holder, Input, ParkedLane, Raised, Ticket};
use crate::core::record::{Epoch, Offset, Partition, Session};
use crate::http::health::{Health, NotReady};
use crate::kafka::consumer::{Assignment, Confirmer, ConsumerCommand};
use crate::kafka::lag::LagReader;
use crate::postgres::Postgres;
use crate::telemetry::events::Rebalanced;
use crate::telemetry::labels::RebalanceKind;

const RETRY_AFTER: Duration = Duration::from_millis(500);
const CLEAN_END_DEADLINE: Duration = Duration::from_secs(2);

/// A partition whose epoch was raised.
pub(super) struct Owned {
    partition: Partition,
    session: Session,
    start: Offset,
    raised: Raised,
    parked: Vec<ParkedLane>,
}

impl Worker {
    pub(super) async fn assigned(&mut self, assignments: Vec<Assignment>) {
        let partitions: Vec<Partition> = assignments.iter().map(|assignment| assignment.partition).collect();
        self.rebalanced(RebalanceKind::Assigned, &partitions);
        if self.stop.is_stopping() {
            for Assignment { partition, session, .. } in assignments {
                self.consumer.send(ConsumerCommand::Release { partition, session }).await;
            }
            return;
        }
        if assignments.is_empty() {
            return;
        }
        self.raising.send_modify(|raising| {
            raising.extend(assignments.iter().map(|assignment| (assignment.partition, *assignment)));
        });
        let raise = Raise {
            postgres: self.postgres.clone(),
            confirmer: self.consumer.confirmer(),
            health: Arc::clone(&self.health),
            wanted: self.raising.subscribe(),
            owner: self.owner.clone(),
        };
        self.spawn(raise.run(assignments));
    }

    pub(super) async fn raised(&mut self, owned: Vec<Owned>) {
        let mut given_up = Vec::new();
        for Owned { partition, session, start, raised, parked } in owned {
            // Taken away while Postgres was asked, perhaps given anew.
            if !is_wanted(&self.raising.borrow(), partition, session) {
                given_up.push((partition, raised.epoch));
                continue;
            }
            self.no_longer_raising(partition);
            self.input(Input::Assigned { partition, session, start, raised, parked });
            self.consumer.send(ConsumerCommand::Fetch { partition, session }).await;
        }
        self.spawn_clean_end(given_up);
        self.show_ownership();
    }

    pub(super) async fn revoking(&mut self, partitions: Vec<Partition>) {
        self.rebalanced(RebalanceKind::Revoked, &partitions);
        self.shown.drain_began();
        let mut held = Vec::new();
        for partition in partitions {
            match self.no_longer_raising(partition) {
                Some(Assignment { session, .. }) => {
                    self.consumer.send(ConsumerCommand::Release { partition, session }).await;
                }
                None => held.push(partition),
            }
        }
        self.resolve_if_idle();
        let deadline = self.now() + self.settings.delivery.drain_timeout;
        self.input(Input::Revoking { partitions: held, deadline });
    }

    pub(super) fn lost(&mut self, partitions: Vec<Partition>) {
        self.rebalanced(RebalanceKind::Lost, &partitions);
        for partition in &partitions {
            self.no_longer_raising(*partition);
            self.publisher.disown(*partition);
        }
        self.input(Input::Lost { partitions });
        self.show_ownership();
    }

    fn no_longer_raising(&self, partition: Partition) -> Option<Assignment> {
        let mut assignment = None;
        self.raising.send_modify(|raising| assignment = raising.remove(&partition));
        assignment
    }

    /// The offset was stored before: commands keep their order.
    pub(super) async fn release(&mut self, partition: Partition, session: Session) {
        let epoch = self.publisher.disown(partition);
        self.spawn_clean_end(epoch.map(|epoch| (partition, epoch)).into_iter().collect());
        self.consumer.send(ConsumerCommand::Release { partition, session }).await;
        self.show_ownership();
    }

    fn spawn_clean_end(&mut self, ended: Vec<(Partition, Epoch)>) {
        if !ended.is_empty() {
            let postgres = self.postgres.clone();
            self.spawn(async move {
                end_clean(&postgres, &ended).await;
                Answer::Nothing
            });
        }
    }

    /// A worker that got no partitions because others have them all is ready too: the group has answered.
    pub(super) fn joined(&self) {
        self.health.resolve(NotReady::InstanceId);
        self.health.resolve(NotReady::Assignment);
    }

    fn rebalanced(&mut self, kind: RebalanceKind, partitions: &[Partition]) {
        match kind {
            RebalanceKind::Assigned => self.assigned.extend(partitions),
            RebalanceKind::Revoked | RebalanceKind::Lost => self.assigned.retain(|one| !partitions.contains(one)),
        }
        self.joined();
        Rebalanced { kind, partitions, assigned: self.assigned.len() }.emit(&self.telemetry);
    }

    fn show_ownership(&self) {
        self.resolve_if_idle();
        self.publisher.own(self.engine.epochs().collect());
    }

    /// Of a worker that has no partitions, what was held for these reasons is with the next owner.
    fn resolve_if_idle(&self) {
        if self.engine.epochs().next().is_none() && self.raising.borrow().is_empty() {
            self.health.resolve(NotReady::Postgres);
            self.health.resolve(NotReady::Breaker);
        }
    }
}

/// Host or instance, process, and a number of this start: containers share host names and process ids.
pub(super) fn owner(kafka: &Kafka) -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "herald".to_owned());
    let instance = kafka.instance_id.as_ref().unwrap_or(&host);
    format!("{instance}/{}/{:08x}", std::process::id(), fastrand::u32(..))
}

fn is_wanted(raising: &HashMap<Partition, Assignment>, partition: Partition, session: Session) -> bool {
    raising.get(&partition).is_some_and(|assignment| assignment.session == session)
}

type Answered = (Vec<(Partition, Raised)>, HashMap<Partition, Vec<ParkedLane>>);

/// Raises epochs, however long Postgres takes: the partitions are paused until then.
struct Raise {
    postgres: Postgres,
    confirmer: Confirmer,
    health: Arc<Health>,
    wanted: watch::Receiver<HashMap<Partition, Assignment>>,
    owner: String,
}

impl Raise {
    /// What was taken away meanwhile is not raised any more, since that would fence its next owner.
    async fn run(self, mut assignments: Vec<Assignment>) -> Answer {
        let (raised, mut parked) = loop {
            assignments = self.confirmer.confirmed(assignments).await;
            assignments.retain(|assignment| is_wanted(&self.wanted.borrow(), assignment.partition, assignment.session));
            if assignments.is_empty() {
                return Answer::Nothing;
            }
            match caught(self.raise(&assignments)).await {
                Ok(answered) => {
                    self.health.resolve(NotReady::Postgres);
                    break answered;
                }
                Err(error) => {
                    tracing::warn!(?error, "the epochs cannot be raised yet");
                    self.hold_for(&assignments);
                }
            }
            tokio::time::sleep(RETRY_AFTER).await;
        };
        let confirmed = self.confirmer.confirmed(assignments).await;
        let is_given_up = |(partition, _): &&(Partition, Raised)| {
            confirmed.iter().all(|assignment| assignment.partition != *partition)
        };
        let given_up: Vec<_> =
            raised.iter().filter(is_given_up).map(|(partition, raised)| (*partition, raised.epoch)).collect();
        end_clean(&self.postgres, &given_up).await;
        let owned = confirmed.into_iter().filter_map(|Assignment { partition, session, start }| {
            let raised = raised.iter().find(|(raised, _)| *raised == partition)?.1;
            Some(Owned { partition, session, start, raised, parked: parked.remove(&partition).unwrap_or_default() })
        });
        Answer::Raised(owned.collect())
    }

    /// Not for what was taken away meanwhile: nobody would resolve it. While `wanted` is borrowed, nothing is taken away.
    fn hold_for(&self, assignments: &[Assignment]) {
        let wanted = self.wanted.borrow();
        if assignments.iter().any(|assignment| is_wanted(&wanted, assignment.partition, assignment.session)) {
            self.health.hold(NotReady::Postgres, "the epochs of the partitions cannot be raised");
        }
    }

    /// What is parked is read after the raise: earlier owners can park nothing more.
    async fn raise(&self, assignments: &[Assignment]) -> Result<Answered, LedgerFailure> {
        let partitions: Vec<Partition> = assignments.iter().map(|assignment| assignment.partition).collect();
        let starts: Vec<_> = assignments.iter().map(|assignment| (assignment.partition, assignment.start)).collect();
        let raised = self.postgres.raise(&starts, &self.owner).await?;
        Ok((raised, self.postgres.parked_keys(&partitions).await?))
    }
}

/// Whether an ownership ended cleanly is only counted: nobody waits long for it.
async fn end_clean(postgres: &Postgres, ended: &[(Partition, Epoch)]) {
    if !ended.is_empty() {
        let _ = tokio::time::timeout(CLEAN_END_DEADLINE, postgres.end_clean(ended)).await;
    }
}

pub(super) async fn confirm(postgres: Postgres, freeze: u64, epochs: Vec<(Partition, Epoch)>) -> Answer {
    let partitions: Vec<Partition> = epochs.iter().map(|(partition, _)| *partition).collect();
    let read = loop {
        match caught(postgres.read(&partitions)).await {
            Ok(read) => break read,
            Err(error) => tracing::warn!(?error, "the epochs cannot be confirmed yet"),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    };
    let epochs =
        epochs.into_iter().map(|(partition, epoch)| (partition, epoch, read.contains(&(partition, epoch)))).collect();
    Answer::Input(Input::EpochsConfirmed { freeze, epochs })
}

/// Nobody goes on with a claim of an owner before the one that its partition has, below the committed offset of its partition, at or
/// above its end (the topic was recreated), or of a partition that is gone.
pub(super) async fn inspect(postgres: Postgres, lag: Arc<LagReader>, ticket: Ticket, holder: Holder) -> Answer {
    let is_left_behind = caught(postgres.is_left_behind(&holder)).await.unwrap_or_else(|error| {
        tracing::warn!(?error, "the owner of a claim cannot be inspected yet");
        false
    });
    let is_abandoned = is_left_behind
        || lag.is_abandoned(&holder).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the holder of a claim cannot be inspected yet");
            false
        });
    Answer::Input(Input::HolderInspected { ticket, abandoned: is_abandoned.then_some(holder) })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::sync::mpsc::Receiver;

    use super::*;
    use crate::config::{Database, Secret};

    async fn say_yes(mut asked: Receiver<ConsumerCommand>) {
        while let Some(ConsumerCommand::Confirm { assignments, answer }) = asked.recv().await {
            answer.send(assignments).unwrap();
        }
    }

    #[tokio::test]
    async fn an_outage_that_is_told_after_the_partition_went_makes_nobody_unready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://herald@{}/herald", listener.local_addr().unwrap());
        let database =
            Database { url: Secret::new(url), statement_timeout: Duration::from_secs(1), ..Database::default() };
        let assignment = Assignment { partition: Partition(0), session: Session(1), start: Offset(0) };
        let raising = watch::Sender::new(HashMap::from([(assignment.partition, assignment)]));
        let health = Arc::new(Health::new(Duration::from_secs(30)));
        let (commands, asked) = tokio::sync::mpsc::channel(1);
        tokio::spawn(say_yes(asked));
        let raise = Raise {
            postgres: Postgres::open(&database, "group", "topic").unwrap(),
            confirmer: Confirmer::through(&commands),
            health: Arc::clone(&health),
            wanted: raising.subscribe(),
            owner: "test".to_owned(),
        };
        let raised = tokio::spawn(raise.run(vec![assignment]));
        // Postgres is asked, and the partition goes to another owner before it answers, which it never does.
        let (connection, _) = listener.accept().await.unwrap();
        raising.send_modify(HashMap::clear);
        drop((connection, listener));
        assert!(matches!(raised.await.unwrap(), Answer::Nothing));
        let reasons: Vec<NotReady> = health.readiness().reasons.iter().map(|reason| reason.reason).collect();
        assert_eq!(reasons, [NotReady::Assignment]);
    }
}
