//! Order by key: what of a key stands behind another record in a partition is not asked for before that one was accepted.
//!
//! Each request names the record that it was made for. So copies of an event in other partitions, which may be asked for at any time,
//! are told from the one whose place counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use herald::core::record::{Coordinates, Partition};

use super::{Check, Evidence, Known, Verdict};
use crate::Ordering;
use crate::chronicle::Life;
use crate::content::Fate;
use crate::support::gateway::Request;
use crate::support::oracle::Identity;

/// A record that is to be notified, at its place.
#[derive(Clone, Debug)]
struct Event<'a> {
    number: usize,
    identity: &'a Identity,
    coordinates: Coordinates,
    key: String,
}

/// What the gateway saw of an event.
#[derive(Debug, Default)]
struct Seen<'a> {
    /// By record: the first request that named it.
    asked: BTreeMap<usize, &'a Request>,
    /// Records of which a request was accepted.
    accepted: BTreeSet<usize>,
    /// When the identity was first accepted, for whichever record.
    first_accepted: BTreeMap<Identity, Instant>,
}

pub fn judge(evidence: &Evidence, known: &[Known<'_>], verdict: &mut Verdict) {
    let events: Vec<Event<'_>> = known
        .iter()
        .filter(|known| known.planned.fate == Fate::Notified)
        .filter_map(|Known { number, planned, record }| {
            let identity = planned.identity.as_ref()?;
            let key = match evidence.ordering {
                Ordering::OrderId => identity.0.clone(),
                Ordering::UserId => planned.user.to_string(),
            };
            Some(Event { number: *number, identity, coordinates: record.coordinates, key })
        })
        .collect();
    let seen = Seen::by(&evidence.requests);
    verdict.numbers.compared_in_order = events.iter().filter(|event| seen.asked.contains_key(&event.number)).count();
    verdict.find_all(Check::OutOfOrder, out_of_order(events, &seen));
}

fn out_of_order(mut events: Vec<Event<'_>>, seen: &Seen<'_>) -> Vec<String> {
    let mut partitions: BTreeMap<&Identity, BTreeSet<Partition>> = BTreeMap::new();
    for event in &events {
        partitions.entry(event.identity).or_default().insert(event.coordinates.partition);
    }
    events.sort_by_key(|event| event.coordinates);
    let mut lanes: BTreeMap<(Partition, &str), Vec<&Event<'_>>> = BTreeMap::new();
    for event in &events {
        lanes.entry((event.coordinates.partition, &event.key)).or_default().push(event);
    }
    let mut found = Vec::new();
    for lane in lanes.into_values() {
        let mut passed: BTreeSet<usize> = BTreeSet::new();
        let mut last: Option<(Instant, &Event<'_>)> = None;
        // What the producer wrote twice counts where it is first.
        for event in lane.into_iter().filter(|event| passed.insert(event.number)) {
            if let Some((accepted, before)) = last
                && let Some(request) = seen.asked.get(&event.number)
                && request.received < accepted
            {
                found.push(told(event, before, request, accepted));
            }
            // Where another partition has a copy too, that one may be parked, and this one ends behind it at once: only what was
            // accepted from here holds up those behind it.
            let counts = seen.accepted.contains(&event.number) || partitions[event.identity].len() == 1;
            let accepted = seen.first_accepted.get(event.identity).filter(|_| counts);
            last = last.into_iter().chain(accepted.map(|at| (*at, event))).max_by_key(|(at, _)| *at);
        }
    }
    found
}

fn told(event: &Event<'_>, before: &Event<'_>, request: &Request, accepted: Instant) -> String {
    let by = Life::of_path(&request.path).map_or_else(|| request.path.clone(), |life| life.to_string());
    format!(
        "{:?} at {:?} was asked for by {by} {:.3} s before {:?} at {:?} was accepted",
        event.identity,
        event.coordinates,
        (accepted - request.received).as_secs_f64(),
        before.identity,
        before.coordinates
    )
}

impl<'a> Seen<'a> {
    /// The requests are in the order of their arrival.
    fn by(requests: &'a [Request]) -> Self {
        let mut seen = Self::default();
        for request in requests {
            let Some(number) = named(request) else { continue };
            seen.asked.entry(number).or_insert(request);
            let Some(accepted) = request.answered.filter(|_| request.is_accepted()) else { continue };
            seen.accepted.insert(number);
            let identity = (request.order_id(), request.event_type().to_owned());
            let first = seen.first_accepted.entry(identity).or_insert(accepted);
            *first = accepted.min(*first);
        }
        seen
    }
}

/// The number of the record that a request was made for.
pub fn named(request: &Request) -> Option<usize> {
    request.body["request_id"].as_str()?.parse().ok()
}
