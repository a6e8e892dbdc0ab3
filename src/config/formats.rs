//! Texts with a form of their own: topics, brokers, addresses, URLs, log levels.

use std::net::SocketAddr;

use url::Url;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What Kafka accepts as a topic name.
pub(crate) fn is_topic(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&text.len()) && text != "." && text != ".." && text.chars().all(legal)
}

/// `host`, `host:port` or `protocol://host:port`, comma separated.
pub(crate) fn is_brokers(text: &str) -> bool {
    text.split(',').all(|broker| is_broker(broker.trim()))
}

fn is_broker(text: &str) -> bool {
    let address = text.split_once("://").map_or(text, |(_, address)| address);
    let (host, port) = split_port(address);
    let has_host = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
    has_host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Only brackets tell the colons of an IPv6 address from the one before the port.
fn split_port(address: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').unwrap_or_default()) };
        return (host, port);
    }
    match address.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (address, None),
    }
}

pub(crate) fn is_address(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok()
}

/// The parser would take `http:gateway` for `http://gateway`: who wrote that meant something else.
pub(crate) fn is_http_url(text: &str) -> bool {
    text.contains("://") && Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

pub(crate) fn is_postgres_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "postgres" | "postgresql") && !url.cannot_be_a_base())
}

/// A level, or `module=level`, comma separated.
pub(crate) fn is_log_filter(text: &str) -> bool {
    text.split(',').all(|part| match part.trim().split_once('=') {
        None => is_level(part.trim()),
        Some((module, level)) => is_module(module) && is_level(level),
    })
}

fn is_level(text: &str) -> bool {
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text))
}

fn is_module(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    !text.is_empty() && text.chars().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accepts: fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(accepts(text), "{text:?} was refused");
        }
        for text in bad {
            assert!(!accepts(text), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_topic_is_what_kafka_accepts() {
        let longest = "a".repeat(249);
        let too_long = "a".repeat(250);
        check(is_topic, &["order_events", "a.b-C_1", &longest], &["", ".", "..", "a b", "a/b", "ä", &too_long]);
    }

    #[test]
    fn brokers_are_hosts_with_or_without_a_port() {
        check(
            is_brokers,
            &["localhost", "localhost:9092", "a:1, b:65535", "[::1]:9092", "[::1]", "SSL://a:9093"],
            &["", ",", "a:", "a:0", "a:65536", "a:x", ":9092", "a:9092,", "a b:1", "http://a/b", "[::1]9092", "[]:1"],
        );
    }

    #[test]
    fn an_address_is_an_ip_and_a_port() {
        check(
            is_address,
            &["127.0.0.1:9464", "0.0.0.0:0", "[::]:9464"],
            &["", "9464", "localhost:9464", ":9464", "127.0.0.1", "127.0.0.1:99999"],
        );
    }

    #[test]
    fn urls_have_the_scheme_that_is_asked_for() {
        check(
            is_http_url,
            &["http://gateway", "https://gateway:8443/notify?x=1"],
            &["", "gateway", "ftp://gateway", "https://", "http:", "postgres://db"],
        );
        check(
            is_postgres_url,
            &["postgres://ana:pw@db:5432/herald", "postgresql:///herald?host=/run/postgresql", "postgres://db"],
            &["", "db", "mysql://db/herald", "postgres:herald", "host=db user=ana", "postgres://ana:p/w@db/h"],
        );
    }

    #[test]
    fn a_log_filter_is_levels_and_levels_of_modules() {
        check(
            is_log_filter,
            &["info", "WARN", "info,sqlx=warn", "off, herald::kafka=trace"],
            &["", "verbose", "info,", "sqlx=loud", "=info", "a b=info"],
        );
    }
}
