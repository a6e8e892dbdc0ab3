//! What a failed statement means for its batch.

use crate::core::failure::LedgerFailure;

/// A claim inserts what it did not see there, and another may have done so since. A duplicate of any other key stays one.
const LEDGER_KEY: &str = "processed_orders_pkey";

/// What an SQLSTATE says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    BadData,
    Conflict,
    Unavailable,
    /// A mistake of ours or of the schema. Treated as an outage, because nothing is wrong with the records.
    Bug,
}

/// Says what is to be done about the batch; logs what can only be a bug.
pub(super) fn classify(error: &sqlx::Error) -> LedgerFailure {
    let (verdict, message) = judge(error);
    match verdict {
        Verdict::BadData => LedgerFailure::BadData(message),
        Verdict::Conflict => LedgerFailure::Conflict(message),
        Verdict::Unavailable => LedgerFailure::Outage(message),
        Verdict::Bug => bug(message),
    }
}

/// An answer that no schema of ours gives.
pub(super) fn bug(message: String) -> LedgerFailure {
    tracing::error!(error = %message, "a ledger statement failed in a way that is a bug; its batch is held");
    LedgerFailure::Outage(message)
}

fn judge(error: &sqlx::Error) -> (Verdict, String) {
    let verdict = match error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            let was_inserted_meanwhile = code == "23505" && database.constraint() == Some(LEDGER_KEY);
            let verdict = if was_inserted_meanwhile { Verdict::Conflict } else { verdict_of_code(&code) };
            return (verdict, format!("postgres: {} ({code})", database.message()));
        }
        // A value that the protocol cannot carry.
        sqlx::Error::Encode(_) => Verdict::BadData,
        sqlx::Error::Configuration(_)
        | sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Verdict::Unavailable,
        // The enum is not exhaustive; what is left is about decoding and the library's own use.
        _ => Verdict::Bug,
    };
    (verdict, format!("postgres: {error}"))
}

fn verdict_of_code(code: &str) -> Verdict {
    match code {
        "40001" | "40P01" => return Verdict::Conflict,
        // Statement timeout, lock timeout, a standby after a failover, a transaction cut off for idling.
        "57014" | "55P03" | "25006" | "25P03" => return Verdict::Unavailable,
        _ => {}
    }
    match code.get(..2).unwrap_or_default() {
        "22" | "23" | "54" => Verdict::BadData,
        // Connection, authorization, transaction rollback, resources, operator intervention, system error. An unknown
        // database is of this kind too: it may not have been restored yet.
        "08" | "28" | "3D" | "40" | "53" | "57" | "58" => Verdict::Unavailable,
        _ => Verdict::Bug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_says_what_to_do_about_the_batch() {
        use Verdict::{BadData, Bug, Conflict, Unavailable};
        let table = [
            ("22021", BadData, "NUL in a text"),
            ("22001", BadData, "string too long"),
            ("22003", BadData, "number out of range"),
            ("22P05", BadData, "character the encoding does not have"),
            ("23502", BadData, "not null"),
            ("23505", BadData, "unique"),
            ("23514", BadData, "check"),
            ("54000", BadData, "index row too large"),
            ("40001", Conflict, "serialization failure"),
            ("40P01", Conflict, "deadlock"),
            ("08006", Unavailable, "connection failure"),
            ("08P01", Unavailable, "protocol violation, as PgBouncer reports its own trouble"),
            ("28P01", Unavailable, "wrong password"),
            ("3D000", Unavailable, "no such database"),
            ("40003", Unavailable, "statement completion unknown"),
            ("25006", Unavailable, "read only: a standby"),
            ("25P03", Unavailable, "idle in transaction"),
            ("53100", Unavailable, "disk full"),
            ("53200", Unavailable, "out of memory"),
            ("53300", Unavailable, "too many connections"),
            ("55P03", Unavailable, "lock timeout"),
            ("57014", Unavailable, "statement timeout"),
            ("57P01", Unavailable, "administrator shutdown"),
            ("57P02", Unavailable, "crash shutdown"),
            ("57P03", Unavailable, "starting up"),
            ("58030", Unavailable, "input or output error"),
            ("42P01", Bug, "no such table"),
            ("42501", Bug, "no permission"),
            ("26000", Bug, "no such prepared statement"),
            ("XX000", Bug, "internal error"),
            ("", Bug, "no code"),
        ];
        for (code, verdict, what) in table {
            assert_eq!(verdict_of_code(code), verdict, "{code}: {what}");
        }
    }

    #[test]
    fn errors_without_a_code_are_outages_unless_the_value_cannot_be_sent() {
        let cases = [
            (sqlx::Error::PoolTimedOut, Verdict::Unavailable),
            (sqlx::Error::PoolClosed, Verdict::Unavailable),
            (sqlx::Error::WorkerCrashed, Verdict::Unavailable),
            (sqlx::Error::Io(std::io::Error::other("reset")), Verdict::Unavailable),
            (sqlx::Error::Tls("handshake".into()), Verdict::Unavailable),
            (sqlx::Error::Protocol("unexpected message".into()), Verdict::Unavailable),
            (sqlx::Error::Configuration("no such file".into()), Verdict::Unavailable),
            (sqlx::Error::Encode("too large".into()), Verdict::BadData),
            (sqlx::Error::RowNotFound, Verdict::Bug),
            (sqlx::Error::ColumnNotFound("state".into()), Verdict::Bug),
        ];
        for (error, verdict) in cases {
            assert_eq!(judge(&error).0, verdict, "{error}");
        }
    }
}
