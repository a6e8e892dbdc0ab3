//! Whether the partitions are still ours, as Postgres has it: Kafka may be late to tell that they are another's.
//!
//! Claims and readings of what is parked tell it in passing. A delivery that is to begin when none has for a moment asks, and does not wait;
//! when none has for longer, or after a freeze, nothing begins before the answer. So whoever is cut off from Kafka and not from the gateway
//! begins little more of what it holds.

use std::time::Duration;

use super::Engine;
use crate::core::effect::{Effect, Effects, Report};
use crate::core::input::Now;
use crate::core::record::{Epoch, Partition};

/// How long the last word of Postgres is enough for a delivery to begin without a question.
const SEEN_FOR: Duration = Duration::from_millis(200);
/// How long it is enough for one to begin before the answer.
const BELIEVED_FOR: Duration = Duration::from_secs(2);

impl Engine {
    /// A process that stood still may have lost its partitions without knowing.
    pub(super) fn notice_freeze(&mut self, now: Now, effects: &mut Effects) {
        let gap = now.saturating_sub(self.last_input_at);
        self.last_input_at = now;
        if gap > self.config.freeze_gap && !self.partitions.is_empty() {
            self.freezes += 1;
            self.is_suspended = true;
            effects.push(Effect::Report(Report::Frozen { gap }));
            self.confirm_epochs(effects);
        }
    }

    /// Whether a delivery of the partition may begin. Else nothing does, until the epochs are confirmed.
    pub(super) fn may_begin(&mut self, now: Now, partition: Partition, effects: &mut Effects) -> bool {
        let Some(state) = self.partitions.get(&partition) else { return false };
        let age = now.saturating_sub(state.epoch_seen_at);
        if age > SEEN_FOR && !self.is_confirming {
            self.confirm_epochs(effects);
        }
        self.is_suspended = age > BELIEVED_FOR;
        !self.is_suspended
    }

    fn confirm_epochs(&mut self, effects: &mut Effects) {
        self.is_confirming = true;
        let partitions = self.partitions.iter().map(|(partition, state)| (*partition, state.epoch)).collect();
        effects.push(Effect::ConfirmEpochs { freeze: self.freezes, partitions });
    }

    /// The statement passed the fence.
    pub(super) fn epoch_seen(&mut self, now: Now, partition: Partition) {
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.epoch_seen_at = now;
        }
    }

    pub(super) fn epochs_confirmed(
        &mut self,
        now: Now,
        freeze: u64,
        epochs: &[(Partition, Epoch, bool)],
        effects: &mut Effects,
    ) {
        // What was read before the process stood still once more says nothing.
        if freeze != self.freezes {
            return;
        }
        for (partition, epoch, is_highest) in epochs {
            // It may have begun a new session since.
            if self.partitions.get(partition).is_none_or(|state| state.epoch != *epoch) {
                continue;
            }
            if *is_highest {
                self.epoch_seen(now, *partition);
            } else {
                self.fenced(*partition, effects);
            }
        }
        self.is_confirming = false;
        self.is_suspended = false;
        self.confirm_starts();
    }
}
