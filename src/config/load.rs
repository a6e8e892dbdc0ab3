//! Layers into [`Settings`], with every problem at once.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use serde_json::Value;

use super::areas::Settings;
use super::checks::{Clash, Purpose, clashes};
use super::problem::{ConfigError, Origin, Problem};
use super::schema::{Catalogue, Key};
use super::secret::{REDACTED, redacted_url};
use super::sources::{Assignment, Flag, Layer, SourceFile, Sources, Surroundings, nearest};
use super::value::{Kind, Written, read_option};
use super::{environment, file, kafka};

/// Settings, and for each key where its value came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub settings: Settings,
    pub(crate) entries: Vec<Entry>,
}

/// The effective value of a key, secrets redacted.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) area: String,
    pub(crate) name: String,
    /// The option's name below `kafka.options`.
    pub(crate) option: Option<String>,
    pub(crate) value: Option<Value>,
    pub(crate) origin: Origin,
}

impl Settings {
    /// Settings from plain data: no process environment is read, and the database may be missing.
    pub fn load_from<N, V>(
        file: Option<&str>,
        environment: impl IntoIterator<Item = (N, V)>,
        flags: &[Flag],
    ) -> Result<Self, ConfigError>
    where
        N: Into<String>,
        V: Into<OsString>,
    {
        let sources = Sources {
            file: file.map(|text| SourceFile { path: "herald.toml".to_owned(), text: text.to_owned() }),
            environment: environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            flags: flags.to_vec(),
            surroundings: Surroundings::Unattended,
        };
        load(&sources, Purpose::Inspect).map(|loaded| loaded.settings)
    }
}

/// Reads all sources, the later over the earlier: defaults, file, environment, flags.
///
/// A value that is wrong is a problem even where a later source sets the key again.
pub fn load(sources: &Sources, purpose: Purpose) -> Result<Loaded, ConfigError> {
    let catalogue = Catalogue::new();
    let mut merge = Merge::new(sources.surroundings);
    if let Some(source) = &sources.file {
        merge.layer(file::read(&catalogue, source));
    }
    merge.layer(environment::read(&catalogue, &sources.environment));
    merge.layer(flags(&catalogue, &sources.flags));
    merge.finish(&catalogue, purpose)
}

fn flags<'k>(catalogue: &'k Catalogue, flags: &[Flag]) -> Layer<'k> {
    let mut layer = Layer::default();
    for flag in flags {
        let origin = Origin::Flag(flag.name.to_owned());
        match catalogue.find(&flag.key) {
            None => {
                let keys = catalogue.keys().map(|key| key.path.clone());
                layer.unknown(&flag.key, nearest(&flag.key, keys), origin);
            }
            Some((key, option)) => {
                layer.assignments.push(Assignment { key, option, written: Written::Bare(flag.value.clone()), origin });
            }
        }
    }
    layer
}

struct Merge {
    /// The values that were set, by path.
    values: BTreeMap<String, (Value, Origin)>,
    problems: Vec<Problem>,
    /// Paths whose value was refused: rules between keys would only repeat it.
    refused: BTreeSet<String>,
}

impl Merge {
    fn new(surroundings: Surroundings) -> Self {
        let mut values = BTreeMap::new();
        if surroundings == Surroundings::Terminal {
            let pretty = ("pretty".into(), Origin::Default);
            values.insert("telemetry.log_format".to_owned(), pretty);
        }
        Self { values, problems: Vec::new(), refused: BTreeSet::new() }
    }

    fn layer(&mut self, layer: Layer<'_>) {
        self.problems.extend(layer.problems);
        for assignment in layer.assignments {
            self.assign(assignment);
        }
    }

    fn assign(&mut self, assignment: Assignment<'_>) {
        let path = path(assignment.key, assignment.option.as_deref());
        match read(&assignment) {
            Ok(value) => {
                self.values.insert(path, (value, assignment.origin));
            }
            Err((what, allowed)) => {
                self.refused.insert(path.clone());
                self.problems.push(Problem {
                    subject: path.escape_debug().to_string(),
                    what,
                    origin: assignment.origin,
                    against: None,
                    allowed,
                });
            }
        }
    }

    fn finish(mut self, catalogue: &Catalogue, purpose: Purpose) -> Result<Loaded, ConfigError> {
        let settings = self.settings(catalogue);
        if let Some(settings) = &settings {
            for clash in clashes(settings, purpose) {
                self.clash(clash);
            }
        }
        match settings {
            Some(settings) if self.problems.is_empty() => Ok(Loaded { settings, entries: self.entries(catalogue) }),
            _ => Err(ConfigError { problems: self.problems }),
        }
    }

