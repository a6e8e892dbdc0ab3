//! Where the server binaries of PostgreSQL are.

use std::cmp::Reverse;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;

const VARIABLE: &str = "HERALD_POSTGRES_BIN";

/// Where packages put the binaries; `*` stands for any text within one name. Distributions keep them off the PATH.
const USUAL_PLACES: [&str; 7] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/usr/local/pgsql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
];

/// The directory that holds `initdb` and `postgres`: the one that is named, else the one on the PATH, else the one that
/// `pg_config` tells, else the newest of the usual places.
pub(super) fn find() -> Result<PathBuf, Error> {
    if let Some(named) = env::var_os(VARIABLE) {
        let named = PathBuf::from(named);
        return if is_complete(&named) {
            // Whoever the server runs as may not be let in to where a link to them is.
            Ok(named.canonicalize().unwrap_or(named))
        } else {
            Err(Error::NotInstalled { looked_in: format!("{} ({VARIABLE})", named.display()) })
        };
    }
    let on_path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&on_path)
        .chain(told_by_pg_config())
        .chain(usual_places())
        .find(|directory| is_complete(directory))
        .ok_or_else(|| Error::NotInstalled {
            looked_in: format!("PATH, pg_config --bindir, {}", USUAL_PLACES.join(", ")),
        })
}

fn is_complete(directory: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| directory.join(program).is_file())
}

fn told_by_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let directory = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(directory.trim()))
}

fn usual_places() -> impl Iterator<Item = PathBuf> {
    USUAL_PLACES.iter().flat_map(|place| {
        let mut found = matching(place);
        found.sort_by_key(|directory| Reverse(version(directory)));
        found
    })
}

/// The directories that a place with one `*` stands for.
fn matching(place: &str) -> Vec<PathBuf> {
    let Some((before, after)) = place.split_once('*') else {
        return vec![PathBuf::from(place)];
    };
    let Some((parent, prefix)) = before.rsplit_once('/') else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join(after.trim_start_matches('/')))
        .collect()
}

/// The numbers in a path, for comparing: 9.6 is older than 15.
fn version(directory: &Path) -> Vec<u32> {
    directory.to_string_lossy().split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_version_is_preferred() {
        let check = |older: &str, newer: &str| {
            assert!(version(Path::new(older)) < version(Path::new(newer)), "{older} < {newer}");
        };
        check("/usr/lib/postgresql/9.6/bin", "/usr/lib/postgresql/15/bin");
        check("/usr/pgsql-15/bin", "/usr/pgsql-17/bin");
        check("/opt/homebrew/opt/postgresql/bin", "/opt/homebrew/opt/postgresql@14/bin");
    }

    #[test]
    fn a_place_stands_for_the_directories_that_are_there() {
        let root = tempfile::TempDir::new().unwrap();
        for name in ["pg-15/bin", "pg-17/bin", "other/bin"] {
            fs::create_dir_all(root.path().join(name)).unwrap();
        }
        let mut found = matching(&format!("{}/pg-*/bin", root.path().display()));
        found.sort();
        assert_eq!(found, [root.path().join("pg-15/bin"), root.path().join("pg-17/bin")]);
        assert_eq!(matching("/nonexistent/*/bin"), Vec::<PathBuf>::new());
    }
}
