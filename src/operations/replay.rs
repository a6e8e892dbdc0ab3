//! Replays: planned first, then executed by the plan's id; the workers go on with them.

use std::time::Duration;

use super::{OperationError, Operations, Selection, Sight};
use crate::core::decode::Decoded;
use crate::core::record::Record;
use crate::postgres::{
    Act, DeadLetterState, LetterProspect, PlannedLetter, Prospect, Replay, ReplayState, ReplayTerms, ReplayTo,
    WholeLetter,
};

/// How long a plan may be executed.
const VALID_FOR: Duration = Duration::from_mins(15);

/// How a replay is to go, as far as the operator says.
#[derive(Clone, Debug)]
pub struct ReplayWish {
    pub to: ReplayTo,
    pub rate: f64,
    /// All at once, by default.
    pub canary: u32,
    pub max_failure_ratio: f64,
    pub override_cap: bool,
    pub reason: String,
}

/// A plan, as it was frozen.
#[derive(Clone, Debug)]
pub struct Plan {
    pub replay: Replay,
    /// What would become of the selected letters, those left out too.
    pub prospects: Vec<LetterProspect>,
}

impl Operations {
    /// Freezes the selected dead letters as a plan.
    pub async fn plan_replay(&self, selection: Selection, wish: &ReplayWish) -> Result<Plan, OperationError> {
        let states = if wish.override_cap {
            DeadLetterState::NOT_CLOSED.to_vec()
        } else {
            vec![DeadLetterState::Open, DeadLetterState::Replaying]
        };
        let selection = selection.or_in_states(&states);
        let act = self.act("replay", selection.to_json(), &wish.reason);
        self.may_change(&act).await?;
        if wish.to == ReplayTo::Topic && wish.canary > 0 {
            let why =
                "a replay to the topic has no canary, since nobody waits for what becomes of it: publish one id first";
            return Err(self.refuse(&act, why).await);
        }
        self.may_search(&selection, "replay", Sight::Masked).await?;
        if selection.is_everything() {
            return Err(self.refuse(&act, "an empty filter would take every dead letter: name ids or a filter").await);
        }
        let ids = self.postgres.letter_ids(&act.filter).await?;
        let letters: Vec<_> = ids.into_iter().map(|id| PlannedLetter { id, edited: None }).collect();
        self.freeze_plan(&letters, wish, &act).await
    }

    /// Freezes one dead letter with another payload. The letter keeps the original.
    pub async fn plan_edited(&self, id: i64, payload: Vec<u8>, wish: &ReplayWish) -> Result<Plan, OperationError> {
        let act = self.act("replay", Selection::of_ids(vec![id]).to_json(), &wish.reason);
        self.may_change(&act).await?;
        if !self.rules().edit {
            return Err(self.refuse(&act, "dead_letters.edit is not set: payloads may not be changed").await);
        }
        let letter = self.letter(id).await?;
        let record = Record { value: Some(payload.into()), ..letter.record.clone() };
        if let Err(why) = self.check_edited(&letter, &record) {
            return Err(self.refuse(&act, why).await);
        }
        let edited = Some(crate::postgres::stored_form(&record));
        self.freeze_plan(&[PlannedLetter { id, edited }], wish, &act).await
    }

    /// An order stays the order that it is.
    fn check_edited(&self, letter: &WholeLetter, edited: &Record) -> Result<(), String> {
        let event = match self.settings.decoder().decode(edited) {
            Decoded::Event { event, .. } => event,
            Decoded::Ignored { event_type } => return Err(format!("the event type {event_type} is not configured")),
            Decoded::Poison { reason, error } => return Err(format!("the edited payload is {reason}: {error}")),
        };
        let was = (&*letter.listed.order_id, &*letter.listed.event_type);
        let is_synthetic = was.1 == crate::core::decode::SYNTHETIC_EVENT_TYPE;
        if is_synthetic || was == (&*event.identity.order_id, &*event.identity.event_type) {
            return Ok(());
        }
        Err(format!("the edited payload is of order {}, the dead letter of order {}", event.identity.order_id, was.0))
    }

