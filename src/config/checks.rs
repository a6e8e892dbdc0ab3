//! Rules between keys, and what cannot be left out.

use super::areas::{ChannelKind, Settings};
use super::units::duration;
use crate::core::decode::SYNTHETIC_EVENT_TYPE;

/// What the settings are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be looked at: the database may be missing.
    Inspect,
    /// To work with: everything that is required has to be there.
    Work,
}

/// A key that does not go with another one, or is missing.
pub(crate) struct Clash {
    pub(crate) key: &'static str,
    /// What is wrong with the value, secrets left out.
    pub(crate) what: String,
    /// The other key, and its value.
    pub(crate) against: Option<(&'static str, String)>,
    pub(crate) allowed: String,
}

pub(crate) fn clashes(settings: &Settings, purpose: Purpose) -> Vec<Clash> {
    [
        database_url(settings, purpose),
        webhook_url(settings),
        event_types(settings),
        dead_letter_topic(settings),
        session_timeout(settings),
        drain_timeout(settings),
        backoff(settings),
        breaker_waits(settings),
        held_records(settings),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn database_url(settings: &Settings, purpose: Purpose) -> Option<Clash> {
    let is_missing = settings.database.url.expose().is_empty();
    (is_missing && purpose == Purpose::Work).then(|| Clash {
        key: "database.url",
        what: "is required".to_owned(),
        against: None,
        allowed: "postgres://user:password@host:port/database, for example in DATABASE_URL".to_owned(),
    })
}

fn webhook_url(settings: &Settings) -> Option<Clash> {
    let is_used = settings.notification.channel == ChannelKind::Webhook;
    (is_used && settings.webhook.url.is_empty()).then(|| Clash {
        key: "webhook.url",
        what: "is required".to_owned(),
        against: Some(("notification.channel", "\"webhook\"".to_owned())),
        allowed: "an http:// or https:// URL, for example in HERALD_WEBHOOK__URL".to_owned(),
    })
}

fn event_types(settings: &Settings) -> Option<Clash> {
    settings.notification.event_types.iter().any(|name| name == SYNTHETIC_EVENT_TYPE).then(|| Clash {
        key: "notification.event_types",
        what: format!("{SYNTHETIC_EVENT_TYPE:?} is what dead letters that are no events are called"),
        against: None,
        allowed: "any other event type".to_owned(),
    })
}

fn dead_letter_topic(settings: &Settings) -> Option<Clash> {
    let (topic, source) = (&settings.dead_letters.topic, &settings.kafka.topic);
    (topic == source).then(|| Clash {
        key: "dead_letters.topic",
        what: format!("{topic:?} is the topic that is consumed"),
        against: Some(("kafka.topic", format!("{source:?}"))),
        allowed: format!("another topic, for example \"{source}.dlq\""),
    })
}

/// librdkafka refuses it with a message that names neither key of ours.
fn session_timeout(settings: &Settings) -> Option<Clash> {
    let (session, poll) = (settings.kafka.session_timeout, settings.kafka.max_poll_interval);
    (session > poll).then(|| Clash {
        key: "kafka.session_timeout",
        what: format!("\"{}\" is above kafka.max_poll_interval", duration::render(session)),
        against: Some(("kafka.max_poll_interval", format!("\"{}\"", duration::render(poll)))),
        allowed: format!("at most \"{}\"", duration::render(poll)),
    })
}

/// Another member that joins while this one drains would have it evicted.
fn drain_timeout(settings: &Settings) -> Option<Clash> {
    let (drain, poll) = (settings.delivery.drain_timeout, settings.kafka.max_poll_interval);
    let half = poll / 2;
    (drain >= half).then(|| Clash {
        key: "delivery.drain_timeout",
        what: format!("\"{}\" is not below half of kafka.max_poll_interval", duration::render(drain)),
        against: Some(("kafka.max_poll_interval", format!("\"{}\"", duration::render(poll)))),
        allowed: format!("below \"{}\"", duration::render(half)),
    })
}

fn backoff(settings: &Settings) -> Option<Clash> {
    let (initial, max) = (settings.retry.initial_backoff, settings.retry.max_backoff);
    (initial > max).then(|| Clash {
        key: "retry.initial_backoff",
        what: format!("\"{}\" is above retry.max_backoff", duration::render(initial)),
        against: Some(("retry.max_backoff", format!("\"{}\"", duration::render(max)))),
        allowed: format!("at most \"{}\"", duration::render(max)),
    })
}

fn breaker_waits(settings: &Settings) -> Option<Clash> {
    let (initial, max) = (settings.breaker.initial_wait, settings.breaker.max_wait);
    (initial > max).then(|| Clash {
        key: "breaker.initial_wait",
        what: format!("\"{}\" is above breaker.max_wait", duration::render(initial)),
        against: Some(("breaker.max_wait", format!("\"{}\"", duration::render(max)))),
        allowed: format!("at most \"{}\"", duration::render(max)),
    })
}

fn held_records(settings: &Settings) -> Option<Clash> {
    let (records, concurrent) = (settings.limits.records, settings.delivery.max_concurrent);
    (records < concurrent).then(|| Clash {
        key: "limits.records",
        what: format!("{records} is below delivery.max_concurrent"),
        against: Some(("delivery.max_concurrent", concurrent.to_string())),
        allowed: format!("at least {concurrent}"),
    })
}
