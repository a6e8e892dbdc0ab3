//! The effective configuration, with where each value came from and without its secrets.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::load::{Entry, Loaded};
use super::problem::Origin;

/// Origins stand in one column per area unless a value is longer than this.
const WIDEST: usize = 56;

impl Loaded {
    /// As TOML, each origin in a comment.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let areas: Vec<String> = self.entries.chunk_by(|left, right| left.area == right.area).map(area).collect();
        areas.join("\n")
    }

    /// As JSON: `{"area": {"key": {"value": …, "origin": "…"}}}`; an option's key is `options.name`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut areas: BTreeMap<&str, BTreeMap<String, Value>> = BTreeMap::new();
        for entry in &self.entries {
            let name = match &entry.option {
                Some(option) => format!("{}.{option}", entry.name),
                None => entry.name.clone(),
            };
            let described = json!({"value": entry.value, "origin": entry.origin.to_string()});
            areas.entry(&entry.area).or_default().insert(name, described);
        }
        json!(areas)
    }
}

fn area(entries: &[Entry]) -> String {
    let lines: Vec<(String, Option<&Origin>)> =
        entries.iter().map(|entry| (line(entry), entry.value.is_some().then_some(&entry.origin))).collect();
    let lengths = lines.iter().map(|(line, _)| line.chars().count());
    let width = lengths.filter(|length| *length <= WIDEST).max().unwrap_or(0);
    let mut text = String::new();
    if let Some(first) = entries.first() {
        let _ = writeln!(text, "[{}]", first.area);
    }
    for (line, origin) in lines {
        let _ = match origin {
            Some(origin) => writeln!(text, "{line:width$}  # {origin}"),
            None => writeln!(text, "{line}"),
        };
    }
    text
}

fn line(entry: &Entry) -> String {
    let name = match &entry.option {
        Some(option) => format!("{}.{}", entry.name, toml_text(option)),
        None => entry.name.clone(),
    };
    match &entry.value {
        Some(value) => format!("{name} = {}", toml_value(value)),
        None => format!("# {name} is not set"),
    }
}

pub(crate) fn toml_value(value: &Value) -> String {
    match value {
        Value::String(text) => toml_text(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(toml_value).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A JSON string is a basic string of TOML but for DEL, which TOML wants escaped.
fn toml_text(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

#[cfg(test)]
mod tests {
    use super::super::samples::sources;
    use super::*;
    use crate::config::{Purpose, load};

    fn loaded_with_secrets() -> Loaded {
        let file = "[database]\nurl = 'postgres://ana:hunter2@db:5432/herald?sslmode=require'\n[webhook]\nurl = 'https://gateway/notify?key=hunter2'\nsecret = 'hunter2'\n[kafka.options]\n'sasl.password' = 'hunter2'\n'sasl.username' = 'herald'";
        let environment = [("HERALD_KAFKA__TOPIC", "orders")];
        load(&sources(file, &environment, &[("retry.max_attempts", "3")]), Purpose::Work).unwrap()
    }

    #[test]
    fn the_printed_configuration_names_each_origin_and_no_secret() {
        let printed = loaded_with_secrets().to_toml();
        assert!(!printed.contains("hunter2"), "{printed}");
        let lines: Vec<String> =
            printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in [
            "[kafka]",
            "bootstrap_servers = \"localhost:9092\" # default",
            "topic = \"orders\" # environment, HERALD_KAFKA__TOPIC",
            "# instance_id is not set",
            "options.\"sasl.password\" = \"[redacted]\" # herald.toml:7",
            "options.\"sasl.username\" = \"herald\" # herald.toml:8",
            "url = \"postgres://ana:[redacted]@db:5432/herald?sslmode=require\" # herald.toml:2",
            "url = \"https://gateway/notify?key=[redacted]\" # herald.toml:4",
            "secret = \"[redacted]\" # herald.toml:5",
            "max_attempts = 3 # flag --set",
            "event_types = [\"ORDER_CREATED\"] # default",
        ] {
            assert!(lines.iter().any(|printed| printed == line), "{line} is not in\n{printed}");
        }
        assert!(toml::from_str::<toml::Table>(&printed).is_ok(), "{printed}");
    }

    #[test]
    fn the_configuration_as_json_has_values_and_origins_and_no_secret() {
        let json = loaded_with_secrets().to_json();
        assert!(!json.to_string().contains("hunter2"), "{json}");
        assert_eq!(json["kafka"]["topic"]["value"], "orders");
        assert_eq!(json["kafka"]["topic"]["origin"], "environment, HERALD_KAFKA__TOPIC");
        assert_eq!(json["kafka"]["options.sasl.password"]["value"], "[redacted]");
        assert_eq!(json["kafka"]["instance_id"]["value"], Value::Null);
        assert_eq!(json["retry"]["max_attempts"]["value"], 3);
    }

    #[test]
    fn a_debug_print_of_the_settings_shows_no_secret() {
        let printed = format!("{:?}", loaded_with_secrets());
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
