//! The runbooks: one for each alert, and every command in them exists.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::files::{alerts, path, read};

fn names() -> BTreeSet<String> {
    let files = fs::read_dir(path("docs/runbooks")).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap().trim_end_matches(".md").to_owned()).collect()
}

/// Lines of shell that call Herald, cut into words.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    for line in blocks.flat_map(str::lines) {
        let Some((_, call)) = format!(" {line}").split_once(" herald ").map(|(a, b)| (a.to_owned(), b.to_owned()))
        else {
            continue;
        };
        let call = call.split([';', '|', '>', '#']).next().unwrap();
        let is_command = line.starts_with("herald ") || line.contains('=') && line.contains(" herald run");
        if is_command {
            commands.push(call.split_whitespace().map(str::to_owned).collect());
        }
    }
    commands
}

/// What the binary says about a command; `None` where there is none.
fn help(words: &[&str]) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_herald")).args(words).arg("--help").output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let alerts: BTreeSet<String> = alerts().into_iter().map(|alert| alert.name).collect();
    assert_eq!(names(), alerts);
}

#[test]
fn every_runbook_says_meaning_impact_diagnosis_and_mitigation() {
    for name in names() {
        let text = read(&format!("docs/runbooks/{name}.md"));
        let headings: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
        let title = format!("# {name}");
        assert_eq!(headings, [&title, "## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]);
    }
}

#[test]
fn every_command_of_a_runbook_exists_with_its_flags() {
    for name in names() {
        for words in commands(&read(&format!("docs/runbooks/{name}.md"))) {
            let is_name = |word: &&String| word.chars().all(|c| c.is_ascii_lowercase());
            let subcommands: Vec<&str> = words.iter().take_while(is_name).map(String::as_str).collect();
            let help = help(&subcommands).unwrap_or_else(|| panic!("{name}: there is no `herald {}`", words.join(" ")));
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(flag.as_str()), "{name}: `herald {}` knows no {flag}", subcommands.join(" "));
            }
        }
    }
}

#[test]
fn every_link_of_a_runbook_leads_somewhere() {
    for name in names() {
        let text = read(&format!("docs/runbooks/{name}.md"));
        let links = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        for link in links.filter(|link| !link.starts_with("http")) {
            assert!(path("docs/runbooks").join(link).exists(), "{name} links to {link}");
        }
    }
}
