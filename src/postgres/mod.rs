//! Postgres: one file per table, one statement per transition.
