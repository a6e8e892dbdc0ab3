//! What a key takes: reading a written value by its kind, and saying what is allowed.

use std::time::Duration;

use serde_json::Value;

use super::formats;
use super::units::{duration, size};

/// A value as somebody wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// From the environment or a flag: its key says what it means, so the text `123` may be a password.
    Bare(String),
    Quoted(String),
    Whole(i64),
    Boolean(bool),
    List(Vec<Written>),
    /// Anything that no key takes, as it is to be shown.
    Other(String),
}

impl Written {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Bare(text) | Self::Quoted(text) => Some(text),
            Self::Whole(_) | Self::Boolean(_) | Self::List(_) | Self::Other(_) => None,
        }
    }

    /// For an error message: quoted, escaped, and not too long.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Bare(text) | Self::Quoted(text) => quoted(text),
            Self::Whole(number) => number.to_string(),
            Self::Boolean(value) => value.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Other(description) => description.clone(),
        }
    }
}

fn quoted(text: &str) -> String {
    const LONGEST: usize = 50;
    if text.chars().count() <= LONGEST {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(LONGEST).collect();
    format!("{:?}", format!("{start}…"))
}

/// What a key takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Lengths are bytes.
    Text {
        max: usize,
    },
    Texts {
        max: usize,
        may_be_empty: bool,
    },
    Topic,
    Brokers,
    PostgresUrl,
    HttpUrl,
    Address,
    LogFilter,
    Boolean,
    Whole {
        min: u64,
        max: u64,
    },
    Duration {
        min: Duration,
        max: Duration,
    },
    Size {
        min: u64,
        max: u64,
    },
    OneOf(Vec<Choice>),
    /// Named options, each read on its own.
    Options,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) name: String,
    pub(crate) description: String,
}

/// Why a value was refused: the rest of a sentence that begins with the value.
pub(crate) type Refusal = &'static str;

impl Kind {
    /// The value in its canonical form, as `Settings` deserialises it.
    pub(crate) fn read(&self, written: &Written) -> Result<Value, Refusal> {
        match self {
            Self::Text { max } => read_text(written, *max).map(Value::from),
            Self::Texts { max, may_be_empty } => match read_texts(written, *max)? {
                texts if texts == Value::Array(Vec::new()) && !may_be_empty => Err("is empty"),
                texts => Ok(texts),
            },
            Self::Topic => formatted(written, formats::is_topic, "is not a topic name"),
            Self::Brokers => formatted(written, formats::is_brokers, "is not a list of brokers"),
            Self::PostgresUrl => formatted(written, formats::is_postgres_url, "is not a Postgres URL"),
            Self::HttpUrl => formatted(written, formats::is_http_url, "is not an http or https URL"),
            Self::Address => formatted(written, formats::is_address, "is not an address"),
            Self::LogFilter => formatted(written, formats::is_log_filter, "is not a log level"),
            Self::Boolean => read_boolean(written),
            Self::Whole { min, max } => {
                let number = read_whole(written)?;
                within(number, *min, *max).map(Value::from)
            }
            Self::Duration { min, max } => {
                let text = written.text().ok_or("is not a duration")?;
                let value = duration::parse(text).ok_or("is not a duration")?;
                within(value, *min, *max).map(|value| duration::render(value).into())
            }
            Self::Size { min, max } => {
                let bytes = read_size(written).ok_or("is not a size")?;
                within(bytes, *min, *max).map(|bytes| size::render(bytes).into())
            }
            Self::OneOf(choices) => {
                let text = written.text().ok_or("is not text")?;
                let choice = choices.iter().find(|choice| choice.name == text);
                choice.map(|choice| choice.name.clone().into()).ok_or("is not one of the choices")
            }
            Self::Options => Err("is not a table"),
        }
    }

