//! Discard, restore, export.

use herald::operations::{CloseReason, OperationError, Selection};

use super::{Office, herald, herald_json, refused};
use crate::support::gateway::Answer;
use crate::support::{World, orders};

#[tokio::test]
async fn a_discard_keeps_its_reason_and_can_be_undone() {
    let office = Office::with_letters(3).await;
    let ana = office.operator("ana");
    let frozen = ana.freeze_to_discard(Selection::of_ids(vec![1, 2])).await.unwrap();
    let closing = ana.discard(&frozen, CloseReason::TestData, "load test of Monday").await.unwrap();
    assert_eq!((closing.done, closing.left_count), (vec![1, 2], 0));
    assert_eq!((office.state("1").await, office.state("3").await), ("discarded".to_owned(), "open".to_owned()));
    let (who, what, result, letters, detail) = office.last_audit().await;
    assert_eq!((&*who, &*what, &*result, letters, &*detail), ("ana", "discard", "done", 2, "load test of Monday"));
    let shown = ana.page(&Selection::of_ids(vec![1]), None, 1).await.unwrap();
    let closed = shown.letters[0].closed.clone().unwrap();
    assert_eq!(closed.reason.as_deref(), Some("test_data"));
    assert_eq!(closed.note.as_deref(), Some("load test of Monday"));

    let ben = office.operator("ben");
    let frozen = ben.freeze_to_restore(Selection::of_ids(vec![1, 2, 3])).await.unwrap();
    let closing = ben.restore(&frozen, "they were real").await.unwrap();
    assert_eq!((closing.done, closing.left_count), (vec![1, 2], 1));
    assert_eq!(office.state("1").await, "open");
    assert_eq!(office.last_audit().await.0, "ben");
}

#[tokio::test]
async fn of_two_operators_one_wins_and_the_other_is_told_who_and_when() {
    let office = Office::with_letters(1).await;
    let (ana, ben) = (office.operator("ana"), office.operator("ben"));
    let frozen = ana.freeze_to_discard(Selection::of_ids(vec![1])).await.unwrap();
    let late = ben.freeze_to_discard(Selection::of_ids(vec![1])).await.unwrap();
    let (one, other) = tokio::join!(
        ana.discard(&frozen, CloseReason::Obsolete, ""),
        ben.discard(&late, CloseReason::Unrepairable, ""),
    );
    let (winner, loser) = if one.is_ok() { ("ana", other) } else { ("ben", one) };
    let Err(OperationError::Refused(why)) = loser else { panic!("both won") };
    assert!(why.contains(&format!("it was discarded by {winner} at 20")), "{why}");
    let conflicts = office.database.look("SELECT count(*)::text FROM operator_audit WHERE result = 'conflict'").await;
    assert_eq!(conflicts, "1");
}

#[tokio::test]
async fn an_empty_filter_a_replaying_letter_and_a_reason_without_words_are_refused_and_written_down() {
    let office = Office::with_letters(2).await;
    let ana = office.operator("ana");
    for (selection, expected) in
        [(Selection::default(), "an empty filter"), (Selection::of_ids(vec![77]), "no dead letter is selected")]
    {
        let Err(OperationError::Refused(why)) = ana.freeze_to_discard(selection).await else { panic!() };
        assert!(why.contains(expected), "{why}");
        assert_eq!(office.last_audit().await.2, "refused");
    }
    let frozen = ana.freeze_to_discard(Selection::of_ids(vec![1])).await.unwrap();
    let Err(OperationError::Refused(why)) = ana.discard(&frozen, CloseReason::Other, " ").await else { panic!() };
    assert!(why.contains("needs a note"), "{why}");
    office.database.execute("UPDATE dead_letters SET state = 'replaying' WHERE id = 1").await;
    let Err(OperationError::Refused(why)) = ana.discard(&frozen, CloseReason::Obsolete, "").await else { panic!() };
    assert!(why.contains("a replay has it"), "{why}");
    assert_eq!(office.state("1").await, "replaying");
}

#[tokio::test]
async fn the_command_discards_restores_and_exports_beside_a_running_worker() {
    let mut world = World::with_partitions(1).await;
    world.gateway.answer(Answer::status(422).with_body("refused"));
    let events: Vec<_> = (1..=120).map(orders::created).collect();
    world.produce_in(0, &events).await;
    let setup = world.worker();
    let _worker = setup.start().await;
    world.buried(120).await;

    let ended = refused(&setup, &["dlq", "discard", "--reason", "permanent", "--why", "obsolete"]).await;
    assert!(ended.contains("--yes"), "{ended}");
    assert!(refused(&setup, &["dlq", "discard", "--why", "obsolete"]).await.contains("an empty filter"));
    let ended = setup.run_command(&["dlq", "discard", "1"]).await;
    assert_eq!(ended.code, Some(2), "a discard without a reason: {ended:?}");

    let arguments = ["dlq", "discard", "--reason", "permanent", "--why", "obsolete", "--yes", "--operator", "ana"];
    assert_eq!(herald(&setup, &arguments).await, "120 discarded\n");
    assert_eq!(herald(&setup, &["dlq", "groups"]).await, "no dead letters\n");
    let exported = herald_json(&setup, &["dlq", "export", "--state", "discarded"]).await;
    assert_eq!(exported.len(), 120);
    assert_eq!(exported[0]["close_reason"], "obsolete");
    assert_eq!(exported[0]["payload"]["event_type"], "ORDER_CREATED");
    let id = exported[0]["id"].to_string();
    assert!(refused(&setup, &["dlq", "discard", &id, "--why", "obsolete"]).await.contains("discarded by ana at 20"));
    assert_eq!(herald(&setup, &["dlq", "restore", &id, "--operator", "ben"]).await, "1 restored\n");
    let audit = herald_json(&setup, &["dlq", "audit", "--json"]).await;
    let acts: Vec<_> =
        audit.iter().map(|row| format!("{} {}", row["action"], row["result"]).replace('"', "")).collect();
    assert_eq!(acts, ["restore done", "discard conflict", "discard done", "discard refused"]);
    assert_eq!((&audit[2]["operator"], &audit[2]["letters"]), (&"ana".into(), &120.into()));
    assert_eq!(audit[2]["filter"]["reasons"][0], "permanent");
}
