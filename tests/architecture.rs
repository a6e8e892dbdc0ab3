//! What each part of the source may not name: the architecture invariants of ARCHITECTURE.md.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::repository;

/// Decisions need none of these: whoever names one does I/O, reads a clock, or rolls dice of its own.
const FORBIDDEN_IN_CORE: [&str; 16] = [
    "tokio",
    "rdkafka",
    "rdkafka_sys",
    "sqlx",
    "reqwest",
    "axum",
    "hyper",
    "rand",
    "prometheus",
    "tracing",
    "Instant",
    "SystemTime",
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
];

/// These draw from the thread's generator instead of the engine's seed.
const UNSEEDED: [&str; 5] = ["fastrand::u32", "fastrand::u64", "fastrand::f64", "fastrand::bool", "Rng::new()"];

/// The demo brings a broker and a database of its own, to look at from outside: it is no part of the worker.
const DEMO: &str = "src/demo";

#[test]
fn core_names_no_io_no_clock_no_runtime_and_no_client() {
    // Its model tests are told from outside how long to go on, and draw their own seeds.
    let model_tests = repository().join("src/core/engine/tests");
    let mut files = sources("src/core");
    files.retain(|file| !file.starts_with(&model_tests));
    assert_absent(&files, &FORBIDDEN_IN_CORE);
    assert_absent(&files, &UNSEEDED);
}

#[test]
fn core_names_no_part_outside_of_it() {
    for file in sources("src/core") {
        for line in code_lines(&file) {
            let outside =
                line.split("crate::").skip(1).find(|rest| !rest.starts_with("core::") && !rest.starts_with("core;"));
            assert!(outside.is_none(), "{}: {line}", file.display());
        }
    }
}

#[test]
fn only_the_kafka_folder_names_rdkafka() {
    assert_absent(&sources_outside(&["src/kafka", DEMO]), &["rdkafka", "rdkafka_sys"]);
}

#[test]
fn only_the_postgres_folder_names_sqlx() {
    assert_absent(&sources_outside(&["src/postgres", DEMO]), &["sqlx"]);
}

#[test]
fn unsafe_is_in_five_documented_modules() {
    let modules = [
        "src/kafka/headers.rs",
        "src/kafka/membership.rs",
        "src/kafka/queue.rs",
        "src/kafka/topic_identity.rs",
        "src/demo/broker/join_delay.rs",
    ];
    assert_absent(&sources_outside(&modules), &["unsafe", "unsafe_code"]);
    for module in modules {
        let text = fs::read_to_string(repository().join(module)).unwrap();
        let blocks = text.matches("unsafe {").count() + text.matches("unsafe fn").count();
        let reasons = text.matches("SAFETY:").count() + text.matches("# Safety").count();
        assert!(blocks >= 1 && reasons >= blocks, "{module}: {blocks} blocks, {reasons} reasons");
    }
}

fn assert_absent(files: &[PathBuf], names: &[&str]) {
    assert!(!files.is_empty());
    for file in files {
        for line in code_lines(file) {
            for name in names {
                assert!(!has_word(&line, name), "{} names {name}: {}", file.display(), line.trim());
            }
        }
    }
}

/// All but comments; what stands in a string is not looked into either.
fn code_lines(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let without_comment = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    let without_strings = |line: String| line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
    text.lines().map(without_comment).map(without_strings).collect()
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |character: Option<char>| character.is_some_and(|one| one.is_alphanumeric() || one == '_');
    line.match_indices(word)
        .any(|(at, _)| !is_part(line[..at].chars().next_back()) && !is_part(line[at + word.len()..].chars().next()))
}

/// All Rust files below this folder of the repository.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![repository().join(folder)];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

fn sources_outside(exceptions: &[&str]) -> Vec<PathBuf> {
    let mut files = sources("src");
    files.retain(|file| !exceptions.iter().any(|exception| file.starts_with(repository().join(exception))));
    files
}

#[test]
fn words_are_found_and_parts_of_words_are_not() {
    for (line, word, expected) in [
        ("use tokio::time;", "tokio", true),
        ("fastrand::Rng", "rand", false),
        ("std::time::Instant", "Instant", true),
        ("Instantly", "Instant", false),
        ("let unsafe_code = 1;", "unsafe", false),
    ] {
        assert_eq!(has_word(line, word), expected, "{line}");
    }
}
