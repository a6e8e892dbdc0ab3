use std::time::Duration;

use proptest::prelude::*;

use super::super::samples::{NO_VARIABLES, flag, sources};
use super::*;
use crate::config::{ChannelKind, LogFormat, OrderingKey, Secret, redacted_url};

#[test]
fn without_sources_everything_has_its_default() {
    let settings = Settings::load_from(None, NO_VARIABLES, &[]).unwrap();
    assert_eq!(settings, Settings::default());
    assert_eq!(settings.kafka.bootstrap_servers, "localhost:9092");
    assert_eq!(settings.kafka.topic, "order_events");
    assert_eq!(settings.kafka.group, "notification_service_group");
    assert_eq!(settings.dead_letters.topic, "order_events.dlq");
    assert_eq!(settings.http.address.to_string(), "127.0.0.1:9464");
    assert_eq!(settings.notification.channel, ChannelKind::Log);
    assert_eq!(settings.ledger.retention, Duration::from_hours(30 * 24));
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "[kafka]\ntopic = 'file'\ngroup = 'file'\ninstance_id = 'file'";
    let environment = [("HERALD_KAFKA__TOPIC", "env"), ("HERALD_KAFKA__GROUP", "env")];
    let kafka = Settings::load_from(Some(file), environment, &[flag("kafka.topic", "flag")]).unwrap().kafka;
    assert_eq!(kafka.topic, "flag");
    assert_eq!(kafka.group, "env");
    assert_eq!(kafka.instance_id.as_deref(), Some("file"));
    assert_eq!(kafka.bootstrap_servers, "localhost:9092");
}

#[test]
fn well_known_variables_are_honoured_and_the_prefixed_ones_win() {
    let known = [("KAFKA_BOOTSTRAP_SERVERS", "known:9092"), ("DATABASE_URL", "postgres://known/herald")];
    let settings = Settings::load_from(None, known, &[]).unwrap();
    assert_eq!(settings.kafka.bootstrap_servers, "known:9092");
    assert_eq!(settings.database.url, Secret::new("postgres://known/herald"));

    let both = [("HERALD_KAFKA__BOOTSTRAP_SERVERS", "prefixed:9092"), known[0]];
    let settings = Settings::load_from(None, both, &[]).unwrap();
    assert_eq!(settings.kafka.bootstrap_servers, "prefixed:9092");
}

#[test]
fn text_is_read_by_the_type_of_its_key() {
    let environment = [
        ("HERALD_KAFKA__GROUP", "123"),
        ("HERALD_WEBHOOK__SECRET", "true"),
        ("HERALD_NOTIFICATION__EVENT_TYPES", "ORDER_CREATED, ORDER_PAID"),
        ("HERALD_DATABASE__MIGRATE", "true"),
        ("HERALD_RETRY__MAX_ATTEMPTS", "3"),
        ("HERALD_LIMITS__BYTES", "1GiB"),
        ("HERALD_WEBHOOK__TIMEOUT", "2m"),
        ("HERALD_ORDERING__KEY", "none"),
        ("HERALD_HTTP__ADDRESS", "[::]:0"),
    ];
    let settings = Settings::load_from(None, environment, &[]).unwrap();
    assert_eq!(settings.kafka.group, "123");
    assert_eq!(settings.webhook.secret, Some(Secret::new("true")));
    assert_eq!(settings.notification.event_types, ["ORDER_CREATED", "ORDER_PAID"]);
    assert!(settings.database.migrate);
    assert_eq!(settings.retry.max_attempts, 3);
    assert_eq!(settings.limits.bytes, 1 << 30);
    assert_eq!(settings.webhook.timeout, Duration::from_mins(2));
    assert_eq!(settings.ordering.key, OrderingKey::None);
    assert_eq!(settings.http.address.to_string(), "[::]:0");
}

#[test]
fn kafka_options_come_from_every_source_under_their_own_names() {
    let file = "[kafka.options]\n'sasl.username' = 'file'\nsasl.mechanism = 'PLAIN'\n'fetch.min.bytes' = 1\n'check.crcs' = true";
    let environment = [
        ("HERALD_KAFKA__OPTIONS__SASL_PASSWORD", "env"),
        ("HERALD_KAFKA__OPTIONS__SASL_USERNAME", "env"),
        ("HERALD_KAFKA__OPTIONS__ssl.ca.location", "/ca.pem"),
    ];
    let flags = [flag("kafka.options.sasl.password", "a=b")];
    let options = Settings::load_from(Some(file), environment, &flags).unwrap().kafka.options;
    let options: Vec<(&str, &str)> = options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        options,
        [
            ("check.crcs", "true"),
            ("fetch.min.bytes", "1"),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.password", "a=b"),
            ("sasl.username", "env"),
            ("ssl.ca.location", "/ca.pem"),
        ]
    );
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let environment = [("KAFKA_BOOTSTRAP_SERVERS", ""), ("HERALD_KAFKA__INSTANCE_ID", "")];
    let settings = Settings::load_from(None, environment, &[]).unwrap();
    assert_eq!(settings, Settings::default());
}

