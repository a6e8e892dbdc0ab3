//! What the tests of the configuration share.

use super::sources::{Flag, SourceFile, Sources, Surroundings};

pub(super) const NO_VARIABLES: [(&str, &str); 0] = [];

pub(super) fn flag(key: &str, value: &str) -> Flag {
    Flag { name: "--set", key: key.to_owned(), value: value.to_owned() }
}

pub(super) fn sources(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Sources {
    Sources {
        file: Some(SourceFile { path: "herald.toml".to_owned(), text: file.to_owned() }),
        environment: environment.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect(),
        flags: flags.iter().map(|(key, value)| flag(key, value)).collect(),
        surroundings: Surroundings::Unattended,
    }
}
