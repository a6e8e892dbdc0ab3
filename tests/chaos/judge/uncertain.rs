//! At most once: what may have been delivered is never delivered again, and only that is left to an operator.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::repeats::Delivery;
use super::{Check, Evidence, LedgerRow, Verdict};
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
        if requests.iter().any(|request| is_unknown(row, request, evidence)) {
            continue;
        }
        verdict.numbers.uncertain_untold += 1;
        if !ended_before_it_asked(row, requests, evidence) {
            let answers: Vec<(Option<u16>, &str)> =
                requests.iter().map(|request| (request.status, request.path.as_str())).collect();
            verdict.find(Check::DeadLetters, format!("{:?} is uncertain, and was answered: {answers:?}", row.identity));
        }
    }
}

fn uncertain(evidence: &Evidence) -> impl Iterator<Item = &LedgerRow> {
    evidence.ledger.iter().filter(|row| row.state == "u")
}

/// It had no answer, or one that says nothing, or its worker could not write down which.
fn is_unknown(row: &LedgerRow, request: &Request, evidence: &Evidence) -> bool {
    let says_nothing = request.status.is_none_or(|status| [502, 504].contains(&status));
    let settled = row.settled.unwrap_or(request.received);
    says_nothing || Delivery { request, evidence }.unsettled_by(settled, true).is_some()
}

/// A worker wrote the start of one more delivery, and ended or stood still before the gateway was asked.
fn ended_before_it_asked(row: &LedgerRow, requests: &[&Request], evidence: &Evidence) -> bool {
    let Some(settled) = row.settled else { return false };
    let answered = requests.iter().filter_map(|request| request.answered).max();
    let found_from = settled.checked_sub(FOUND_WITHIN).unwrap_or(settled);
    let since = answered.map_or(found_from, |answered| answered.max(found_from));
    evidence.entries.iter().any(|entry| {
        let is_end = matches!(entry.fault, Fault::Killed { .. } | Fault::Frozen { .. } | Fault::Terminated(_));
        is_end && since <= settled && entry.overlaps(since, settled)
    })
}
