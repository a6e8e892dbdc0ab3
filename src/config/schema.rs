//! The keys of the configuration, read from the structs: names, kinds, defaults and descriptions.

use std::fmt;
use std::marker::PhantomData;

use schemars::generate::SchemaSettings;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::areas::Settings;
use super::units::{duration, size};
use super::value::{Choice, Kind};

/// One key, `area.name`.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) path: String,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) secret: bool,
    /// Absent where nothing is set unless somebody sets it.
    pub(crate) default: Option<Value>,
    /// For a key without a default.
    pub(crate) example: Option<Value>,
    pub(crate) description: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Area {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) keys: Vec<Key>,
}

/// All areas and keys, in the order in which they are declared.
#[derive(Clone, Debug)]
pub(crate) struct Catalogue {
    pub(crate) areas: Vec<Area>,
}

impl Catalogue {
    pub(crate) fn new() -> Self {
        let schema = schema();
        let areas = declared()
            .into_iter()
            .map(|(name, defaults)| {
                let area = property(&schema, &name);
                let keys = defaults.0.into_iter();
                Area {
                    keys: keys.filter_map(|(key, default)| read_key(&name, area, &key, default)).collect(),
                    description: description(area),
                    name,
                }
            })
            .collect();
        Self { areas }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.areas.iter().flat_map(|area| &area.keys)
    }

    pub(crate) fn has_area(&self, name: &str) -> bool {
        self.areas.iter().any(|area| area.name == name)
    }

    /// The key of a path, and the option's name below `kafka.options`.
    pub(crate) fn find(&self, path: &str) -> Option<(&Key, Option<String>)> {
        self.keys().find_map(|key| {
            let rest = path.strip_prefix(key.path.as_str())?;
            let option = rest.strip_prefix('.').filter(|option| !option.is_empty());
            match (&key.kind, option) {
                (Kind::Options, Some(option)) => Some((key, Some(option.to_owned()))),
                _ => rest.is_empty().then_some((key, None)),
            }
        })
    }
}

/// The JSON schema of `herald.toml`. Ranges of durations and sizes are `x-minimum` and `x-maximum`.
#[must_use]
pub fn schema() -> Value {
    let mut schema = SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<Settings>()
        .to_value();
    tidy(&mut schema);
    schema
}

/// TOML knows no null, an empty default is none, and descriptions are one line.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            // The default of an area is those of its keys.
            if map.get("default").is_some_and(|default| is_nothing(default) || default.is_object()) {
                map.remove("default");
            }
            if let Some(Value::Array(types)) = map.get("type")
                && let Some(only) = types.iter().find(|name| *name != "null").cloned()
            {
                map.insert("type".to_owned(), only);
            }
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = one_line(text);
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value == "" || *value == Value::Object(Map::new())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A JSON object in the order in which it is written.
struct Entries<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Entries<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for EntriesVisitor<V> {
    type Value = Entries<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

/// Areas and keys in declared order with their defaults. A schema's own maps are sorted by name.
fn declared() -> Vec<(String, Entries<Value>)> {
    let text = serde_json::to_string(&Settings::default()).unwrap_or_default();
    serde_json::from_str::<Entries<Entries<Value>>>(&text).map_or_else(|_| Vec::new(), |areas| areas.0)
}

fn read_key(area_name: &str, area: &Value, name: &str, default: Value) -> Option<Key> {
    let schema = property(area, name);
    Some(Key {
        path: format!("{area_name}.{name}"),
        name: name.to_owned(),
        kind: kind(schema)?,
        secret: schema.get("writeOnly").is_some(),
        default: (!is_nothing(&default)).then_some(default),
        example: schema.pointer("/examples/0").cloned(),
        description: description(schema),
    })
}

fn property<'a>(schema: &'a Value, name: &str) -> &'a Value {
    schema.get("properties").and_then(|properties| properties.get(name)).unwrap_or(&Value::Null)
}

fn description(schema: &Value) -> String {
    text(schema, "description").unwrap_or_default().to_owned()
}

fn text<'a>(schema: &'a Value, name: &str) -> Option<&'a str> {
    schema.get(name).and_then(Value::as_str)
}

fn number(schema: &Value, name: &str) -> Option<u64> {
    schema.get(name).and_then(Value::as_u64)
}

