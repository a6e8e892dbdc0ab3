//! The runbooks: one for each alert, and every command in them exists.

use std::collections::BTreeSet;
use std::fs;

use futures_util::future::join_all;

use crate::files::{DASHBOARDS, alerts, dashboard, panels, path, read};
use crate::support::worker::WorkerSetup;

fn names() -> BTreeSet<String> {
    let files = fs::read_dir(path("docs/runbooks")).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap().trim_end_matches(".md").to_owned()).collect()
}

/// Lines of shell of a runbook that call Herald, cut into words.
pub fn commands(runbook: &str) -> Vec<Vec<String>> {
    let text = read(&format!("docs/runbooks/{runbook}.md"));
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
            // `"with blanks"` is one word.
            let parts = call.split('"').enumerate();
            let words = parts.flat_map(|(number, part)| match number % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            });
            commands.push(words.collect());
        }
    }
    commands
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

/// Nothing that it needs is there, so it fails, but not over its words: that is exit code 2.
#[tokio::test]
async fn every_command_of_a_runbook_is_understood() {
    let setup = WorkerSetup::empty()
        .with("DATABASE_URL", "postgres://herald@127.0.0.1:9/herald")
        .with("HERALD_DATABASE__STATEMENT_TIMEOUT", "1s")
        .with("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9");
    let different: BTreeSet<Vec<String>> = names().iter().flat_map(|name| commands(name)).collect();
    // At once, since each of them waits for the database for a while.
    join_all(different.iter().map(async |words| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ended = setup.run_command(&words).await;
        assert!(matches!(ended.code, Some(1 | 3)), "herald {words:?}: {ended:?}");
    }))
    .await;
}

#[test]
fn every_runbook_leads_to_the_dashboard_of_its_alert() {
    for alert in alerts() {
        let (_, url) = alert.annotations.iter().find(|(key, _)| key == "dashboard_url").unwrap();
        let link = format!("[{}]({url})", dashboard(url.rsplit('/').next().unwrap())["title"].as_str().unwrap());
        assert!(read(&format!("docs/runbooks/{}.md", alert.name)).contains(&link), "{}: no {link}", alert.name);
    }
}

/// What is set in italics.
#[test]
fn every_panel_that_a_runbook_names_is_there() {
    let panels = DASHBOARDS.iter().flat_map(|name| panels(&dashboard(name)));
    let titles: BTreeSet<String> = panels.map(|panel| panel["title"].as_str().unwrap().to_owned()).collect();
    for name in names() {
        let text = read(&format!("docs/runbooks/{name}.md"));
        let prose: String = text.split("```").step_by(2).collect();
        for named in prose.split('*').skip(1).step_by(2) {
            let named = named.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(titles.contains(&named), "{name}: no panel is called {named}");
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