    fn settings(&mut self, catalogue: &Catalogue) -> Option<Settings> {
        let mut tree = serde_json::Map::new();
        for area in &catalogue.areas {
            let mut fields = serde_json::Map::new();
            for key in &area.keys {
                if key.kind == Kind::Options {
                    fields.insert(key.name.clone(), self.options(key));
                } else if let Some((value, _)) = self.values.get(&key.path) {
                    fields.insert(key.name.clone(), value.clone());
                }
            }
            tree.insert(area.name.clone(), fields.into());
        }
        match serde_path_to_error::deserialize(Value::from(tree)) {
            Ok(settings) => Some(settings),
            // Values were read by their kinds, so this is a kind that differs from its field: name it, do not hide it.
            Err(error) => {
                self.problems.push(Problem {
                    subject: error.path().to_string(),
                    what: "was read as something its field does not take".to_owned(),
                    origin: Origin::Nowhere,
                    against: None,
                    allowed: "nothing: this is a bug in herald".to_owned(),
                });
                None
            }
        }
    }

    fn options(&self, key: &Key) -> Value {
        let set = self.set_options(key);
        set.map(|(option, value, _)| (option.to_owned(), value.clone())).collect::<serde_json::Map<_, _>>().into()
    }

    fn set_options(&self, key: &Key) -> impl Iterator<Item = (&str, &Value, &Origin)> {
        let prefix = format!("{}.", key.path);
        self.values.iter().filter_map(move |(path, (value, origin))| Some((path.strip_prefix(&prefix)?, value, origin)))
    }

    fn clash(&mut self, clash: Clash) {
        let other = clash.against.as_ref().map(|(key, _)| *key);
        if self.refused.contains(clash.key) || other.is_some_and(|key| self.refused.contains(key)) {
            return;
        }
        let origin = match self.origin(clash.key) {
            Origin::Default if clash.what == "is required" => Origin::Nowhere,
            origin => origin,
        };
        let against = clash.against.map(|(key, value)| format!("{key} = {value}, {}", self.origin(key)));
        self.problems.push(Problem {
            subject: clash.key.to_owned(),
            what: clash.what,
            origin,
            against,
            allowed: clash.allowed,
        });
    }

    fn origin(&self, path: &str) -> Origin {
        let set = self.values.get(path);
        set.map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    fn entries(&self, catalogue: &Catalogue) -> Vec<Entry> {
        let mut entries = Vec::new();
        for area in &catalogue.areas {
            for key in &area.keys {
                let entry = |option: Option<&str>, value: Option<&Value>, origin: &Origin| Entry {
                    area: area.name.clone(),
                    name: key.name.clone(),
                    option: option.map(str::to_owned),
                    value: value.map(|value| shown(key, option, value)),
                    origin: origin.clone(),
                };
                if key.kind == Kind::Options {
                    let set = self.set_options(key);
                    entries.extend(set.map(|(option, value, origin)| entry(Some(option), Some(value), origin)));
                } else {
                    let set = self.values.get(&key.path).map(|(value, _)| value);
                    entries.push(entry(None, set.or(key.default.as_ref()), &self.origin(&key.path)));
                }
            }
        }
        entries
    }
}

fn path(key: &Key, option: Option<&str>) -> String {
    match option {
        Some(option) => format!("{}.{option}", key.path),
        None => key.path.clone(),
    }
}

/// The value, or what is wrong with it and what is allowed.
fn read(assignment: &Assignment<'_>) -> Result<Value, (String, String)> {
    let (key, written) = (assignment.key, &assignment.written);
    let Some(option) = assignment.option.as_deref() else {
        let example = key.default.as_ref().or(key.example.as_ref());
        return key.kind.read(written).map_err(|refusal| {
            (format!("{} {refusal}", shown_written(key, None, written)), key.kind.allowed(example))
        });
    };
    if option.is_empty() {
        return Err(("has no name".to_owned(), "the name of a librdkafka option".to_owned()));
    }
    if let Some(remedy) = kafka::reserved_option(option) {
        return Err(("is reserved".to_owned(), remedy.to_owned()));
    }
    read_option(written)
        .map(Value::from)
        .map_err(|refusal| (format!("{} {refusal}", shown_written(key, Some(option), written)), "text".to_owned()))
}

fn is_secret(key: &Key, option: Option<&str>) -> bool {
    key.secret || option.is_some_and(kafka::is_secret_option)
}

/// A refused value as it may be shown. A URL that was refused is shown only if it is one.
fn shown_written(key: &Key, option: Option<&str>, written: &Written) -> String {
    match (&key.kind, written) {
        (Kind::PostgresUrl | Kind::HttpUrl, Written::Bare(text) | Written::Quoted(text)) => {
            format!("{:?}", redacted_url(text))
        }
        _ if is_secret(key, option) => "the value".to_owned(),
        _ => written.shown(),
    }
}

fn shown(key: &Key, option: Option<&str>, value: &Value) -> Value {
    match (&key.kind, value) {
        (Kind::PostgresUrl | Kind::HttpUrl, Value::String(url)) => redacted_url(url).into(),
        _ if is_secret(key, option) => REDACTED.into(),
        _ => value.clone(),
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
