//! The layer of the environment: `HERALD_<AREA>__<KEY>`, and two names that everybody knows.

use std::ffi::OsString;

use super::problem::{Origin, Problem};
use super::schema::Catalogue;
use super::sources::{Assignment, FILE_VARIABLE, Layer, nearest};
use super::value::Written;

const PREFIX: &str = "HERALD_";
const OPTIONS: &str = "kafka.options.";

/// Honoured as they are; the name with the prefix wins over them.
const WELL_KNOWN: [(&str, &str); 2] =
    [("KAFKA_BOOTSTRAP_SERVERS", "kafka.bootstrap_servers"), ("DATABASE_URL", "database.url")];

/// Variables in the order of their precedence. An empty one counts as not set, so that `${NAME:-}` can be passed on.
pub(crate) fn read<'k>(catalogue: &'k Catalogue, variables: &[(String, OsString)]) -> Layer<'k> {
    let mut layer = Layer::default();
    let mut variables: Vec<&(String, OsString)> = variables.iter().collect();
    variables.sort_by_key(|(name, _)| (name.starts_with(PREFIX), name));
    for (name, value) in variables {
        let Some(path) = path_of(name, value) else {
            continue;
        };
        match catalogue.find(&path) {
            None => {
                let names = catalogue.keys().map(|key| variable(&key.path));
                let origin = Origin::Environment(name.clone());
                layer.unknown(name, nearest(name, names), origin);
            }
            Some(_) if value.is_empty() => {}
            Some((key, option)) => match value.to_str() {
                Some(text) => layer.assignments.push(Assignment {
                    key,
                    option,
                    written: Written::Bare(text.to_owned()),
                    origin: Origin::Environment(name.clone()),
                }),
                None => layer.problems.push(not_utf8(&path, name)),
            },
        }
    }
    layer
}

/// The variable of a key: `kafka.topic` is `HERALD_KAFKA__TOPIC`.
pub(crate) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_uppercase())
}

/// The path a variable names, none if it is not meant for Herald.
fn path_of(name: &str, value: &OsString) -> Option<String> {
    if let Some((_, path)) = WELL_KNOWN.iter().find(|(known, _)| *known == name) {
        return Some((*path).to_owned());
    }
    let rest = name.strip_prefix(PREFIX)?;
    if name == FILE_VARIABLE || is_service_link(rest, value) {
        return None;
    }
    let path = rest.to_lowercase().replace("__", ".");
    match path.strip_prefix(OPTIONS) {
        Some(option) => Some(format!("{OPTIONS}{}", option.replace('_', "."))),
        None => Some(path),
    }
}

/// Kubernetes gives every container such variables for a service that is called `herald` or `herald-…`.
fn is_service_link(rest: &str, value: &OsString) -> bool {
    let is_url = value.to_str().is_some_and(|value| value.contains("://"));
    let has_number = |rest: &str| rest.contains(|c: char| c.is_ascii_digit());
    rest.ends_with("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || (rest.ends_with("PORT") && is_url)
        || (rest.contains("PORT_") && has_number(rest) && rest.contains("_TCP"))
        || (rest.contains("PORT_") && has_number(rest) && rest.contains("_UDP"))
}

fn not_utf8(path: &str, name: &str) -> Problem {
    Problem {
        subject: path.to_owned(),
        what: "the value is not UTF-8".to_owned(),
        origin: Origin::Environment(name.to_owned()),
        against: None,
        allowed: "text in UTF-8".to_owned(),
    }
}
