//! Read-only mode, the audit that nobody can change, masked fields.

use herald::operations::{CloseReason, Frozen, OperationError, Payload, Selection, Sight};

use super::Office;

#[tokio::test]
async fn read_only_refuses_every_mutation_and_writes_that_down() {
    let mut office = Office::with_letters(1).await;
    office.settings.dead_letters.read_only = true;
    let ana = office.operator("ana");
    let frozen = Frozen { selection: Selection::of_ids(vec![1]), ids: vec![1] };
    let refusals = [
        ana.freeze_to_discard(frozen.selection.clone()).await.err(),
        ana.freeze_to_restore(frozen.selection.clone()).await.err(),
        ana.discard(&frozen, CloseReason::Obsolete, "").await.err(),
        ana.restore(&frozen, "").await.err(),
        ana.reindex(None, false).await.err(),
    ];
    for refusal in &refusals {
        let Some(OperationError::Refused(why)) = refusal else { panic!("{refusal:?}") };
        assert!(why.contains("dead_letters.read_only"), "{why}");
    }
    assert_eq!(office.state("1").await, "open");
    let written = office.database.look("SELECT count(*)::text FROM operator_audit WHERE result = 'refused'").await;
    assert_eq!(written, refusals.len().to_string());
    assert!(ana.show(1, Sight::Masked).await.is_ok(), "looking is allowed");
}

#[tokio::test]
async fn nobody_changes_or_removes_what_the_audit_has() {
    let office = Office::with_letters(1).await;
    let ana = office.operator("ana");
    let frozen = ana.freeze_to_discard(Selection::of_ids(vec![1])).await.unwrap();
    ana.discard(&frozen, CloseReason::Obsolete, "").await.unwrap();
    for statement in
        ["UPDATE operator_audit SET operator = 'ben'", "DELETE FROM operator_audit", "TRUNCATE operator_audit"]
    {
        let error = sqlx::query(statement).execute(&office.database.tables).await.unwrap_err().to_string();
        assert!(error.contains("append-only"), "{statement}: {error}");
    }
    // A role that does not own the tables is not even asked by the trigger.
    office.database.execute("CREATE ROLE herald_test_application NOLOGIN").await;
    office.database.execute("GRANT SELECT, INSERT ON operator_audit TO herald_test_application").await;
    let mut connection = office.database.tables.acquire().await.unwrap();
    sqlx::query("SET ROLE herald_test_application").execute(&mut *connection).await.unwrap();
    let error = sqlx::query("DELETE FROM operator_audit").execute(&mut *connection).await.unwrap_err().to_string();
    assert!(error.contains("permission denied"), "{error}");
    sqlx::query("RESET ROLE").execute(&mut *connection).await.unwrap();
    drop(connection);
    office.database.execute("DROP OWNED BY herald_test_application").await;
    office.database.execute("DROP ROLE herald_test_application").await;
    assert_eq!(office.last_audit().await.0, "ana");
}

#[tokio::test]
async fn masked_fields_are_seen_only_by_who_asks_for_them_and_that_is_written_down() {
    let mut office = Office::with_letters(1).await;
    // The stored form of a record whose value is {"email":"a@b"}.
    office.database.execute(r"UPDATE dead_letters SET record = '\x1a0f7b22656d61696c223a2261406222'::bytea || '\x7d'::bytea WHERE id = 1").await;
    office.settings.dead_letters.mask = vec!["email".to_owned()];
    let ana = office.operator("ana");
    let shown = ana.show(1, Sight::Masked).await.unwrap();
    assert_eq!(shown.payload, Payload::Json(r#"{"email":"***"}"#.to_owned()));
    assert_eq!(office.database.look("SELECT count(*)::text FROM operator_audit").await, "0");
    let shown = ana.show(1, Sight::Unmasked).await.unwrap();
    assert_eq!(shown.payload, Payload::Json(r#"{"email":"a@b"}"#.to_owned()));
    let (who, what, result, letters, detail) = office.last_audit().await;
    assert_eq!((&*who, &*what, &*result, letters, &*detail), ("ana", "unmask", "done", 1, "email"));
    let mask = ana.export_mask(&Selection::of_ids(vec![1]), Sight::Masked).await.unwrap();
    let (lines, _) = ana.export(&Selection::of_ids(vec![1]), i64::MIN, &mask).await.unwrap();
    assert!(lines[0].contains("***") && !lines[0].contains("a@b"), "{lines:?}");
}
