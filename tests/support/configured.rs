//! Reading a configuration, whatever it says.

use herald::config::{Flag, Purpose, SourceFile, Sources, load};

/// Takes the text for a file, and each `name=value` in it for a variable of the environment and for a flag. Panics when reading does,
/// when printing what was read does not give TOML, or when what is wrong cannot be said.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let pairs = || text.lines().filter_map(|line| line.split_once('='));
    let file = SourceFile { path: "herald.toml".to_owned(), text: text.clone().into_owned() };
    let environment = pairs().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let flag = |(key, value): (&str, &str)| Flag { name: "--set", key: key.to_owned(), value: value.to_owned() };
    read(&Sources { file: Some(file), ..Sources::default() });
    read(&Sources { environment, ..Sources::default() });
    read(&Sources { flags: pairs().map(flag).collect(), ..Sources::default() });
}

fn read(sources: &Sources) {
    match load(sources, Purpose::Inspect) {
        Ok(loaded) => {
            let printed = loaded.to_toml();
            assert!(printed.parse::<toml::Table>().is_ok(), "{printed}");
            let json = loaded.to_json();
            assert!(json.is_object(), "{json}");
        }
        Err(error) => {
            let is_ours = error.problems.iter().any(|problem| problem.allowed.contains("bug in herald"));
            assert!(!error.problems.is_empty() && !is_ours, "{error}");
        }
    }
}
