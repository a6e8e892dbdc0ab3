//! Compares what was produced with what the gateway saw.

use std::collections::{BTreeMap, BTreeSet};

use super::gateway::Request;
use super::orders::Produced;

/// Empty lists all through: every order was notified once and in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Orders with no accepted notification.
    pub lost: BTreeSet<Identity>,
    /// Orders with more than one accepted notification.
    pub repeated: Vec<Repeated>,
    /// Orders of which requests came with different idempotency keys, or with none.
    pub unstable_keys: BTreeSet<Identity>,
    /// Requests for something that was never produced.
    pub unknown: BTreeSet<Identity>,
    /// Pairs of one key in one partition: the second was asked for before the first was accepted.
    pub out_of_order: Vec<(Produced, Produced)>,
}

impl Verdict {
    /// Every order was notified exactly once and in order.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

pub type Identity = (String, String);

#[derive(Debug, PartialEq, Eq)]
pub struct Repeated {
    pub identity: Identity,
    pub accepted: usize,
    pub same_idempotency_key: bool,
}

/// Judges with the order id as the key.
pub fn judge(produced: &[Produced], requests: &[Request]) -> Verdict {
    let seen = by_identity(requests);
    let expected: BTreeSet<Identity> = produced.iter().map(identity).collect();
    Verdict {
        lost: expected.iter().filter(|identity| accepted(&seen, identity).is_empty()).cloned().collect(),
        repeated: repeated(&seen),
        unstable_keys: unstable_keys(requests),
        unknown: seen.keys().filter(|identity| !expected.contains(*identity)).cloned().collect(),
        out_of_order: out_of_order(produced, &seen),
    }
}

fn by_identity(requests: &[Request]) -> BTreeMap<Identity, Vec<&Request>> {
    let mut seen: BTreeMap<Identity, Vec<&Request>> = BTreeMap::new();
    for request in requests {
        seen.entry((request.order_id(), request.event_type().to_owned())).or_default().push(request);
    }
    seen
}

fn identity(event: &Produced) -> Identity {
    (event.order_id.clone(), event.event_type.clone())
}

fn accepted<'a>(seen: &BTreeMap<Identity, Vec<&'a Request>>, identity: &Identity) -> Vec<&'a Request> {
    seen.get(identity).into_iter().flatten().copied().filter(|request| request.is_accepted()).collect()
}

fn keys<'a>(requests: &[&'a Request]) -> BTreeSet<Option<&'a str>> {
    requests.iter().map(|request| request.idempotency_key()).collect()
}

fn repeated(seen: &BTreeMap<Identity, Vec<&Request>>) -> Vec<Repeated> {
    seen.keys()
        .map(|identity| (identity, accepted(seen, identity)))
        .filter(|(_, accepted)| accepted.len() > 1)
        .map(|(identity, accepted)| Repeated {
            identity: identity.clone(),
            accepted: accepted.len(),
            same_idempotency_key: keys(&accepted).len() == 1,
        })
        .collect()
}

/// Orders of which requests came with different idempotency keys, or with none.
pub fn unstable_keys(requests: &[Request]) -> BTreeSet<Identity> {
    let mut seen = by_identity(requests);
    seen.retain(|_, requests| {
        let keys = keys(requests);
        keys.len() > 1 || keys.contains(&None)
    });
    seen.into_keys().collect()
}

/// Copies of an identity count where they were produced first.
fn out_of_order(produced: &[Produced], seen: &BTreeMap<Identity, Vec<&Request>>) -> Vec<(Produced, Produced)> {
    let mut first_copies: BTreeMap<Identity, &Produced> = BTreeMap::new();
    for event in produced {
        let first = first_copies.entry(identity(event)).or_insert(event);
        if event.coordinates < first.coordinates {
            *first = event;
        }
    }
    let mut lanes: BTreeMap<_, BTreeMap<_, &Produced>> = BTreeMap::new();
    for event in first_copies.into_values() {
        let lane = lanes.entry((event.coordinates.partition, &event.order_id)).or_default();
        lane.insert(event.coordinates.offset, event);
    }
    let mut violations = Vec::new();
    for lane in lanes.into_values() {
        // One that was never accepted lets all others pass, and those before and after it are neighbours.
        let events: Vec<&Produced> =
            lane.into_values().filter(|event| !accepted(seen, &identity(event)).is_empty()).collect();
        for pair in events.windows(2) {
            if overtakes(seen, pair[0], pair[1]) {
                violations.push((pair[0].clone(), pair[1].clone()));
            }
        }
    }
    violations
}

