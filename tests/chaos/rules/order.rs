//! Order by key, with copies wherever they are.

use super::story::{Story, worker};
use crate::judge::Check;

const OK: Option<u16> = Some(200);

fn out_of_order(story: &Story) -> usize {
    story.found(Check::OutOfOrder)
}

#[test]
fn what_is_asked_for_after_the_one_before_it_was_accepted_is_in_order() {
    let mut story = Story::new();
    let (created, paid) = (story.event("CREATED", [5, 10]), story.event("PAID", [5, 11]));
    story.asks(worker(1), created, [0, 20], OK);
    story.asks(worker(1), paid, [21, 22], OK);
    assert_eq!(out_of_order(&story), 0);
}

#[test]
fn what_is_asked_for_before_the_one_before_it_was_accepted_is_out_of_order_with_any_answer_or_none() {
    for first_answer in [OK, Some(503), None] {
        let mut story = Story::new();
        let (created, paid) = (story.event("CREATED", [5, 10]), story.event("PAID", [5, 11]));
        story.asks(worker(1), paid, [19, 21], first_answer);
        story.asks(worker(1), created, [0, 20], OK);
        story.asks(worker(1), paid, [30, 31], OK);
        assert_eq!(out_of_order(&story), 1, "{first_answer:?}");
    }
}

/// The copy was asked for and not answered; then another owner delivered the record whose place counts, in order.
#[test]
fn a_copy_in_another_partition_may_be_asked_for_at_any_time() {
    let mut story = Story::new();
    let (created, paid) = (story.event("CREATED", [5, 10]), story.event("PAID", [5, 11]));
    let copy = story.event("PAID", [3, 4]);
    story.asks(worker(1), created, [0, 1], Some(504));
    story.asks(worker(2), copy, [2, 3], None);
    story.asks(worker(3), created, [4, 5], OK);
    story.asks(worker(3), paid, [6, 7], OK);
    assert_eq!(out_of_order(&story), 0);
}

#[test]
fn a_copy_is_itself_in_order_where_it_is() {
    let mut story = Story::new();
    let (created, copy) = (story.event("CREATED", [3, 3]), story.event("PAID", [3, 4]));
    story.event("PAID", [5, 11]);
    story.asks(worker(1), copy, [0, 1], None);
    story.asks(worker(1), created, [2, 3], OK);
    assert_eq!(out_of_order(&story), 1);
}

#[test]
fn what_ended_behind_a_copy_elsewhere_holds_up_nothing_and_what_was_accepted_here_does() {
    for (from_here, expected) in [(false, 0), (true, 1)] {
        let mut story = Story::new();
        let (created, paid) = (story.event("CREATED", [5, 10]), story.event("PAID", [5, 11]));
        let copy = story.event("CREATED", [3, 4]);
        story.asks(worker(1), paid, [0, 1], OK);
        story.asks(worker(1), if from_here { created } else { copy }, [2, 3], OK);
        assert_eq!(out_of_order(&story), expected);
    }
}

#[test]
fn one_that_was_accepted_late_holds_up_all_behind_it() {
    let mut story = Story::new();
    let created = story.event("CREATED", [5, 10]);
    let (paid, shipped) = (story.event("PAID", [5, 11]), story.event("SHIPPED", [5, 12]));
    story.asks(worker(1), paid, [0, 1], OK);
    story.asks(worker(1), shipped, [2, 3], OK);
    story.asks(worker(1), created, [4, 5], OK);
    assert_eq!(out_of_order(&story), 2);
}

#[test]
fn one_that_was_never_accepted_lets_those_behind_it_pass() {
    let mut story = Story::new();
    let (created, paid) = (story.event("CREATED", [5, 10]), story.event("PAID", [5, 11]));
    story.asks(worker(1), paid, [0, 1], OK);
    story.asks(worker(1), created, [2, 3], Some(422));
    assert_eq!(out_of_order(&story), 0);
}

#[test]
fn what_the_producer_wrote_twice_counts_where_it_is_first() {
    let mut story = Story::new();
    let (created, paid) = (story.event("CREATED", [5, 10]), story.event("PAID", [5, 11]));
    story.arrives(created, [5, 12]);
    story.asks(worker(1), created, [0, 1], OK);
    story.asks(worker(1), paid, [2, 3], OK);
    assert_eq!(out_of_order(&story), 0);
}
