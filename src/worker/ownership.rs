//! Which partitions are ours: epochs are raised before anything is fetched, and confirmed after a freeze.

use std::sync::Arc;
use std::time::Duration;

use super::{Answer, Worker};
use crate::core::input::{Holder, Input, Ticket};
use crate::core::record::{Epoch, Offset, Partition, Session};
use crate::kafka::consumer::{Assignment, ConsumerCommand};
use crate::kafka::lag::GroupOffsets;
use crate::postgres::Postgres;

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
        self.telemetry.rebalanced("assigned");
        if self.stop.is_stopping() {
            for Assignment { partition, session, .. } in assignments {
                self.consumer.send(ConsumerCommand::Release { partition, session }).await;
            }
            return;
        }
        for assignment in &assignments {
            self.raising.insert(assignment.partition, *assignment);
        }
        let owner = self.settings.owner();
        self.spawn(raise(self.postgres.clone(), assignments, owner));
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
        self.telemetry.rebalanced("revoked");
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
        self.telemetry.rebalanced("lost");
        for partition in &partitions {
            self.raising.remove(partition);
            self.disown(*partition);
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
        self.telemetry.partition_gone(partition);
        self.consumer.send(ConsumerCommand::Release { partition, session }).await;
        self.show_ownership();
    }

    pub(super) fn disown(&mut self, partition: Partition) {
        self.publisher.disown(partition);
        self.telemetry.partition_gone(partition);
    }

    fn show_ownership(&self) {
        let owned: Vec<(Partition, Epoch)> = self.engine.epochs().collect();
        self.health.set_assigned(!owned.is_empty() || self.stop.is_stopping());
        self.telemetry.assigned_partitions(owned.len());
        self.publisher.own(owned);
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
    let owned = assignments.into_iter().filter_map(|Assignment { partition, session, start }| {
        let epoch = epochs.iter().find(|(raised, _)| *raised == partition)?.1;
        Some(Owned { partition, session, start, epoch })
    });
    Answer::Raised(owned.collect())
}

pub(super) async fn confirm(postgres: Postgres, partitions: Vec<Partition>) -> Answer {
    loop {
        match postgres.epochs(&partitions).await {
            Ok(epochs) => return Answer::Input(Input::EpochsConfirmed { epochs }),
            Err(error) => tracing::warn!(?error, "the epochs cannot be confirmed yet"),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// Nobody goes on with a claim below the committed offset of its partition, or of a partition that is gone.
pub(super) async fn inspect(group_offsets: Arc<GroupOffsets>, ticket: Ticket, holder: Holder) -> Answer {
    let is_abandoned = group_offsets.is_abandoned(&holder).await;
    let abandoned = is_abandoned.then_some(holder);
    Answer::Input(Input::HolderInspected { ticket, abandoned })
}
