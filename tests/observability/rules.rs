//! The rules and their unit tests.

use std::collections::BTreeSet;

use crate::files::{alerts, metric_names, read, rules};
use crate::promtool::promtool;

const TESTS: [&str; 2] = ["herald-alerts-test.yml", "herald-alerts-hours-test.yml"];

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let checked = promtool(&["check", "rules", "--lint=all", "herald-recording.yml", "herald-alerts.yml"], "");
    let said = checked.unwrap_or_else(|said| panic!("{said}"));
    assert_eq!(said.matches("SUCCESS").count(), 2, "{said}");
    assert_eq!(rules().len(), said.split(' ').filter_map(|word| word.parse::<usize>().ok()).sum::<usize>(), "{said}");
}

#[test]
fn every_unit_test_of_the_alerts_passes() {
    for file in TESTS {
        let tested = promtool(&["test", "rules", file], "");
        assert!(tested.is_ok(), "{}", tested.unwrap_err());
    }
}

#[test]
fn every_alert_has_a_test_that_it_fires_and_one_that_it_is_silent() {
    let text: String = TESTS.map(|file| read(&format!("dashboards/rules/{file}"))).concat();
    let cases: Vec<&str> = text.split("  - name: ").skip(1).collect();
    for alert in alerts() {
        let of_alert = |wanted: &str| cases.iter().any(|case| case.starts_with(&format!("{} {wanted}", alert.name)));
        assert!(of_alert("fires "), "{} has no test that it fires", alert.name);
        assert!(of_alert("is silent "), "{} has no test that it is silent", alert.name);
    }
    for case in cases {
        let (alert, rest) = case.split_once(' ').unwrap();
        let expected = case.rsplit("exp_samples: ").next().unwrap();
        assert_eq!(
            expected.contains(alert),
            rest.starts_with("fires "),
            "the name says otherwise than the case: {case}"
        );
    }
}

#[test]
fn the_page_for_operators_says_what_fired_each_alert() {
    let page = read("docs/operations.md");
    let proof = page.split("## How this is proved").nth(1).unwrap();
    for alert in alerts() {
        assert!(proof.contains(&alert.name), "{} is not in the table of docs/operations.md", alert.name);
    }
}

#[test]
fn every_recorded_series_is_used() {
    let recorded: BTreeSet<String> =
        rules().into_iter().map(|rule| rule.name).filter(|name| name.starts_with("herald:")).collect();
    let mut used: BTreeSet<String> = rules().iter().flat_map(|rule| metric_names(&rule.expression)).collect();
    used.extend(
        crate::files::DASHBOARDS.iter().flat_map(|name| metric_names(&read(&format!("dashboards/{name}.json")))),
    );
    used.retain(|name| name.starts_with("herald:"));
    assert_eq!(recorded, used);
}

#[test]
fn every_alert_says_what_happened_what_to_do_and_where_to_look() {
    for alert in alerts() {
        let of = |key: &str| {
            let found = alert.annotations.iter().find(|(name, _)| name == key);
            found.map_or_else(|| panic!("{} has no {key}", alert.name), |(_, value)| value.as_str())
        };
        assert!(["critical", "warning"].contains(&of("severity")), "{}", alert.name);
        assert!(of("summary").len() > 10 && of("description").len() > 30, "{}", alert.name);
        let runbook = of("runbook_url").strip_prefix("https://docs.example.org/runbooks/").unwrap();
        assert_eq!(runbook, format!("{}.md", alert.name));
        let uid = of("dashboard_url").strip_prefix("https://grafana.example.org/d/").unwrap();
        assert!(crate::files::DASHBOARDS.contains(&uid), "{}: no dashboard has the uid {uid}", alert.name);
    }
}
