//! The files of an installation, read as they are shipped.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::repository;

pub const DASHBOARDS: [&str; 4] =
    ["herald-overview", "herald-infrastructure", "herald-dead-letters", "herald-objectives"];

pub const RULES: [&str; 2] = ["herald-recording.yml", "herald-alerts.yml"];

/// A rule as Prometheus reads it from its file.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub name: String,
    pub expression: String,
    /// Of an alert; a recording rule has none.
    pub annotations: Vec<(String, String)>,
}

pub fn path(relative: &str) -> PathBuf {
    repository().join(relative)
}

pub fn read(relative: &str) -> String {
    fs::read_to_string(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

pub fn dashboard(name: &str) -> Value {
    serde_json::from_str(&read(&format!("dashboards/{name}.json"))).unwrap()
}

/// The panels that show something: all but rows.
pub fn panels(dashboard: &Value) -> Vec<Value> {
    let mut panels = dashboard["panels"].as_array().unwrap().clone();
    panels.retain(|panel| panel["type"] != "row");
    panels
}

pub fn expressions(panel: &Value) -> Vec<String> {
    let targets = panel["targets"].as_array().unwrap().iter();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// The rules of both files, in the layout that they are kept in: one key a line, folded expressions indented by ten.
pub fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for line in RULES
        .iter()
        .flat_map(|file| read(&format!("dashboards/rules/{file}")).lines().map(str::to_owned).collect::<Vec<_>>())
    {
        let text = line.trim();
        if let Some(name) = text.strip_prefix("- alert: ").or(text.strip_prefix("- record: ")) {
            rules.push(Rule { name: name.to_owned(), ..Rule::default() });
        }
        let Some(rule) = rules.last_mut() else { continue };
        if let Some(expression) = text.strip_prefix("expr: ") {
            expression.trim_start_matches(">-").clone_into(&mut rule.expression);
        } else if line.starts_with("          ") && !line.starts_with("           ") {
            match text.split_once(": ") {
                Some((key, value))
                    if ["summary", "description", "runbook_url", "dashboard_url", "severity"].contains(&key) =>
                {
                    rule.annotations.push((key.to_owned(), value.trim_matches('"').to_owned()));
                }
                _ => {
                    rule.expression.push(' ');
                    rule.expression.push_str(text);
                }
            }
        }
    }
    rules
}

pub fn alerts() -> Vec<Rule> {
    rules().into_iter().filter(|rule| rule.name.starts_with("Herald")).collect()
}

/// Names of our metrics and recorded series in a text; a histogram by its own name.
pub fn metric_names(text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let names = text.split(|c| !is_of_name(c)).filter(|word| {
        ["herald_", "herald:", "process_"].iter().any(|prefix| word.starts_with(prefix) && word.len() > prefix.len())
    });
    names
        .map(|name| {
            let suffix = ["_bucket", "_count", "_sum"].into_iter().find(|suffix| name.ends_with(suffix));
            suffix.and_then(|suffix| name.strip_suffix(suffix)).unwrap_or(name).to_owned()
        })
        .collect()
}
