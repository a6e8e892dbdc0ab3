//! What explains that an order was notified twice.

use super::story::{Story, worker};
use crate::chronicle::{Fault, Length, Life, When};
use crate::judge::{Cause, Check};
use crate::support::proxy::Mode;

const OK: Option<u16> = Some(200);

/// The gateway had a request from 100 to 120 ms and another worker's 21 s later; when the first worker was killed, and when the order
/// was claimed last and settled.
fn explained(killed: Option<u64>, [claimed, settled]: [u64; 2]) -> Option<Cause> {
    let mut story = Story::new();
    let created = story.event("CREATED", [0, 0]);
    story.asks(worker(1), created, [100, 120], OK);
    story.asks(worker(2), created, [21_000, 21_010], OK);
    if let Some(killed) = killed {
        story.happens(Fault::Killed { life: worker(1), when: When::Whenever }, [killed, killed]);
    }
    story.settled(created, claimed, settled);
    let causes = story.verdict().numbers.delivered_again;
    assert_eq!(causes.len() + story.found(Check::NotifiedTwice), 1);
    causes.into_keys().next()
}

/// The second worker took it over and settled it.
const TAKEN_OVER: [u64; 2] = [20_900, 21_020];

#[test]
fn what_was_under_way_or_not_settled_yet_when_its_worker_was_killed_is_delivered_again() {
    assert_eq!(explained(Some(110), TAKEN_OVER), Some(Cause::Killed));
    assert_eq!(explained(Some(1_500), TAKEN_OVER), Some(Cause::Killed));
}

/// A kill is noted before the signal is sent, and the gateway reads what was sent when it gets to it.
#[test]
fn what_the_gateway_had_of_a_worker_after_its_kill_was_noted_was_sent_before() {
    assert_eq!(explained(Some(50), TAKEN_OVER), Some(Cause::Killed));
}

#[test]
fn a_kill_long_after_the_answer_explains_nothing() {
    assert_eq!(explained(Some(2_200), TAKEN_OVER), None);
    assert_eq!(explained(None, TAKEN_OVER), None);
}

/// What is parked is read and not claimed: its claim is from before.
#[test]
fn what_was_settled_before_the_second_request_and_not_claimed_meanwhile_is_explained_by_nothing() {
    assert_eq!(explained(Some(110), [90, 21_001]), Some(Cause::Killed));
    assert_eq!(explained(Some(110), [90, 20_999]), None);
}

/// The first worker stood still and settled late; the second took the partition at this time, and what was parked was removed or not.
fn explained_of_parked(taken: u64, is_removed: bool) -> Option<Cause> {
    let mut story = Story::new();
    let created = story.event("CREATED", [0, 0]);
    story.asks(worker(1), created, [100, 120], OK);
    story.asks(worker(2), created, [21_000, 21_010], OK);
    story.happens(Fault::Frozen { life: worker(1), length: Length::Long, when: When::Whenever }, [110, 20_950]);
    story.takes(worker(2), 0, taken);
    story.settled(created, 90, 20_960);
    if is_removed {
        story.unparks(worker(1), created, 20_961);
    }
    story.verdict().numbers.delivered_again.into_keys().next()
}

#[test]
fn what_was_parked_and_settled_late_is_explained_if_the_partition_was_taken_before() {
    assert_eq!(explained_of_parked(20_900, true), Some(Cause::Frozen));
    assert_eq!(explained_of_parked(20_900, false), None);
    assert_eq!(explained_of_parked(20_970, true), None);
    assert_eq!(explained_of_parked(50, true), None);
}

/// The first worker stood still for long, asked when it went on, and settled; the second had taken the partition at these times.
fn explained_of_unaware(taken: &[u64]) -> Option<Cause> {
    explained_of_unaware_who_takes(&[], taken)
}

/// The same, when the first worker had raised the epochs again at these times.
fn explained_of_unaware_who_takes(back: &[u64], taken: &[u64]) -> Option<Cause> {
    let mut story = Story::new();
    let created = story.event("CREATED", [0, 0]);
    story.asks(worker(1), created, [20_100, 20_120], OK);
    story.asks(worker(2), created, [21_000, 21_010], OK);
    story.happens(Fault::Frozen { life: worker(1), length: Length::Long, when: When::Whenever }, [0, 20_000]);
    for at in taken {
        story.takes(worker(2), 0, *at);
    }
    for at in back {
        story.takes(worker(1), 0, *at);
    }
    story.settled(created, 90, 20_130);
    story.verdict().numbers.delivered_again.into_keys().next()
}

#[test]
fn what_one_that_stood_still_delivered_of_another_is_delivered_by_that_one_too() {
    assert_eq!(explained_of_unaware(&[10_000]), Some(Cause::Unaware));
    assert_eq!(explained_of_unaware(&[]), None);
    assert_eq!(explained_of_unaware(&[10_000, 20_500]), None);
    assert_eq!(explained_of_unaware_who_takes(&[20], &[10_000]), Some(Cause::Unaware));
    assert_eq!(explained_of_unaware_who_takes(&[20_050], &[10_000]), None);
}

#[test]
fn what_one_that_heard_nothing_from_kafka_began_is_explained_until_postgres_could_tell_it_of_the_owner() {
    let cut_off = Life { slot: Some(0), ..worker(1) };
    for (taken, cause) in [(20_000, Some(Cause::Unaware)), (17_000, None)] {
        let mut story = Story::new();
        let created = story.event("CREATED", [0, 0]);
        story.asks(worker(2), created, [20_050, 20_070], OK);
        story.asks(cut_off, created, [20_300, 20_320], OK);
        story.happens(Fault::KafkaPath { slot: 0, mode: Mode::Silent }, [5_000, 25_000]);
        story.takes(worker(2), 0, taken);
        story.settled(created, taken + 10, 20_080);
        assert_eq!(story.verdict().numbers.delivered_again.into_keys().next(), cause, "taken at {taken}");
    }
}