    /// What may be written, on one line.
    pub(crate) fn allowed(&self, example: Option<&Value>) -> String {
        let allowed = match self {
            Self::Text { max } => format!("text of 1 to {max} bytes"),
            Self::Texts { max, may_be_empty: false } => format!("a list of one or more texts of 1 to {max} bytes"),
            Self::Texts { max, may_be_empty: true } => format!("a list of texts of 1 to {max} bytes"),
            Self::Topic => "1 to 249 letters, digits, dots, underscores and hyphens".to_owned(),
            Self::Brokers => "host:port, comma separated".to_owned(),
            Self::PostgresUrl => "postgres://user:password@host:port/database, special characters as %XX".to_owned(),
            Self::HttpUrl => "an http:// or https:// URL".to_owned(),
            Self::Address => "an IP address and a port".to_owned(),
            Self::LogFilter => "off, error, warn, info, debug, trace, or module=level".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::Whole { min, max } => format!("a whole number, {min} to {max}"),
            Self::Duration { min, max } => {
                let (min, max) = (duration::render(*min), duration::render(*max));
                format!("a number with a unit, {min} to {max}")
            }
            Self::Size { min, max } => {
                let (min, max) = (size::render(*min), size::render(*max));
                format!("a number with a unit, {min} to {max}")
            }
            Self::OneOf(choices) => {
                let names: Vec<&str> = choices.iter().map(|choice| choice.name.as_str()).collect();
                names.join(", ")
            }
            Self::Options => "options as \"name\" = \"value\"".to_owned(),
        };
        match (self, example) {
            (
                Self::HttpUrl | Self::Brokers | Self::Address | Self::Duration { .. } | Self::Size { .. },
                Some(example),
            ) => format!("{allowed}, for example {example}"),
            _ => allowed,
        }
    }
}

/// The value of one of Kafka's options: librdkafka reads them all as text.
pub(crate) fn read_option(written: &Written) -> Result<String, Refusal> {
    let text = match written {
        Written::Bare(text) | Written::Quoted(text) => text.clone(),
        Written::Whole(number) => number.to_string(),
        Written::Boolean(value) => value.to_string(),
        Written::List(_) | Written::Other(_) => return Err("is not text"),
    };
    if text.contains('\0') {
        return Err("holds a NUL");
    }
    Ok(text)
}

fn read_text(written: &Written, max: usize) -> Result<&str, Refusal> {
    let text = written.text().ok_or("is not text")?;
    if text.is_empty() {
        return Err("is empty");
    }
    if text.len() > max {
        return Err("is too long");
    }
    if text.contains('\0') {
        return Err("holds a NUL");
    }
    Ok(text)
}

fn read_texts(written: &Written, max: usize) -> Result<Value, Refusal> {
    let items = match written {
        Written::Bare(text) => text.split(',').map(|item| Written::Bare(item.trim().to_owned())).collect(),
        Written::List(items) => items.clone(),
        Written::Quoted(_) | Written::Whole(_) | Written::Boolean(_) | Written::Other(_) => {
            return Err("is not a list");
        }
    };
    let texts: Result<Vec<Value>, Refusal> = items.iter().map(|item| read_text(item, max).map(Value::from)).collect();
    texts.map(Value::from).map_err(|_| "holds something that is not allowed")
}

fn formatted(written: &Written, is_valid: fn(&str) -> bool, refusal: Refusal) -> Result<Value, Refusal> {
    let text = written.text().ok_or("is not text")?;
    if is_valid(text) && !text.contains('\0') { Ok(text.into()) } else { Err(refusal) }
}

fn read_boolean(written: &Written) -> Result<Value, Refusal> {
    match written {
        Written::Boolean(value) => Ok((*value).into()),
        Written::Bare(text) if text.trim() == "true" => Ok(true.into()),
        Written::Bare(text) if text.trim() == "false" => Ok(false.into()),
        _ => Err("is not true or false"),
    }
}

fn read_whole(written: &Written) -> Result<u64, Refusal> {
    match written {
        Written::Whole(number) => u64::try_from(*number).map_err(|_| "is out of range"),
        Written::Bare(text) => text.trim().parse().map_err(|_| "is not a whole number"),
        _ => Err("is not a whole number"),
    }
}

fn read_size(written: &Written) -> Option<u64> {
    match written {
        Written::Whole(bytes) => u64::try_from(*bytes).ok(),
        other => other.text().and_then(size::parse),
    }
}

