//! An operator at a terminal is asked before much is changed.

use super::Office;
use super::herald_json;
use crate::support::worker::WorkerSetup;

/// An office, and how commands on its database are started: neither needs a broker.
async fn desk(letters: u32) -> (Office, WorkerSetup) {
    let office = Office::with_letters(letters).await;
    let setup = WorkerSetup::empty().with("DATABASE_URL", &office.database.own_url());
    (office, setup)
}

async fn count(office: &Office, state: &str) -> String {
    let statement = "SELECT count(*)::text FROM dead_letters WHERE state = $1";
    sqlx::query_scalar(statement).bind(state).fetch_one(&office.database.tables).await.unwrap()
}

#[tokio::test]
async fn more_than_100_dead_letters_are_discarded_only_by_who_types_their_number() {
    let (office, setup) = desk(101).await;
    let discard = ["dlq", "discard", "--reason", "permanent", "--why", "obsolete"];
    for typed in ["\n", "y\n", "100\n", "1010\n"] {
        let ended = setup.run_on_terminal(&discard, typed).await;
        assert_eq!(ended.code, Some(3), "{typed:?}: {ended:?}");
        assert!(ended.stdout.contains("discarding 101 dead letters: type their number to go on:"), "{ended:?}");
        assert!(ended.stdout.contains("nothing was changed"), "{ended:?}");
        assert_eq!(count(&office, "open").await, "101");
    }
    let ended = setup.run_on_terminal(&discard, "101\n").await;
    assert_eq!((ended.code, ended.stdout.contains("101 discarded")), (Some(0), true), "{ended:?}");
    assert_eq!(count(&office, "discarded").await, "101");

    let restore = ["dlq", "restore", "--state", "discarded", "--reason", "permanent"];
    let ended = setup.run_on_terminal(&restore, "no\n").await;
    assert_eq!((ended.code, count(&office, "discarded").await), (Some(3), "101".to_owned()), "{ended:?}");
    let ended = setup.run_command(&restore).await;
    assert!(ended.code == Some(3) && ended.stderr.contains("needs --yes"), "nobody can be asked: {ended:?}");
    let ended = setup.run_on_terminal(&[&restore[..], &["--yes"]].concat(), "").await;
    assert_eq!((ended.code, count(&office, "open").await), (Some(0), "101".to_owned()), "{ended:?}");
}

#[tokio::test]
async fn a_plan_of_more_than_100_is_executed_only_by_who_types_their_number_and_a_smaller_one_at_once() {
    let (office, setup) = desk(1_001).await;
    let plan = async |words: &[&str]| {
        let told = herald_json(&setup, &[&["dlq", "replay", "--json"], words].concat()).await;
        told[0]["plan"].as_str().unwrap().to_owned()
    };
    let all = plan(&["--reason", "permanent"]).await;
    let execute = ["dlq", "replay", "--plan", &all];
    let ended = setup.run_on_terminal(&execute, "1000\n").await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stdout.contains("replaying 1,001 dead letters: type their number to go on:"), "{ended:?}");
    let state = async || office.database.look("SELECT string_agg(state, ' ' ORDER BY id) FROM replays").await;
    assert_eq!(state().await, "planned");
    let ended = setup.run_on_terminal(&execute, "1,001\n").await;
    assert_eq!((ended.code, state().await), (Some(0), "running".to_owned()), "{ended:?}");

    let hundred = plan(&["--from", "0:1-100"]).await;
    let ended = setup.run_on_terminal(&["dlq", "replay", "--plan", &hundred], "").await;
    assert_eq!((ended.code, state().await), (Some(0), "running running".to_owned()), "{ended:?}");
    assert!(!ended.stdout.contains("type their number"), "{ended:?}");
}
