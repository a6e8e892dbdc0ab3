//! Which dead letters are meant.

use serde::Serialize;

use crate::core::failure::Reason;
use crate::postgres::DeadLetterState;

/// What a dead letter has to be to be meant: everything that is set. As JSON it is the filter of the function
/// `selected_dead_letters` and what the audit keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Selection {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<i64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub states: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasons: Option<Vec<&'static str>>,
    /// The beginning of a group's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    /// Of the Kafka record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_offset: Option<i64>,
    /// When it failed last, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replays: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replays: Option<u32>,
    /// In the error, whatever its case, or in the bytes of the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Selection {
    /// These dead letters, whatever their state.
    #[must_use]
    pub fn of_ids(ids: Vec<i64>) -> Self {
        Self { ids: Some(ids), ..Self::default() }
    }

    /// In these states, unless the selection names others or ids.
    #[must_use]
    pub fn or_in_states(mut self, states: &[DeadLetterState]) -> Self {
        if self.states.is_none() && self.ids.is_none() {
            self.states = Some(states.iter().map(|state| state.as_str()).collect());
        }
        self
    }

    #[must_use]
    pub fn with_reasons(mut self, reasons: &[Reason]) -> Self {
        self.reasons = (!reasons.is_empty()).then(|| reasons.iter().map(|reason| reason.as_str()).collect());
        self
    }

    /// Nothing but a state is asked for: that would mean all of them.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        Self { states: None, ..self.clone() } == Self::default()
    }

    /// As the database takes it.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_alone_selects_everything_and_anything_else_does_not() {
        assert!(Selection::default().is_everything());
        assert!(Selection::default().or_in_states(&[DeadLetterState::Open]).is_everything());
        assert!(!Selection { group: Some("a91f".to_owned()), ..Selection::default() }.is_everything());
        assert!(!Selection::of_ids(vec![7]).is_everything());
    }

    #[test]
    fn only_what_is_asked_for_reaches_the_database() {
        let selection = Selection { partition: Some(3), ..Selection::default() }.with_reasons(&[Reason::Permanent]);
        let selection = selection.or_in_states(&[DeadLetterState::Open]);
        assert_eq!(selection.to_json(), r#"{"states":["open"],"reasons":["permanent"],"partition":3}"#);
        assert_eq!(Selection::of_ids(vec![7]).or_in_states(&[DeadLetterState::Open]).to_json(), r#"{"ids":[7]}"#);
    }
}