/// Whether the later event was asked for before the earlier one was first accepted.
fn overtakes(seen: &BTreeMap<Identity, Vec<&Request>>, earlier: &Produced, later: &Produced) -> bool {
    let accepted = accepted(seen, &identity(earlier));
    let Some(first) = accepted.iter().filter_map(|request| request.answered).min() else {
        return false;
    };
    let requests = seen.get(&identity(later)).into_iter().flatten();
    requests.map(|request| request.received).any(|asked| asked < first)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use herald::core::record::{Coordinates, Offset, Partition};
    use serde_json::json;

    use super::*;

    fn event(order_id: u64, event_type: &str, offset: i64) -> Produced {
        Produced {
            order_id: order_id.to_string(),
            event_type: event_type.to_owned(),
            coordinates: Coordinates { partition: Partition(0), offset: Offset(offset) },
        }
    }

    /// A request from one millisecond to another, answered with this status.
    fn request(order_id: u64, event_type: &str, [from, to]: [u64; 2], status: u16) -> Request {
        let start = *START;
        Request {
            received: start + Duration::from_millis(from),
            answered: Some(start + Duration::from_millis(to)),
            status: Some(status),
            sequence: 0,
            path: "/notify".to_owned(),
            headers: vec![("idempotency-key".to_owned(), format!("{order_id}-{event_type}"))],
            body: json!({"type": event_type, "order": {"order_id": order_id}}),
            raw: Bytes::new(),
        }
    }

    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

    #[test]
    fn a_clean_run_has_an_empty_verdict() {
        let produced = [event(1, "A", 0), event(2, "A", 1), event(1, "A", 2), event(1, "B", 3)];
        let requests = [
            request(2, "A", [0, 1], 200),
            request(1, "A", [0, 2], 500),
            request(1, "A", [4, 5], 204),
            request(1, "B", [5, 6], 200),
        ];
        assert_eq!(judge(&produced, &requests), Verdict::default());
    }

    #[test]
    fn those_around_one_that_was_never_accepted_are_compared_with_each_other() {
        let produced = [event(1, "A", 0), event(1, "B", 1), event(1, "C", 2)];
        let requests = [request(1, "C", [0, 1], 200), request(1, "A", [2, 3], 200), request(1, "B", [4, 5], 422)];
        let verdict = judge(&produced, &requests);
        assert_eq!(verdict.out_of_order, [(produced[0].clone(), produced[2].clone())]);
    }

    #[test]
    fn what_went_wrong_is_named() {
        let produced = [event(1, "A", 0), event(2, "A", 1), event(3, "A", 2), event(3, "B", 3)];
        let mut other_key = request(2, "A", [3, 4], 200);
        other_key.headers[0].1 = "other".to_owned();
        let requests = [
            request(1, "A", [0, 1], 500),
            request(2, "A", [0, 1], 200),
            other_key,
            request(3, "B", [1, 2], 200),
            request(3, "A", [1, 3], 200),
            request(4, "A", [0, 1], 200),
        ];
        let verdict = judge(&produced, &requests);
        let of = |order_id: &str| BTreeSet::from([(order_id.to_owned(), "A".to_owned())]);
        assert_eq!(verdict.lost, of("1"));
        assert_eq!(verdict.unknown, of("4"));
        assert_eq!(verdict.unstable_keys, of("2"));
        assert_eq!(
            verdict.repeated,
            [Repeated { identity: ("2".to_owned(), "A".to_owned()), accepted: 2, same_idempotency_key: false }]
        );
        assert_eq!(verdict.out_of_order, [(produced[2].clone(), produced[3].clone())]);
    }
}
