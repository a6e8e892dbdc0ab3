//! At most once: what may have been delivered is never delivered again, and only that is left to an operator.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::repeats::Delivery;
use super::{Check, Evidence, Settled, Verdict};
use crate::Semantics;
use crate::chronicle::Fault;
use crate::support::gateway::Request;
use crate::support::oracle::Identity;

/// A worker that dies between the start in the ledger and the request is replaced, and the start found, within this time.
const FOUND_WITHIN: Duration = Duration::from_mins(1);

/// The identities whose effect is unknown.
pub fn identities(evidence: &Evidence) -> BTreeSet<&Identity> {
    match evidence.semantics {
        Semantics::AtLeastOnce => BTreeSet::new(),
        Semantics::AtMostOnce => uncertain(evidence).map(|row| &row.identity).collect(),
    }
}

pub fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    let mut asked: BTreeMap<Identity, Vec<&Request>> = BTreeMap::new();
    for request in &evidence.requests {
        asked.entry((request.order_id(), request.event_type().to_owned())).or_default().push(request);
    }
    for row in uncertain(evidence) {
        let requests = asked.get(&row.identity).map(Vec::as_slice).unwrap_or_default();
        verdict.numbers.uncertain_ends += 1;
        verdict.numbers.uncertain_untold += usize::from(requests.is_empty());
        if !is_explained(row, requests, evidence) {
            let told = format!("{:?} is uncertain, and was asked for and answered: {requests:?}", row.identity);
            verdict.find(Check::DeadLetters, told);
        }
    }
}

fn uncertain(evidence: &Evidence) -> impl Iterator<Item = &Settled> {
    evidence.ledger.iter().filter(|row| row.state == "u")
}

/// A request had no answer, or one that says nothing, or its worker could not write down which; or the worker died before it asked.
fn is_explained(row: &Settled, requests: &[&Request], evidence: &Evidence) -> bool {
    let Some(settled) = row.settled else { return false };
    if requests.is_empty() {
        let since = settled.checked_sub(FOUND_WITHIN).unwrap_or(settled);
        return evidence.entries.iter().any(|entry| {
            let is_end = matches!(entry.fault, Fault::Killed { .. } | Fault::Frozen { .. } | Fault::Terminated(_));
            is_end && entry.overlaps(since, settled)
        });
    }
    requests.iter().any(|request| {
        let says_nothing = request.status.is_none_or(|status| [502, 504].contains(&status));
        let delivery = Delivery { request, entries: &evidence.entries };
        says_nothing || delivery.unsettled_by(settled, true).is_some()
    })
}
