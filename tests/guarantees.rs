//! docs/guarantees.md names the test that proves each promise: all of them exist.

use std::fs;

use crate::support::repository;

/// Each `name` (file) of the text.
fn proofs(text: &str) -> Vec<(&str, &str)> {
    let named = text.split("* `").skip(1).filter_map(|rest| rest.split_once("` ("));
    named.filter_map(|(name, rest)| Some((name, rest.split_once(')')?.0))).collect()
}

fn is_test(source: &str, name: &str) -> bool {
    let mut lines = source.lines().map(str::trim_start);
    let mut is_marked = false;
    lines.any(|line| {
        let is_it = line.strip_prefix("async ").unwrap_or(line).starts_with(&format!("fn {name}("));
        let is_found = is_it && is_marked;
        let is_mark = line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        is_marked = is_mark || (is_marked && line.starts_with("#["));
        is_found
    })
}

#[test]
fn every_test_that_a_guarantee_names_exists() {
    let text = fs::read_to_string(repository().join("docs/guarantees.md")).unwrap();
    let proofs = proofs(&text);
    let missing: Vec<_> = proofs
        .iter()
        .filter(|(name, file)| {
            fs::read_to_string(repository().join(file)).map_or(true, |source| !is_test(&source, name))
        })
        .collect();
    assert!(missing.is_empty(), "docs/guarantees.md names tests that are not there: {missing:#?}");
    assert!(proofs.len() > 50, "only {} tests are named", proofs.len());
}

#[test]
fn each_invariant_has_its_guarantee() {
    let text = fs::read_to_string(repository().join("docs/guarantees.md")).unwrap();
    for invariant in herald::core::invariants::Invariant::ALL {
        let title = format!("({})\n", invariant.as_str());
        assert!(text.contains(&title), "{} is promised nowhere", invariant.as_str());
    }
}

#[test]
fn a_function_is_a_test_only_with_its_mark() {
    let source = "#[test]\nfn one() {}\nfn helper() {}\n#[tokio::test]\nasync fn two() {}\n";
    assert_eq!(["one", "two", "helper", "on"].map(|name| is_test(source, name)), [true, true, false, false]);
}
