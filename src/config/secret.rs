//! Values that cannot be printed by accident.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

pub(crate) const REDACTED: &str = "[redacted]";

/// A value that cannot be printed by accident.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself: for the client that needs it, never for a log.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Serialises as `[redacted]`, and as nothing when nothing is set.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = if self.0.is_empty() { "" } else { REDACTED };
        serializer.serialize_str(shown)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "writeOnly": true})
    }
}

/// Query parameters that help an operator and give nothing away.
const HARMLESS: [&str; 3] = ["sslmode", "application_name", "connect_timeout"];

/// A URL that may be shown: password, tokens and all but a few harmless query values replaced.
///
/// What is no URL is replaced as a whole: nobody knows what it holds.
#[must_use]
pub fn redacted_url(text: &str) -> String {
    let Ok(url) = Url::parse(text) else {
        return if text.is_empty() { "" } else { REDACTED }.to_owned();
    };
    if url.cannot_be_a_base() {
        return REDACTED.to_owned();
    }
    let mut shown = format!("{}://{}", url.scheme(), shown_user(&url));
    shown.push_str(url.host_str().unwrap_or_default());
    if let Some(port) = url.port() {
        let _ = write!(shown, ":{port}");
    }
    shown.push_str(url.path());
    for (index, (name, value)) in url.query_pairs().enumerate() {
        let value = if HARMLESS.contains(&name.as_ref()) { value } else { REDACTED.into() };
        let separator = if index == 0 { '?' } else { '&' };
        let _ = write!(shown, "{separator}{name}={value}");
    }
    shown
}

/// A user name without a password is a token in HTTP and just a name for Postgres.
fn shown_user(url: &Url) -> String {
    let is_http = url.scheme().starts_with("http");
    match (url.username(), url.password()) {
        ("", None) => String::new(),
        (_, None) if is_http => format!("{REDACTED}@"),
        (user, None) => format!("{user}@"),
        (user, Some(_)) => format!("{user}:{REDACTED}@"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_redacted() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"[redacted]\"");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_url_is_shown_without_what_is_secret_in_it() {
        for (url, shown) in [
            ("", ""),
            ("postgres://db/herald", "postgres://db/herald"),
            ("postgres://ana@db:5433/herald", "postgres://ana@db:5433/herald"),
            ("postgres://ana:pw@db/herald", "postgres://ana:[redacted]@db/herald"),
            ("postgresql://db/h?sslmode=require&password=pw", "postgresql://db/h?sslmode=require&password=[redacted]"),
            ("https://token@gateway/notify", "https://[redacted]@gateway/notify"),
            ("https://gateway/notify?key=k#f", "https://gateway/notify?key=[redacted]"),
            ("https://[::1]:8080/notify", "https://[::1]:8080/notify"),
            ("host=db password=pw", "[redacted]"),
            ("postgres://ana:p/w@db/herald", "[redacted]"),
            ("mailto:ana@example.org", "[redacted]"),
        ] {
            assert_eq!(redacted_url(url), shown, "{url}");
        }
    }
}
