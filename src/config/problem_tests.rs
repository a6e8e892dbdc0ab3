use std::ffi::OsString;

use super::super::samples::sources;
use super::*;
use crate::config::{Purpose, Settings, load};

/// Every problem as it is printed, of a configuration that is to be worked with.
fn problems(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Vec<String> {
    let mut sources = sources(file, environment, flags);
    sources.environment.insert(0, ("DATABASE_URL".to_owned(), "postgres://db/herald".into()));
    match load(&sources, Purpose::Work) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems.iter().map(Problem::to_string).collect(),
    }
}

fn check_file(file: &str, expected: &str) {
    assert_eq!(problems(file, &[], &[]), [expected], "{file}");
}

fn check_variable(name: &str, value: &str, expected: &str) {
    assert_eq!(problems("", &[(name, value)], &[]), [expected], "{name}");
}

#[test]
fn variables_that_kubernetes_makes_for_a_service_called_herald_are_left_alone() {
    let environment = [
        ("HERALD_SERVICE_HOST", "10.0.0.1"),
        ("HERALD_SERVICE_PORT", "9464"),
        ("HERALD_SERVICE_PORT_METRICS", "9464"),
        ("HERALD_PORT", "tcp://10.0.0.1:9464"),
        ("HERALD_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
        ("HERALD_PORT_9464_TCP_PROTO", "tcp"),
        ("HERALD_METRICS_SERVICE_HOST", "10.0.0.2"),
        ("HERALD_CONFIG", "other.toml"),
        ("PATH", "/bin"),
    ];
    assert_eq!(problems("", &environment, &[]), Vec::<String>::new());
}

#[test]
fn a_name_that_nobody_knows_is_told_with_the_nearest_key() {
    check_file(
        "\n[kafka]\ntopik = 'orders'",
        "kafka.topik: is not a key\n  set in   herald.toml:3\n  allowed  did you mean kafka.topic?",
    );
    check_file(
        "topic = 'orders'",
        "topic: is not a key\n  set in   herald.toml:1\n  allowed  did you mean kafka.topic?",
    );
    check_file(
        "[dead_letter]",
        "[dead_letter]: is not a key\n  set in   herald.toml:1\n  allowed  did you mean [dead_letters]?",
    );
    check_file(
        "[webhook]\nmax_attempts = 3",
        "webhook.max_attempts: is not a key\n  set in   herald.toml:2\n  allowed  did you mean retry.max_attempts?",
    );
    check_file(
        "[kafka]\nzzz = 3",
        "kafka.zzz: is not a key\n  set in   herald.toml:2\n  allowed  herald config example shows every key",
    );
    check_variable(
        "HERALD_WEBHOOK_TIMEOUT",
        "10s",
        "HERALD_WEBHOOK_TIMEOUT: is not a key\n  set in   environment, HERALD_WEBHOOK_TIMEOUT\n  allowed  did you mean HERALD_WEBHOOK__TIMEOUT?",
    );
    check_variable(
        "HERALD_PORT",
        "9464",
        "HERALD_PORT: is not a key\n  set in   environment, HERALD_PORT\n  allowed  herald config example shows every key",
    );
    assert_eq!(
        problems("", &[], &[("retry.max_atempts", "3")]),
        ["retry.max_atempts: is not a key\n  set in   flag --set\n  allowed  did you mean retry.max_attempts?"]
    );
}

#[test]
fn a_refused_value_is_told_with_its_origin_and_what_is_allowed() {
    check_variable(
        "HERALD_WEBHOOK__TIMEOUT",
        "10",
        "webhook.timeout: \"10\" is not a duration\n  set in   environment, HERALD_WEBHOOK__TIMEOUT\n  allowed  a number with a unit, 100ms to 5m, for example \"10s\"",
    );
    check_file(
        "[kafka]\n\ntopic = 'a b'",
        "kafka.topic: \"a b\" is not a topic name\n  set in   herald.toml:3\n  allowed  1 to 249 letters, digits, dots, underscores and hyphens",
    );
    check_file(
        "[kafka]\ngroup = 123",
        "kafka.group: 123 is not text\n  set in   herald.toml:2\n  allowed  text of 1 to 249 bytes",
    );
    check_file(
        "[kafka]\nbootstrap_servers = 'a:0'",
        "kafka.bootstrap_servers: \"a:0\" is not a list of brokers\n  set in   herald.toml:2\n  allowed  host:port, comma separated, for example \"localhost:9092\"",
    );
    check_file(
        "[kafka]\nstart_from = 'newest'",
        "kafka.start_from: \"newest\" is not one of the choices\n  set in   herald.toml:2\n  allowed  earliest, latest",
    );
    check_file(
        "[retry]\nmax_attempts = 0",
        "retry.max_attempts: 0 is out of range\n  set in   herald.toml:2\n  allowed  a whole number, 1 to 1000",
    );
    check_file(
        "[database]\nmigrate = 'yes'",
        "database.migrate: \"yes\" is not true or false\n  set in   herald.toml:2\n  allowed  true or false",
    );
    check_file(
        "[limits]\nbytes = '1KiB'",
        "limits.bytes: \"1KiB\" is out of range\n  set in   herald.toml:2\n  allowed  a number with a unit, 1MiB to 64GiB, for example \"64MiB\"",
    );
    check_file(
        "[notification]\nevent_types = ['']",
        "notification.event_types: a list holds something that is not allowed\n  set in   herald.toml:2\n  allowed  a list of one or more texts of 1 to 128 bytes",
    );
    check_file(
        "[http]\naddress = '9464'",
        "http.address: \"9464\" is not an address\n  set in   herald.toml:2\n  allowed  an IP address and a port, for example \"127.0.0.1:9464\"",
    );
    check_file(
        "[telemetry]\nlog_level = 'loud'",
        "telemetry.log_level: \"loud\" is not a log level\n  set in   herald.toml:2\n  allowed  off, error, warn, info, debug, trace, or module=level",
    );
    check_file(
        "[retry.max_attempts]",
        "retry.max_attempts: a table is not a whole number\n  set in   herald.toml:1\n  allowed  a whole number, 1 to 1000",
    );
    check_file(
        "kafka = 3",
        "kafka: 3 is not a table\n  set in   herald.toml:1\n  allowed  areas as [area], keys as key = value",
    );
}

#[test]
fn options_with_a_key_or_a_promise_of_their_own_are_reserved() {
    check_file(
        "[kafka.options]\n'group.id' = 'x'",
        "kafka.options.group.id: is reserved\n  set in   herald.toml:2\n  allowed  set kafka.group instead",
    );
    check_variable(
        "HERALD_KAFKA__OPTIONS__ENABLE_AUTO_COMMIT",
        "false",
        "kafka.options.enable.auto.commit: is reserved\n  set in   environment, HERALD_KAFKA__OPTIONS__ENABLE_AUTO_COMMIT\n  allowed  nothing: offsets are committed only after custody",
    );
    check_file(
        "[kafka.options]\n'' = 'x'",
        "kafka.options.: has no name\n  set in   herald.toml:2\n  allowed  the name of a librdkafka option",
    );
    check_file(
        "[kafka.options]\n'client.rack' = ['x']",
        "kafka.options.client.rack: a list is not text\n  set in   herald.toml:2\n  allowed  text",
    );
}

#[test]
fn keys_that_do_not_go_together_are_told_with_both_values() {
    check_file(
        "[kafka]\nmax_poll_interval = '30s'",
        "delivery.drain_timeout: \"20s\" is not below half of kafka.max_poll_interval\n  set in   default\n  against  kafka.max_poll_interval = \"30s\", herald.toml:2\n  allowed  below \"15s\"",
    );
    check_file(
        "[dead_letters]\ntopic = 'order_events'",
        "dead_letters.topic: \"order_events\" is the topic that is consumed\n  set in   herald.toml:2\n  against  kafka.topic = \"order_events\", default\n  allowed  another topic, for example \"order_events.dlq\"",
    );
    check_file(
        "[retry]\ninitial_backoff = '10m'",
        "retry.initial_backoff: \"10m\" is above retry.max_backoff\n  set in   herald.toml:2\n  against  retry.max_backoff = \"5m\", default\n  allowed  at most \"5m\"",
    );
    check_file(
        "[kafka]\nsession_timeout = '6m'",
        "kafka.session_timeout: \"6m\" is above kafka.max_poll_interval\n  set in   herald.toml:2\n  against  kafka.max_poll_interval = \"5m\", default\n  allowed  at most \"5m\"",
    );
    check_file(
        "[limits]\nrecords = 100",
        "limits.records: 100 is below delivery.max_concurrent\n  set in   herald.toml:2\n  against  delivery.max_concurrent = 256, default\n  allowed  at least 256",
    );
    check_file(
        "[notification]\nchannel = 'webhook'",
        "webhook.url: is required\n  set in   nowhere\n  against  notification.channel = \"webhook\", herald.toml:2\n  allowed  an http:// or https:// URL, for example in HERALD_WEBHOOK__URL",
    );
}

#[test]
fn work_requires_a_database_and_looking_does_not() {
    let sources = sources("", &[], &[]);
    assert!(load(&sources, Purpose::Inspect).is_ok());
    let error = load(&sources, Purpose::Work).unwrap_err();
    assert_eq!(
        error.to_string(),
        "database.url: is required\n  set in   nowhere\n  allowed  postgres://user:password@host:port/database, for example in DATABASE_URL"
    );
}

#[test]
fn all_problems_are_told_at_once_and_a_refused_value_only_once() {
    let file = "[retry]\nmax_backoff = 'soon'\ninitial_backoff = '1h'\nmax_attempts = -1\n[kafka]\nx = 1";
    let told = problems(file, &[("HERALD_HTTP__ADDRESS", "here")], &[("ordering.key", "user")]);
    let subjects: Vec<&str> = told.iter().filter_map(|problem| problem.split(": ").next()).collect();
    assert_eq!(subjects, ["kafka.x", "retry.max_attempts", "retry.max_backoff", "http.address", "ordering.key"]);
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_line_and_none_of_its_text() {
    let told = problems("[database]\nurl = \"postgres://ana:hunter2@db\nmigrate = true", &[], &[]);
    assert!(told[0].starts_with("herald.toml: is not TOML: "), "{}", told[0]);
    assert!(told[0].contains("set in   herald.toml:2"), "{}", told[0]);
    assert!(!told.concat().contains("hunter2"), "{}", told[0]);
}

#[test]
fn no_problem_shows_a_secret() {
    for (key, value) in [
        ("database.url", "postgres://ana:hunter2@db:x/herald"),
        ("database.url", "mysql://ana:hunter2@db/herald"),
        ("database.url", "host=db password=hunter2"),
        ("webhook.url", "ftp://ana:hunter2@gateway"),
        ("webhook.secret", "hunter2\0"),
        ("kafka.options.sasl.password", "hunter2\0"),
    ] {
        let told = problems("", &[], &[(key, value)]);
        assert_eq!(told.len(), 1, "{key}");
        assert!(!told[0].contains("hunter2"), "{}", told[0]);
    }
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_told() {
    use std::os::unix::ffi::OsStringExt;
    let environment = [("HERALD_KAFKA__GROUP", OsString::from_vec(vec![0xff]))];
    let error = Settings::load_from(None, environment, &[]).unwrap_err();
    assert!(error.to_string().starts_with("kafka.group: the value is not UTF-8\n"), "{error}");
}