fn length(schema: &Value, name: &str) -> Option<usize> {
    number(schema, name).and_then(|length| usize::try_from(length).ok())
}

/// What a key takes. None would be a kind that nobody can read, which a test excludes.
fn kind(schema: &Value) -> Option<Kind> {
    match (text(schema, "x-kind"), text(schema, "type")) {
        (Some("topic"), _) => Some(Kind::Topic),
        (Some("brokers"), _) => Some(Kind::Brokers),
        (Some("postgres-url"), _) => Some(Kind::PostgresUrl),
        (Some("http-url"), _) => Some(Kind::HttpUrl),
        (Some("address"), _) => Some(Kind::Address),
        (Some("log-filter"), _) => Some(Kind::LogFilter),
        (Some("duration"), _) => Some(Kind::Duration {
            min: text(schema, "x-minimum").and_then(duration::parse)?,
            max: text(schema, "x-maximum").and_then(duration::parse)?,
        }),
        (Some("size"), _) => Some(Kind::Size {
            min: text(schema, "x-minimum").and_then(size::parse)?,
            max: text(schema, "x-maximum").and_then(size::parse)?,
        }),
        (None, Some("boolean")) => Some(Kind::Boolean),
        (None, Some("object")) => Some(Kind::Options),
        (None, Some("integer")) => {
            Some(Kind::Whole { min: number(schema, "minimum")?, max: number(schema, "maximum")? })
        }
        (None, Some("array")) => Some(Kind::Texts {
            max: length(schema.get("items")?, "maxLength")?,
            may_be_empty: number(schema, "minItems").unwrap_or(0) == 0,
        }),
        (None, _) if schema.get("oneOf").is_some() => choices(schema),
        (None, Some("string")) => Some(Kind::Text { max: length(schema, "maxLength")? }),
        _ => None,
    }
}

fn choices(schema: &Value) -> Option<Kind> {
    let choices = schema.get("oneOf")?.as_array()?.iter();
    let choices: Option<Vec<Choice>> = choices
        .map(|choice| Some(Choice { name: text(choice, "const")?.to_owned(), description: description(choice) }))
        .collect();
    choices.map(Kind::OneOf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_a_key_that_can_be_read_and_is_described() {
        let catalogue = Catalogue::new();
        let schema = schema();
        let areas = schema["properties"].as_object().unwrap();
        assert_eq!(catalogue.areas.len(), areas.len());
        for area in &catalogue.areas {
            let fields = areas[&area.name]["properties"].as_object().unwrap();
            assert_eq!(area.keys.len(), fields.len(), "[{}]", area.name);
            assert!(!area.description.is_empty(), "[{}]", area.name);
        }
        for key in catalogue.keys() {
            assert!(!key.description.is_empty(), "{}", key.path);
        }
    }

    #[test]
    fn areas_and_keys_keep_the_order_in_which_they_are_declared() {
        let catalogue = Catalogue::new();
        let areas: Vec<&str> = catalogue.areas.iter().map(|area| area.name.as_str()).collect();
        assert_eq!(areas[..3], ["kafka", "database", "notification"]);
        let first = &catalogue.areas[0].keys;
        assert_eq!(first[0].name, "bootstrap_servers");
        assert_eq!(first[1].name, "topic");
    }

    #[test]
    fn secrets_are_known_from_their_type() {
        let catalogue = Catalogue::new();
        let secret: Vec<&str> = catalogue.keys().filter(|key| key.secret).map(|key| key.path.as_str()).collect();
        assert_eq!(secret, ["database.url", "webhook.secret"]);
    }

    #[test]
    fn a_path_leads_to_its_key_or_to_an_option() {
        let catalogue = Catalogue::new();
        let found = |path: &str| catalogue.find(path).map(|(key, option)| (key.path.clone(), option));
        assert_eq!(found("kafka.topic"), Some(("kafka.topic".into(), None)));
        assert_eq!(found("kafka.options.sasl.password"), Some(("kafka.options".into(), Some("sasl.password".into()))));
        assert_eq!(found("kafka.options"), Some(("kafka.options".into(), None)));
        for path in ["", "kafka", "kafka.", "kafka.topi", "kafka.topic.x", "kafka.topics", "topic"] {
            assert_eq!(found(path), None, "{path}");
        }
    }
}
