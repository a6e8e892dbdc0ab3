//! What operators did and were refused, ever: totals of the audit in Postgres.
//!
//! Operators' commands are processes of their own, and nobody scrapes them. Every worker shows the same totals, so the maximum over
//! the workers is right whoever restarts, and none is shown before Postgres has answered: a 0 would look like a counter that began anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts, Registry};

use super::define::PREFIX;
use super::labels::OperatorResult;

/// The actions that are there at 0 before anybody did them; one that the audit knows besides is shown as well.
const ACTIONS: [&str; 8] = ["replay", "pause", "resume", "cancel", "discard", "restore", "reindex", "unmask"];

/// How often an action ended in this way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionCount {
    pub action: String,
    pub result: OperatorResult,
    pub count: u64,
}

/// The totals as they were last read. Cheap to clone: all clones are one board.
#[derive(Clone)]
pub struct OperatorBoard {
    totals: Arc<Mutex<Option<Totals>>>,
}

type Totals = BTreeMap<(String, &'static str), u64>;

impl OperatorBoard {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let board = Self { totals: Arc::default() };
        registry.register(Box::new(OperatorCollector::new(board.clone())?))?;
        Ok(board)
    }

    /// Shows these totals, and 0 for what never happened.
    pub fn replace(&self, counts: impl IntoIterator<Item = ActionCount>) {
        let results = OperatorResult::ALL.map(OperatorResult::as_str);
        let mut totals: Totals =
            ACTIONS.iter().flat_map(|action| results.map(|result| (((*action).to_owned(), result), 0))).collect();
        totals.extend(counts.into_iter().map(|one| ((one.action, one.result.as_str()), one.count)));
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner) = Some(totals);
    }
}

struct OperatorCollector {
    board: OperatorBoard,
    counters: Mutex<IntCounterVec>,
    descriptions: Vec<Desc>,
}

impl OperatorCollector {
    fn new(board: OperatorBoard) -> prometheus::Result<Self> {
        let help =
            "What operators did and were refused, ever: the same at every worker, from its first look at Postgres on.";
        let opts = Opts::new("operator_actions_total", help).namespace(PREFIX);
        let counters = IntCounterVec::new(opts, &["action", "result"])?;
        let descriptions = counters.desc().into_iter().cloned().collect();
        Ok(Self { board, counters: Mutex::new(counters), descriptions })
    }
}

impl Collector for OperatorCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Held to the end: of two scrapes at once, neither may see the counters half written.
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.reset();
        for ((action, result), count) in
            self.board.totals.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten()
        {
            counters.with_label_values(&[action.as_str(), *result]).inc_by(*count);
        }
        counters.collect()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    fn lines(registry: &Registry) -> Vec<String> {
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn nothing_is_shown_before_postgres_answered_and_then_the_totals_of_all_time() {
        let registry = Registry::new();
        let board = OperatorBoard::register(&registry).unwrap();
        assert_eq!(lines(&registry), Vec::<String>::new());
        let count = |action: &str, result, count| ActionCount { action: action.to_owned(), result, count };
        for total in [7, 9] {
            board.replace([
                count("discard", OperatorResult::Refused, total),
                count("a later version's", OperatorResult::Ok, 1),
            ]);
            let shown = lines(&registry);
            assert_eq!(shown.len(), ACTIONS.len() * OperatorResult::ALL.len() + 1, "{shown:#?}");
            let refused = format!(r#"herald_operator_actions_total{{action="discard",result="refused"}} {total}"#);
            let none = r#"herald_operator_actions_total{action="discard",result="ok"} 0"#;
            assert!(shown.contains(&refused) && shown.iter().any(|line| line == none), "{shown:#?}");
        }
    }
}
