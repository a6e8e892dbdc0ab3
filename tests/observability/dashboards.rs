//! What Grafana's own linter would say of the dashboards, and what it does not look at.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;

use serde_json::Value;

use crate::files::{DASHBOARDS, alerts, dashboard, expressions, panels, path};
use crate::promtool::promtool;
use crate::support::cache;

/// Units that Grafana knows.
const UNITS: [&str; 6] = ["short", "s", "ops", "percentunit", "bytes", "none"];

fn each(check: impl Fn(&str, &Value)) {
    for name in DASHBOARDS {
        for panel in panels(&dashboard(name)) {
            check(&format!("{name}: {}", panel["title"].as_str().unwrap()), &panel);
        }
    }
}

/// The matchers of every selector: `name{…}`.
fn selectors(expression: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for (at, _) in expression.match_indices('{') {
        let name =
            expression[..at].rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).next().unwrap();
        found.push((name, expression[at + 1..].split('}').next().unwrap()));
    }
    found
}

#[test]
fn the_dashboards_are_what_their_source_says() {
    let mut command = Command::new(cache("venv").join("bin/python"));
    let output = command.arg("generate.py").arg("--check").current_dir(path("dashboards")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn nobody_edits_a_dashboard_by_hand_and_all_are_told_apart() {
    let mut titles = BTreeSet::new();
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        assert_eq!(dashboard["uid"], name);
        assert_eq!(dashboard["editable"], false);
        assert_eq!(dashboard["tags"], serde_json::json!(["herald"]));
        assert!(dashboard.get("id").is_none(), "{name}: an id is the installation's own");
        // Grafana 10 knows up to 38; later ones migrate from it.
        assert_eq!(dashboard["schemaVersion"], 38);
        assert!(titles.insert(dashboard["title"].as_str().unwrap().to_owned()), "{name}: the title is taken");
    }
}

#[test]
fn data_source_job_instance_and_topic_can_be_chosen() {
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let names: Vec<&str> = variables.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["datasource", "job", "instance", "topic"]);
        assert_eq!((&variables[0]["type"], &variables[0]["query"]), (&"datasource".into(), &"prometheus".into()));
        for variable in &variables[1..] {
            assert_eq!(variable["datasource"]["uid"], "${datasource}");
            assert_eq!((&variable["multi"], &variable["allValue"]), (&true.into(), &".+".into()));
            assert!(variable["label"].as_str().is_some_and(|label| !label.is_empty()));
        }
    }
}

#[test]
fn every_panel_has_a_title_a_description_a_unit_and_a_templated_source() {
    each(|name, panel| {
        assert!(panel["title"].as_str().unwrap().len() > 3, "{name}");
        assert!(panel["description"].as_str().unwrap().len() > 20, "{name}");
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap();
        assert!(UNITS.contains(&unit), "{name}: unknown unit {unit}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}");
        assert!(!expressions(panel).is_empty(), "{name}");
        let mut references = BTreeSet::new();
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{name}");
            assert!(references.insert(target["refId"].as_str().unwrap()), "{name}: a refId twice");
        }
    });
}

#[test]
fn every_selector_matches_the_chosen_job_and_instance() {
    each(|name, panel| {
        for expression in expressions(panel) {
            for (metric, matchers) in selectors(&expression) {
                assert!(!metric.is_empty(), "{name}: a selector without a name: {expression}");
                assert!(matchers.contains("job=~\"$job"), "{name}: {metric}{{{matchers}}}");
                // A recorded series and an alert are no single instance's.
                let is_of_instance = !metric.starts_with("herald:") && metric != "ALERTS";
                assert_eq!(
                    matchers.contains("instance=~\"$instance\""),
                    is_of_instance,
                    "{name}: {metric}{{{matchers}}}"
                );
            }
            let bare = crate::files::metric_names(&expression);
            assert!(bare.len() <= selectors(&expression).len(), "{name}: a metric without matchers: {expression}");
        }
    });
}

#[test]
fn ranges_follow_the_scrape_interval() {
    each(|name, panel| {
        for expression in expressions(panel) {
            let ranges = expression.split('[').skip(1).map(|rest| rest.split(']').next().unwrap());
            for range in ranges {
                assert_eq!(range, "$__rate_interval", "{name}: {expression}");
            }
            // A rate of a sum is wrong after a restart.
            for wrong in ["rate(sum", "increase(sum", "irate("] {
                assert!(!expression.contains(wrong), "{name}: {expression}");
            }
        }
    });
}