#[test]
fn logs_are_pretty_on_a_terminal_unless_configured() {
    let mut sources = sources("", &[], &[]);
    sources.surroundings = Surroundings::Terminal;
    let format = |sources: &Sources| load(sources, Purpose::Inspect).unwrap().settings.telemetry.log_format;
    assert_eq!(format(&sources), LogFormat::Pretty);
    sources.flags = vec![flag("telemetry.log_format", "json")];
    assert_eq!(format(&sources), LogFormat::Json);
}

/// The keys as somebody may write them, mistyped ones among them.
fn any_key() -> impl Strategy<Value = String> {
    let keys: Vec<String> = Catalogue::new().keys().map(|key| key.path.clone()).collect();
    prop_oneof![
        4 => prop::sample::select(keys),
        1 => "kafka\\.options\\.[a-z.]{0,12}",
        1 => "[a-z._]{0,20}",
    ]
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "-?[0-9]{0,25}(ms|s|m|h|d|KiB|GiB|B|)?",
        "(postgres|https?|)(://)?[a-z:@/\\[\\]%?=&#]{0,20}",
        "\\[?[a-z0-9:,\\]]{0,20}",
    ]
}

proptest! {
    #[test]
    fn no_file_makes_reading_panic(text in any::<String>()) {
        let _ = Settings::load_from(Some(&text), NO_VARIABLES, &[]);
    }

    #[test]
    fn no_toml_makes_reading_panic(lines in prop::collection::vec("(\\[?[a-z_.'\"]{0,9}\\]?( = )?[\\[{'\"0-9a-z:.,_+-]{0,9}[\\]}'\"]?)", 0..8)) {
        let _ = Settings::load_from(Some(&lines.join("\n")), NO_VARIABLES, &[]);
    }

    #[test]
    fn no_value_makes_reading_panic_wherever_it_comes_from(key in any_key(), value in any_value()) {
        let (area, name) = key.split_once('.').unwrap_or(("kafka", &key));
        let quoted = toml::Value::from(value.clone());
        let files = [format!("[{area}]\n{name} = {quoted}"), format!("[{area}]\n{name} = {value}")];
        for file in files {
            let _ = Settings::load_from(Some(&file), NO_VARIABLES, &[]);
        }
        let variable = environment::variable(&key);
        let _ = Settings::load_from(None, [(variable, value.clone())], &[]);
        let _ = Settings::load_from(None, NO_VARIABLES, &[flag(&key, &value)]);
    }

    #[test]
    fn what_is_accepted_is_printed_as_toml_that_reads_as_the_same(key in any_key(), value in any_value()) {
        assert_reads_as_printed(&key, &value);
    }
}

#[test]
fn a_url_with_an_end_that_means_nothing_is_printed_as_toml_that_reads_as_the_same() {
    for (key, value) in [
        ("database.url", "postgres://#"),
        ("webhook.url", "http://gateway/notify#part"),
        ("telemetry.otlp_endpoint", "http://collector:4318/#part"),
    ] {
        assert_reads_as_printed(key, value);
    }
}

fn assert_reads_as_printed(key: &str, value: &str) {
    let sources = sources("", &[], &[(key, value)]);
    let Ok(loaded) = load(&sources, Purpose::Inspect) else { return };
    let is_redacted = |entry: &Entry| entry.value.as_ref().is_some_and(|value| value.to_string().contains(REDACTED));
    if loaded.entries.iter().any(is_redacted) {
        return;
    }
    // A URL is printed as the parser understood it.
    let mut expected = loaded.settings.clone();
    expected.database.url = Secret::new(redacted_url(expected.database.url.expose()));
    expected.webhook.url = redacted_url(&expected.webhook.url);
    expected.telemetry.otlp_endpoint = redacted_url(&expected.telemetry.otlp_endpoint);
    assert_eq!(
        Settings::load_from(Some(&loaded.to_toml()), NO_VARIABLES, &[]).as_ref(),
        Ok(&expected),
        "{key} = {value}"
    );
}
