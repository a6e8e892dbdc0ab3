//! The configuration of a real process: its environment, its working directory, its flags, its exit code.

// Clippy's allowance for tests does not reach the helper functions of an integration test.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
    command.args(arguments).current_dir(directory).env_clear();
    command
}

fn herald(directory: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    let output = command(directory, arguments)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_process_reads_its_working_directory_its_environment_and_its_flags() {
    let directory = tempfile::tempdir().unwrap();
    let file = "[kafka]\ntopic = 'file'\ngroup = 'file'\ninstance_id = 'file'\n";
    std::fs::write(directory.path().join("herald.toml"), file).unwrap();
    let arguments = ["config", "print", "--json", "--topic", "flag"];
    let variables = [
        ("HERALD_KAFKA__TOPIC", "env"),
        ("HERALD_KAFKA__GROUP", "env"),
    ];
    let ended = herald(directory.path(), &arguments, &variables);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let printed: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    for (key, value, origin) in [
        ("topic", "flag", "flag --topic"),
        ("group", "env", "environment, HERALD_KAFKA__GROUP"),
        ("instance_id", "file", "herald.toml:4"),
        ("bootstrap_servers", "localhost:9092", "default"),
    ] {
        assert_eq!(printed["kafka"][key]["value"], value);
        assert_eq!(printed["kafka"][key]["origin"], origin);
    }
}

#[test]
fn the_file_of_the_flag_is_read_before_the_one_of_the_variable() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["herald", "variable", "flag"] {
        let path = directory.path().join(format!("{name}.toml"));
        std::fs::write(path, format!("[kafka]\ntopic = '{name}'\n")).unwrap();
    }
    let variables = [("HERALD_CONFIG", "variable.toml")];
    for (arguments, variables, topic) in [
        (vec!["config", "print"], [].as_slice(), "herald"),
        (vec!["config", "print"], &variables, "variable"),
        (
            vec!["config", "print", "--config", "flag.toml"],
            &variables,
            "flag",
        ),
    ] {
        let ended = herald(directory.path(), &arguments, variables);
        let line = format!("topic = \"{topic}\"");
        assert!(
            ended.stdout.contains(&line),
            "{}{}",
            ended.stdout,
            ended.stderr
        );
    }
}

#[test]
fn a_wrong_configuration_is_told_on_standard_error_with_exit_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let variables = [("HERALD_WEBHOOK__TIMEOUT", "10")];
    let ended = herald(directory.path(), &["config", "print"], &variables);
    assert_eq!(ended.code, Some(2));
    assert_eq!(ended.stdout, "");
    assert_eq!(
        ended.stderr,
        "error: webhook.timeout: \"10\" is not a duration\n  \
           set in   environment, HERALD_WEBHOOK__TIMEOUT\n  \
           allowed  a number with a unit, 100ms to 5m, for example \"10s\"\n"
    );
    for arguments in [
        ["config", "print", "--config=none.toml"],
        ["config", "print", "--set=x"],
    ] {
        assert_eq!(
            herald(directory.path(), &arguments, &[]).code,
            Some(2),
            "{arguments:?}"
        );
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = command(directory.path(), &["config", "schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!(
        (child.wait().unwrap().code(), stderr.as_str()),
        (Some(0), "")
    );
}