#[test]
fn every_query_is_promql() {
    let mut rules = "groups:\n  - name: panels\n    rules:\n".to_owned();
    let mut count = 0;
    each(|_, panel| assert!(!expressions(panel).is_empty()));
    for name in DASHBOARDS {
        for expression in panels(&dashboard(name)).iter().flat_map(expressions) {
            count += 1;
            let expression = expression.replace("$__rate_interval", "1m");
            let _ = writeln!(rules, "      - record: panel:{count}\n        expr: {}", Value::String(expression));
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("panels.yml");
    std::fs::write(&file, rules).unwrap();
    let checked = promtool(&["check", "rules", "--lint=none", file.to_str().unwrap()], "");
    let said = checked.unwrap_or_else(|said| panic!("{said}"));
    assert!(said.contains(&format!("SUCCESS: {count} rules found")), "{said}");
}

#[test]
fn panels_lie_within_24_columns_and_cover_no_other() {
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        let mut taken = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: an id twice");
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
            assert!(x + w <= 24 && w > 0 && h > 0, "{name}: {}", panel["title"]);
            for column in x..x + w {
                for line in y..y + h {
                    assert!(taken.insert((column, line)), "{name}: {} covers another panel", panel["title"]);
                }
            }
        }
    }
}

#[test]
fn the_overview_is_one_screen() {
    let dashboard = dashboard("herald-overview");
    let lowest = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|panel| panel["gridPos"]["y"].as_u64().unwrap() + panel["gridPos"]["h"].as_u64().unwrap());
    // 30 pixels and a gap of 8 each: 874 of a screen of 1080.
    assert!(lowest.max().unwrap() <= 23);
}

#[test]
fn no_link_is_dead() {
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        let panels = panels(&dashboard);
        let links = dashboard["links"].as_array().unwrap().iter();
        let links = links.chain(panels.iter().flat_map(|panel| panel["links"].as_array().unwrap()));
        for link in links {
            if link["type"] == "dashboards" {
                assert_eq!(link["tags"], dashboard["tags"], "{name}: the others are found by their tag");
                continue;
            }
            let url = link["url"].as_str().unwrap();
            let file = url.strip_prefix("https://docs.example.org/").unwrap_or_else(|| panic!("{name}: {url}"));
            assert!(path("docs").join(file).exists(), "{name}: {url}");
        }
    }
}

#[test]
fn every_alert_is_reached_from_the_dashboard_that_it_names() {
    for alert in alerts() {
        let (_, url) = alert.annotations.iter().find(|(key, _)| key == "dashboard_url").unwrap();
        let dashboard = dashboard(url.rsplit('/').next().unwrap());
        let wanted = format!("Runbook: {}", alert.name);
        let panels = panels(&dashboard);
        let mut links = panels.iter().flat_map(|panel| panel["links"].as_array().unwrap());
        assert!(links.any(|link| link["title"] == wanted), "{url} has no panel for {}", alert.name);
    }
}

#[test]
fn a_panel_that_draws_thresholds_draws_those_of_its_alerts() {
    // The generator reads them from the rules; this reads both anew.
    for (dashboard_name, title, alert, scale) in [
        ("herald-overview", "Lag in seconds, by partition", "HeraldLagHigh", 1.0),
        ("herald-overview", "Oldest record not ended", "HeraldLagCritical", 1.0),
        ("herald-overview", "Dead-lettered, share of the records", "HeraldDeliveredBurnFast", 1.0),
        ("herald-objectives", "Fresh: burn rate", "HeraldFreshBurnSlow", 0.01),
        ("herald-dead-letters", "Oldest open", "HeraldDeadLettersUnattended", 1.0),
        ("herald-dead-letters", "Oldest unpublished", "HeraldDeadLetterPublishFailing", 1.0),
    ] {
        let alert = alerts().into_iter().find(|one| one.name == alert).unwrap();
        let limits: Vec<f64> = alert
            .expression
            .split("> ")
            .skip(1)
            .map(|rest| rest.split(" and ").next().unwrap().split(" unless ").next().unwrap())
            .map(|product| product.split(" * ").map(|factor| factor.trim().parse::<f64>().unwrap_or(1.0)).product())
            .collect();
        let panel = panels(&dashboard(dashboard_name)).into_iter().find(|panel| panel["title"] == title).unwrap();
        let steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array().unwrap().clone();
        let is_drawn = steps
            .iter()
            .filter_map(|step| step["value"].as_f64())
            .any(|value| limits.iter().any(|limit| (value * scale - limit).abs() < 1e-9));
        assert!(is_drawn, "{title} draws {steps:?}, {} compares with {limits:?}", alert.name);
    }
}