    async fn freeze_plan(
        &self,
        letters: &[PlannedLetter],
        wish: &ReplayWish,
        act: &Act,
    ) -> Result<Plan, OperationError> {
        let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
        let prospects = self.postgres.prospects(&ids, wish.to, wish.override_cap).await?;
        let is_taken = |id: i64| prospects.iter().any(|letter| letter.id == id && letter.prospect.is_taken(wish.to));
        let taken: Vec<PlannedLetter> = match letters {
            [letter] => letters.iter().filter(|_| is_taken(letter.id)).cloned().collect(),
            // Both are sorted by id.
            _ => prospects
                .iter()
                .filter(|letter| letter.prospect.is_taken(wish.to))
                .map(|letter| PlannedLetter { id: letter.id, edited: None })
                .collect(),
        };
        if taken.is_empty() {
            return Err(self.refuse(act, self.why_none(&prospects).await?).await);
        }
        let terms = ReplayTerms {
            to: wish.to,
            rate: wish.rate,
            canary: wish.canary,
            max_failure_ratio: wish.max_failure_ratio,
            replay_cap: self.rules().replay_cap,
            override_cap: wish.override_cap,
            valid_for: VALID_FOR,
        };
        let id = self.postgres.write_plan(&taken, &terms, act).await?;
        Ok(Plan { replay: self.replay(id).await?, prospects })
    }

    /// Why there is nothing to replay, by the first letter.
    async fn why_none(&self, prospects: &[LetterProspect]) -> Result<String, OperationError> {
        let Some(letter) = prospects.first() else { return Ok("no dead letter is selected".to_owned()) };
        if letter.prospect == Prospect::Closed {
            let told = self.states(vec![letter.id]).await?.pop();
            return Ok(told.map_or_else(String::new, |(id, state)| format!("dead letter {id} is closed: {state}")));
        }
        Ok(self.why_not(letter))
    }

    fn why_not(&self, letter: &LetterProspect) -> String {
        let id = letter.id;
        match letter.prospect {
            Prospect::BeingReplayed => match &letter.replay {
                Some((replay, by, at)) => {
                    format!("dead letter {id} is being replayed: r{replay} by {by} since {at}")
                }
                None => format!("dead letter {id} is being replayed"),
            },
            Prospect::BeingHandled => format!("the order of dead letter {id} is being handled, or waits for its retry"),
            Prospect::Quarantined => format!(
                "dead letter {id} is quarantined after {} failed replays: --override-cap replays it all the same",
                self.rules().replay_cap
            ),
            Prospect::Closed => format!("dead letter {id} is closed"),
            Prospect::Superseded => format!("a later dead letter of the same order has taken the place of {id}"),
            Prospect::Pruned => format!(
                "the ledger row of dead letter {id} was pruned: whether its order was notified since is not known"
            ),
            Prospect::Published => match &letter.replay {
                Some((replay, by, at)) => {
                    format!("dead letter {id} was published again since it failed: r{replay} by {by} at {at}")
                }
                None => format!("dead letter {id} was published again since it failed"),
            },
            Prospect::AlreadyNotified => {
                format!("the order of dead letter {id} was notified meanwhile: replay it without --to-topic")
            }
            Prospect::Processed => format!("dead letter {id} changed this moment: try again"),
        }
    }

    /// Executes a plan: the workers begin with it within a second.
    pub async fn execute_plan(&self, id: i64) -> Result<Replay, OperationError> {
        let act = self.act("replay", replay_json(id), "");
        self.may_change(&act).await?;
        self.goes_to(&act, id, ReplayTo::Workers).await?;
        self.begin(id, ReplayState::Running, &act).await
    }

