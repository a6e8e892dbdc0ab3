//! The flags that set configuration, the same for every subcommand.

use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use crate::config::{Flag, Loaded, Purpose, Sources, load};

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigArguments {
    /// Configuration file; herald.toml if there is one [env: HERALD_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Brokers to find the cluster by [env: KAFKA_BOOTSTRAP_SERVERS]
    #[arg(long, global = true, value_name = "HOST:PORT,…")]
    bootstrap_servers: Option<String>,
    /// Topic that is consumed
    #[arg(long, global = true, value_name = "NAME")]
    topic: Option<String>,
    /// Consumer group
    #[arg(long, global = true, value_name = "NAME")]
    group: Option<String>,
    /// Postgres database; other users see flags, so prefer the variable [env: DATABASE_URL]
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// Where health and metrics are served
    #[arg(long, global = true, value_name = "IP:PORT")]
    http_address: Option<String>,
    /// Any other key, as often as needed
    #[arg(long = "set", global = true, value_name = "AREA.KEY=VALUE", value_parser = assignment)]
    assignments: Vec<(String, String)>,
}

impl ConfigArguments {
    /// The configuration of this process: defaults, file, environment and these flags.
    pub fn load(self, purpose: Purpose) -> Result<Loaded, Failure> {
        let config = self.config.clone();
        let sources = Sources::of_process(config, self.flags())?;
        Ok(load(&sources, purpose)?)
    }

    fn flags(self) -> Vec<Flag> {
        let named = [
            ("--bootstrap-servers", "kafka.bootstrap_servers", self.bootstrap_servers),
            ("--topic", "kafka.topic", self.topic),
            ("--group", "kafka.group", self.group),
            ("--database-url", "database.url", self.database_url),
            ("--http-address", "http.address", self.http_address),
        ];
        let named =
            named.into_iter().filter_map(|(name, key, value)| Some(Flag { name, key: key.to_owned(), value: value? }));
        let set = self.assignments.into_iter().map(|(key, value)| Flag { name: "--set", key, value });
        set.chain(named).collect()
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected area.key=value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        config: ConfigArguments,
    }

    #[test]
    fn flags_become_keys_and_the_named_ones_win_over_set() {
        let line = Line::try_parse_from([
            "herald",
            "--topic",
            "orders",
            "--set",
            "kafka.topic=x",
            "--set",
            "retry.max_attempts=3=4",
        ]);
        let flags: Vec<_> =
            line.unwrap().config.flags().into_iter().map(|flag| (flag.name, flag.key, flag.value)).collect();
        let flag = |name, key: &str, value: &str| (name, key.to_owned(), value.to_owned());
        assert_eq!(
            flags,
            [
                flag("--set", "kafka.topic", "x"),
                flag("--set", "retry.max_attempts", "3=4"),
                flag("--topic", "kafka.topic", "orders"),
            ]
        );
    }

    #[test]
    fn a_set_without_a_key_and_a_value_is_refused() {
        for text in ["", "kafka.topic", "=x"] {
            assert!(Line::try_parse_from(["herald", "--set", text]).is_err(), "{text:?}");
        }
    }
}
