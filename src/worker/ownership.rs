//! Which partitions are ours: epochs are raised before anything is fetched, and confirmed after a freeze.

use std::sync::Arc;
use std::time::Duration;

use super::{Answer, Worker};
use crate::core::input::{Holder, Input, Ticket};
use crate::core::record::{Coordinates, Epoch, Offset, Partition, Session};
use crate::http::health::NotReady;
use crate::kafka::consumer::{Assignment, ConsumerCommand};
use crate::kafka::lag::{CommittedOffset, LagReader};
use crate::postgres::Postgres;
use crate::telemetry::events::Rebalanced;
use crate::telemetry::labels::RebalanceKind;

const RETRY_AFTER: Duration = Duration::from_millis(500);
/// An answer that is only counted is not waited for.
const CLEAN_END_DEADLINE: Duration = Duration::from_secs(2);

/// A partition whose epoch was raised.
pub(super) struct Owned {
    partition: Partition,
    session: Session,
    start: Offset,
    epoch: Epoch,
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
        for assignment in &assignments {
            self.raising.insert(assignment.partition, *assignment);
        }
        self.spawn(raise(self.postgres.clone(), assignments, self.owner()));
    }

    pub(super) async fn raised(&mut self, owned: Vec<Owned>) {
        for Owned { partition, session, start, epoch } in owned {
            // Taken away while Postgres was asked, perhaps given anew.
            let is_current = self.raising.get(&partition).is_some_and(|assignment| assignment.session == session);
            if !is_current {
                continue;
            }
            self.raising.remove(&partition);
            self.input(Input::Assigned { partition, session, epoch, start });
            self.consumer.send(ConsumerCommand::Fetch { partition, session }).await;
        }
        self.show_ownership();
    }

    pub(super) async fn revoking(&mut self, partitions: Vec<Partition>) {
        self.rebalanced(RebalanceKind::Revoked, &partitions);
        self.shown.drain_began();
        let mut held = Vec::new();
        for partition in partitions {
            match self.raising.remove(&partition) {
                Some(Assignment { session, .. }) => {
                    self.consumer.send(ConsumerCommand::Release { partition, session }).await;
                }
                None => held.push(partition),
            }
        }
        let deadline = self.now() + self.settings.delivery.drain_timeout;
        self.input(Input::Revoking { partitions: held, deadline });
    }

    pub(super) fn lost(&mut self, partitions: Vec<Partition>) {
        self.rebalanced(RebalanceKind::Lost, &partitions);
        for partition in &partitions {
            self.raising.remove(partition);
            self.publisher.disown(*partition);
        }
        self.input(Input::Lost { partitions });
        self.show_ownership();
    }

    /// The offset was stored before: commands keep their order.
    pub(super) async fn release(&mut self, partition: Partition, session: Session) {
        if let Some(epoch) = self.publisher.disown(partition) {
            let postgres = self.postgres.clone();
            self.spawn(async move {
                // Whether an ownership ended cleanly is only counted.
                let _ = tokio::time::timeout(CLEAN_END_DEADLINE, postgres.end_clean(&[(partition, epoch)])).await;
                Answer::Nothing
            });
        }
        self.consumer.send(ConsumerCommand::Release { partition, session }).await;
        self.show_ownership();
    }

    fn rebalanced(&mut self, kind: RebalanceKind, partitions: &[Partition]) {
        match kind {
            RebalanceKind::Assigned => self.assigned.extend(partitions),
            RebalanceKind::Revoked | RebalanceKind::Lost => self.assigned.retain(|one| !partitions.contains(one)),
        }
        // A worker that got no partitions because others have them all is ready too: the group has answered.
        self.health.resolve(NotReady::Assignment);
        Rebalanced { kind, partitions, assigned: self.assigned.len() }.emit(&self.telemetry);
    }

    /// Who raises an epoch, for people who read the table.
    fn owner(&self) -> String {
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "herald".to_owned());
        let instance = self.settings.kafka.instance_id.clone().unwrap_or(host);
        format!("{instance}/{}", std::process::id())
    }

    fn show_ownership(&self) {
        self.publisher.own(self.engine.epochs().collect());
    }
}

/// However long Postgres takes: the partition is paused until then. A raise that arrives late only makes another one needed.
async fn raise(postgres: Postgres, assignments: Vec<Assignment>, owner: String) -> Answer {
    let partitions: Vec<Partition> = assignments.iter().map(|assignment| assignment.partition).collect();
    let epochs = loop {
        match postgres.raise(&partitions, &owner).await {
            Ok(epochs) => break epochs,
            Err(error) => tracing::warn!(?error, "the epochs cannot be raised yet"),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    };
    let raised = assignments.into_iter().filter_map(|Assignment { partition, session, start }| {
        let epoch = epochs.iter().find(|(raised, _)| *raised == partition)?.1;
        Some(Owned { partition, session, start, epoch })
    });
    Answer::Raised(raised.collect())
}

pub(super) async fn confirm(postgres: Postgres, partitions: Vec<Partition>) -> Answer {
    loop {
        match postgres.read(&partitions).await {
            Ok(epochs) => return Answer::Input(Input::EpochsConfirmed { epochs }),
            Err(error) => tracing::warn!(?error, "the epochs cannot be confirmed yet"),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// Nobody goes on with a claim below the committed offset of its partition, or of a partition that is gone.
pub(super) async fn inspect(lag: Arc<LagReader>, ticket: Ticket, holder: Holder) -> Answer {
    let Coordinates { partition, offset } = holder.coordinates;
    let is_abandoned = match lag.committed_offset(&holder.topic, partition).await {
        Ok(CommittedOffset::At(committed)) => offset < committed,
        Ok(CommittedOffset::Gone) => true,
        Ok(CommittedOffset::Nothing) => false,
        Err(error) => {
            tracing::warn!(%error, "the holder of a claim cannot be inspected yet");
            false
        }
    };
    Answer::Input(Input::HolderInspected { ticket, abandoned: is_abandoned.then_some(holder) })
}