    /// A plan that goes elsewhere is another operation's.
    pub(super) async fn goes_to(&self, act: &Act, id: i64, to: ReplayTo) -> Result<(), OperationError> {
        let why = match (self.replay(id).await, to) {
            (Err(OperationError::Refused(why)), _) => why,
            (Err(error), _) => return Err(error),
            (Ok(replay), to) if replay.to == to => return Ok(()),
            (Ok(_), ReplayTo::Topic) => format!("p{id} is a plan for the workers: it does not go to the topic"),
            (Ok(_), ReplayTo::Workers) => format!("p{id} is a plan for the topic: the workers do not take it"),
        };
        Err(self.refuse(act, why).await)
    }

    pub(super) async fn begin(&self, id: i64, to: ReplayState, act: &Act) -> Result<Replay, OperationError> {
        if !self.postgres.move_replay(id, &[ReplayState::Planned], to, act).await? {
            return Err(match self.replay(id).await {
                Err(error) => self.refuse(act, error.to_string()).await,
                Ok(replay) if replay.state == ReplayState::Planned => {
                    let until = replay.valid_until;
                    self.conflict(act, format!("plan p{id} is stale: it was valid until {until}; plan again")).await
                }
                Ok(replay) => self.conflict(act, told(&replay)).await,
            });
        }
        self.replay(id).await
    }

    /// Nothing more of it is begun until it is resumed.
    pub async fn pause_replay(&self, id: i64) -> Result<Replay, OperationError> {
        self.change(id, "pause", &[ReplayState::Running, ReplayState::Publishing], ReplayState::Paused).await
    }

    /// A paused or stopped replay goes on; a stopped one with another bound.
    pub async fn resume_replay(&self, id: i64, max_failure_ratio: Option<f64>) -> Result<Replay, OperationError> {
        let act = self.act("resume", replay_json(id), "");
        self.may_change(&act).await?;
        self.goes_to(&act, id, ReplayTo::Workers).await?;
        let is_stopped = self.replay(id).await?.state == ReplayState::Stopped;
        match max_failure_ratio {
            Some(ratio) => self.postgres.allow_failures(id, ratio).await?,
            None if is_stopped => {
                let why =
                    format!("r{id} stopped at its failure ratio: --max-failure-ratio says how many more may fail");
                return Err(self.refuse(&act, why).await);
            }
            None => {}
        }
        self.change(id, "resume", &[ReplayState::Paused, ReplayState::Stopped], ReplayState::Running).await
    }

    /// What no worker has begun goes back; it is cancelled for good.
    pub async fn cancel_replay(&self, id: i64) -> Result<Replay, OperationError> {
        let from = [
            ReplayState::Planned,
            ReplayState::Running,
            ReplayState::Publishing,
            ReplayState::Paused,
            ReplayState::Stopped,
        ];
        self.change(id, "cancel", &from, ReplayState::Cancelled).await?;
        // A worker does the same within a second, if this process dies first.
        self.postgres.take_back_cancelled().await?;
        self.replay(id).await
    }

    pub(super) async fn change(
        &self,
        id: i64,
        action: &'static str,
        from: &[ReplayState],
        to: ReplayState,
    ) -> Result<Replay, OperationError> {
        let act = self.act(action, replay_json(id), "");
        self.may_change(&act).await?;
        if !self.postgres.move_replay(id, from, to, &act).await? {
            return Err(match self.replay(id).await {
                Err(error) => self.refuse(&act, error.to_string()).await,
                Ok(replay) => self.conflict(&act, told(&replay)).await,
            });
        }
        self.replay(id).await
    }

    pub async fn replay(&self, id: i64) -> Result<Replay, OperationError> {
        let found = self.postgres.replays(Some(id), None, 1).await?.pop();
        found.ok_or_else(|| OperationError::Refused(format!("there is no plan p{id} and no replay r{id}")))
    }

    /// The newest replays, plans too.
    pub async fn replays(&self, limit: u32) -> Result<Vec<Replay>, OperationError> {
        Ok(self.postgres.replays(None, None, limit).await?)
    }
}

pub(super) fn replay_json(id: i64) -> String {
    format!("{{\"replay\":{id}}}")
}

fn told(replay: &Replay) -> String {
    let at = replay.changed_at;
    format!("r{} is {} since {at}, by {}", replay.id, replay.state.as_str(), replay.changed_by)
}
