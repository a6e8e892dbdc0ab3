//! `docs/configuration.md` and `herald.example.toml`, written from the same structs that are read.

use std::fmt::Write as _;

use super::environment::variable;
use super::print::toml_value;
use super::schema::{Area, Catalogue, Key};
use super::value::Kind;

const OPENING: &str = include_str!("configuration_opening.md");

const EXAMPLE_OPENING: &str = "\
# Every key, commented out, at its default or, where there is none, with an example.
# Only the database's URL and, for the channel webhook, its URL have to be set, here or in the environment.
";

/// Every key with its default, what is allowed and what it does.
#[must_use]
pub fn markdown() -> String {
    let mut text = OPENING.to_owned();
    for area in &Catalogue::new().areas {
        let _ = write!(text, "\n## [{}]\n\n{}\n", area.name, area.description);
        for key in &area.keys {
            let _ = write!(text, "\n{}", section(key));
        }
    }
    text
}

fn section(key: &Key) -> String {
    let mut text = format!("### `{}`\n\n{}\n\n", key.path, key.description);
    let default = match &key.default {
        Some(default) => format!("`{}`", toml_value(default)),
        None => "not set".to_owned(),
    };
    let _ = writeln!(text, "* default: {default}");
    let _ = match key.kind {
        Kind::Options => writeln!(text, "* environment: `{}__<NAME>`, dots as underscores", variable(&key.path)),
        _ => writeln!(text, "* environment: `{}`", variable(&key.path)),
    };
    match &key.kind {
        Kind::OneOf(choices) => {
            for choice in choices {
                let _ = writeln!(text, "* `\"{}\"`: {}", choice.name, choice.description);
            }
        }
        kind => {
            let _ = writeln!(text, "* allowed: {}", kind.allowed(key.example.as_ref()));
        }
    }
    text
}

/// A `herald.toml` with every key at its default.
#[must_use]
pub fn example() -> String {
    let mut text = EXAMPLE_OPENING.to_owned();
    for area in &Catalogue::new().areas {
        let _ = write!(text, "\n{}", example_area(area));
    }
    text
}

fn example_area(area: &Area) -> String {
    let mut text = format!("# {}\n[{}]\n", area.description, area.name);
    for key in &area.keys {
        for line in wrapped(&key.description) {
            let _ = writeln!(text, "# {line}");
        }
        let _ = writeln!(text, "{}", example_line(key));
    }
    text
}

/// Commented out, so that a copied file does not pin what later versions may choose better.
fn example_line(key: &Key) -> String {
    let value = match (&key.kind, key.default.as_ref().or(key.example.as_ref())) {
        (Kind::Options, _) | (_, None) => "{ \"client.rack\" = \"a\" }".to_owned(),
        (_, Some(value)) => toml_value(value),
    };
    match &key.kind {
        Kind::OneOf(_) => format!("#{} = {value}  # {}", key.name, key.kind.allowed(None)),
        _ => format!("#{} = {value}", key.name),
    }
}

/// Lines that leave room for the comment sign within 100 columns.
fn wrapped(text: &str) -> Vec<String> {
    const WIDTH: usize = 98;
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Purpose, Settings, SourceFile, Sources, load};

    const STALE: &str = "is stale: run `make docs`";

    #[test]
    fn the_documentation_is_written_from_the_structs() {
        let kept = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md"));
        assert!(kept == markdown(), "docs/configuration.md {STALE}");
    }

    #[test]
    fn the_example_is_written_from_the_structs() {
        let kept = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/herald.example.toml"));
        assert!(kept == example(), "herald.example.toml {STALE}");
    }

    /// The example with its keys, but not its descriptions, uncommented.
    fn uncommented() -> String {
        let lines: Vec<String> = example()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
                _ => line.to_owned(),
            })
            .collect();
        lines.join("\n")
    }

    #[test]
    fn the_example_holds_every_key_at_its_default() {
        let sources = Sources {
            file: Some(SourceFile { path: "herald.example.toml".to_owned(), text: uncommented() }),
            ..Sources::default()
        };
        let loaded = load(&sources, Purpose::Inspect).unwrap();
        let example = loaded.to_json();
        for key in Catalogue::new().keys().filter(|key| key.default.is_some()) {
            let (area, name) = key.path.split_once('.').unwrap();
            assert_eq!(example[area][name]["value"], *key.default.as_ref().unwrap(), "{}", key.path);
            assert_ne!(example[area][name]["origin"], "default", "{}", key.path);
        }
    }

    #[test]
    fn the_example_as_it_is_changes_nothing() {
        let none: [(&str, &str); 0] = [];
        let settings = Settings::load_from(Some(&example()), none, &[]).unwrap();
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn the_example_names_every_key() {
        let example = example();
        for key in Catalogue::new().keys() {
            assert!(example.contains(&format!("#{} = ", key.name)), "{}", key.path);
        }
    }
}