fn within<T: PartialOrd + Copy>(value: T, min: T, max: T) -> Result<T, Refusal> {
    if value < min || value > max {
        return Err("is out of range");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bare(text: &str) -> Written {
        Written::Bare(text.to_owned())
    }

    fn quoted(text: &str) -> Written {
        Written::Quoted(text.to_owned())
    }

    fn second(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn level() -> Kind {
        Kind::OneOf(["low", "high"].map(|name| Choice { name: name.to_owned(), description: String::new() }).into())
    }

    #[test]
    fn a_value_is_read_by_what_its_key_takes() {
        let (small, brief) = (Kind::Whole { min: 1, max: 9 }, Kind::Duration { min: second(1), max: second(60) });
        let sized = Kind::Size { min: 1 << 10, max: 1 << 20 };
        for (kind, written, expected) in [
            (Kind::Text { max: 5 }, bare("123"), json!("123")),
            (Kind::Text { max: 5 }, bare("true"), json!("true")),
            (Kind::Text { max: 5 }, bare(" a "), json!(" a ")),
            (Kind::Texts { max: 5, may_be_empty: false }, bare("a, b"), json!(["a", "b"])),
            (Kind::Texts { max: 5, may_be_empty: false }, Written::List(vec![quoted("a")]), json!(["a"])),
            (Kind::Texts { max: 5, may_be_empty: true }, Written::List(vec![]), json!([])),
            (Kind::Boolean, bare("true"), json!(true)),
            (Kind::Boolean, Written::Boolean(false), json!(false)),
            (small.clone(), bare(" 9 "), json!(9)),
            (small, Written::Whole(1), json!(1)),
            (brief.clone(), bare("1000ms"), json!("1s")),
            (brief, quoted("1m"), json!("1m")),
            (sized.clone(), bare("1 MiB"), json!("1MiB")),
            (sized, Written::Whole(1024), json!("1KiB")),
            (level(), bare("low"), json!("low")),
        ] {
            assert_eq!(kind.read(&written), Ok(expected), "{kind:?} {written:?}");
        }
    }

    #[test]
    fn a_value_that_its_key_does_not_take_is_refused_with_a_reason() {
        let (small, brief) = (Kind::Whole { min: 1, max: 9 }, Kind::Duration { min: second(1), max: second(60) });
        let sized = Kind::Size { min: 1 << 10, max: 1 << 20 };
        for (kind, written, refusal) in [
            (Kind::Text { max: 5 }, Written::Whole(1), "is not text"),
            (Kind::Text { max: 5 }, bare(""), "is empty"),
            (Kind::Text { max: 5 }, bare("123456"), "is too long"),
            (Kind::Text { max: 5 }, bare("a\0"), "holds a NUL"),
            (Kind::Texts { max: 5, may_be_empty: false }, quoted("a"), "is not a list"),
            (Kind::Texts { max: 5, may_be_empty: false }, Written::List(vec![]), "is empty"),
            (Kind::Texts { max: 5, may_be_empty: false }, bare("a,,b"), "holds something that is not allowed"),
            (
                Kind::Texts { max: 5, may_be_empty: false },
                Written::List(vec![Written::Whole(1)]),
                "holds something that is not allowed",
            ),
            (Kind::Boolean, quoted("true"), "is not true or false"),
            (Kind::Boolean, bare("yes"), "is not true or false"),
            (small.clone(), bare("nine"), "is not a whole number"),
            (small.clone(), bare("1.5"), "is not a whole number"),
            (small.clone(), quoted("9"), "is not a whole number"),
            (small.clone(), Written::Whole(-1), "is out of range"),
            (small.clone(), Written::Whole(0), "is out of range"),
            (small, bare("10"), "is out of range"),
            (brief.clone(), bare("10"), "is not a duration"),
            (brief.clone(), Written::Whole(10), "is not a duration"),
            (brief.clone(), bare("999ms"), "is out of range"),
            (brief, bare("61s"), "is out of range"),
            (sized.clone(), bare("big"), "is not a size"),
            (sized, bare("2MiB"), "is out of range"),
            (level(), bare("Low"), "is not one of the choices"),
            (Kind::Topic, bare("a b"), "is not a topic name"),
            (Kind::Options, bare("a=b"), "is not a table"),
        ] {
            assert_eq!(kind.read(&written), Err(refusal), "{kind:?} {written:?}");
        }
    }

    #[test]
    fn a_shown_value_is_escaped_and_not_too_long() {
        assert_eq!(bare("a\u{1b}[31m\n").shown(), r#""a\u{1b}[31m\n""#);
        assert_eq!(bare(&"x".repeat(500)).shown().chars().count(), 53);
    }
}
