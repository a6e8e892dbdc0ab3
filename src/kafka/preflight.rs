//! What `herald check` and a start look at: the brokers, the source topic, the group, the dead-letter topic.

use std::time::Duration;

use rdkafka::admin::{ConfigResource, OwnedResourceSpecifier};

use super::dead_letters;
use super::topics::{self, Cluster, Connection, Presence, Unreachable};
use crate::config::{Kafka, Settings, duration};
use crate::preflight::{Finding, Retention};

/// Kafka's own default. The probe is never smaller: a smaller limit may be lifted before the probe arrives, which would then stay.
const USUAL_LIMIT: usize = 1_048_588;
/// Kafka's own default of `segment.ms`.
const USUAL_SEGMENT: Duration = Duration::from_hours(7 * 24);
/// Larger limits are not tried out: the record for it would be as large.
const LARGEST_PROBE: usize = 16 << 20;

#[derive(Clone, Debug, Default)]
pub struct Preflight {
    pub findings: Vec<Finding>,
    /// `None` when it is missing or cannot be asked.
    pub source: Option<TopicFacts>,
    pub dead_letters: Option<TopicFacts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFacts {
    pub partitions: i32,
    pub retention: Retention,
    /// Compaction removes records that were not read yet.
    pub compacted: bool,
    pub max_message_bytes: Option<usize>,
}

/// Looks at everything and changes nothing. Takes a second when all is well, up to a minute when brokers do not answer.
pub async fn inspect(settings: &Settings) -> Preflight {
    let mut preflight = Preflight::default();
    match look(settings).await {
        Ok(view) => {
            preflight.findings.push(brokers(&view.cluster));
            source_topic(settings, &view, &mut preflight);
            preflight.findings.extend(group(settings, &view));
            dead_letter_topic(settings, &view, &mut preflight).await;
        }
        Err(unreachable) => preflight.findings.push(no_brokers(settings, &unreachable)),
    }
    preflight
}

/// Creates the dead-letter topic like the source topic: as many partitions, the brokers' replication factor. No error if it exists.
pub async fn create_dead_letter_topic(settings: &Settings, partitions: i32) -> Result<(), String> {
    topics::create(&settings.kafka, &settings.dead_letters.topic, partitions).await
}

/// How long the source topic keeps its records: it may be changed at any time. `None` when the brokers do not tell.
pub async fn retention(kafka: &Kafka) -> Option<Retention> {
    let described = topics::settings(kafka, &[&kafka.topic]).await.ok()?;
    Some(topic_retention(described.first()?))
}

struct View {
    cluster: Cluster,
    source: Result<Presence, String>,
    dead_letters: Result<Presence, String>,
    group: Result<(), String>,
    /// Empty when the brokers do not tell.
    settings: Vec<ConfigResource>,
}

async fn look(settings: &Settings) -> Result<View, Unreachable> {
    let kafka = settings.kafka.clone();
    let dead_letters = settings.dead_letters.topic.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let (connection, cluster) = Connection::open(&kafka)?;
        Ok(View {
            cluster,
            source: connection.presence(&kafka.topic),
            dead_letters: connection.presence(&dead_letters),
            group: connection.read_group(&kafka.topic),
            settings: Vec::new(),
        })
    });
    let mut view =
        looked.await.unwrap_or_else(|error| Err(Unreachable { class: "other", reason: error.to_string() }))?;
    let topics = [settings.kafka.topic.as_str(), settings.dead_letters.topic.as_str()];
    view.settings = topics::settings(&settings.kafka, &topics).await.unwrap_or_default();
    Ok(view)
}

fn brokers(cluster: &Cluster) -> Finding {
    let noun = if cluster.brokers == 1 { "broker" } else { "brokers" };
    Finding::ok("kafka", format!("{} {noun} at {}", cluster.brokers, cluster.address))
}

fn no_brokers(settings: &Settings, unreachable: &Unreachable) -> Finding {
    let servers = &settings.kafka.bootstrap_servers;
    let remedies = match unreachable.class {
        "options" => vec!["correct kafka.options".to_owned()],
        "authentication" => vec![
            "check in kafka.options: security.protocol, sasl.mechanism, sasl.username, sasl.password".to_owned(),
            "check in kafka.options: ssl.ca.location, ssl.certificate.location, ssl.key.location".to_owned(),
        ],
        _ => vec![
            format!("set kafka.bootstrap_servers to a broker that answers, it is {servers}"),
            "when brokers want TLS or SASL: set security.protocol in kafka.options".to_owned(),
        ],
    };
    Finding::problem("kafka", format!("{servers} cannot be used: {}", unreachable.reason), remedies)
}

fn source_topic(settings: &Settings, view: &View, preflight: &mut Preflight) {
    const AREA: &str = "topic";
    let topic = &settings.kafka.topic;
    let partitions = match presence(AREA, topic, &view.source) {
        Ok(present) => present,
        Err(Absent::Problem(finding)) => return preflight.findings.push(finding),
        Err(Absent::Missing) => {
            return preflight.findings.push(Finding::problem(
                AREA,
                format!("{topic} does not exist"),
                vec![
                    "set kafka.topic to the topic that the order service writes".to_owned(),
                    format!("or create it: {}", create_command(topic, 12)),
                ],
            ));
        }
    };
    let facts = facts(view, topic, partitions);
    preflight.findings.push(if facts.compacted {
        Finding::problem(
            AREA,
            format!("{topic} is compacted: records would vanish before they are notified"),
            vec![format!(
                "kafka-configs --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy=delete"
            )],
        )
    } else {
        Finding::ok(AREA, described(topic, &facts))
    });
    preflight.source = Some(facts);
}

fn group(settings: &Settings, view: &View) -> Option<Finding> {
    let group = &settings.kafka.group;
    let error = view.group.as_ref().err()?;
    Some(Finding::problem(
        "group",
        format!("the offsets of {group} cannot be read: {error}"),
        vec![format!("when ACLs are on: kafka-acls --add --allow-principal … --operation Read --group {group}")],
    ))
}

async fn dead_letter_topic(settings: &Settings, view: &View, preflight: &mut Preflight) {
    const AREA: &str = "dead letter";
    let topic = &settings.dead_letters.topic;
    if *topic == settings.kafka.topic {
        return preflight.findings.push(Finding::problem(
            AREA,
            format!("{topic} is the source topic too: each dead letter would be read again"),
            vec![format!("set dead_letters.topic = \"{topic}.dlq\"")],
        ));
    }
    let partitions = match presence(AREA, topic, &view.dead_letters) {
        Ok(present) => present,
        Err(Absent::Problem(finding)) => return preflight.findings.push(finding),
        Err(Absent::Missing) => {
            let source = preflight.source.as_ref();
            let finding = no_dead_letter_topic(settings, source.map_or(1, |of| of.partitions));
            return preflight.findings.push(finding);
        }
    };
    let facts = facts(view, topic, partitions);
    preflight.findings.push(writable(settings, AREA, topic, &facts).await);
    preflight.dead_letters = Some(facts);
}

fn no_dead_letter_topic(settings: &Settings, partitions: i32) -> Finding {
    const AREA: &str = "dead letter";
    let topic = &settings.dead_letters.topic;
    if settings.dead_letters.create_topic {
        return Finding::ok(AREA, format!("{topic} does not exist: a start creates it with {partitions} partitions"));
    }
    Finding::problem(
        AREA,
        format!("{topic} does not exist"),
        vec![
            format!("create it: {}", create_command(topic, partitions)),
            "or set dead_letters.create_topic = true".to_owned(),
        ],
    )
}

async fn writable(settings: &Settings, area: &'static str, topic: &str, facts: &TopicFacts) -> Finding {
    let described = described(topic, facts);
    let Some(limit) = facts.max_message_bytes.and_then(probed_limit) else {
        return Finding::ok(area, format!("{described}; writing was not tried"));
    };
    match dead_letters::probe(settings, limit).await {
        Ok(()) => Finding::ok(area, format!("{described}, writable")),
        Err(error) => Finding::problem(
            area,
            format!("{topic} cannot be written: {error}"),
            vec![
                format!("when ACLs are on: kafka-acls --add --allow-principal … --operation Write --topic {topic}"),
                "when replicas are down: min.insync.replicas of them must be in sync".to_owned(),
            ],
        ),
    }
}

/// What the probe has to be above; nothing where that is too much.
fn probed_limit(limit: usize) -> Option<usize> {
    (limit <= LARGEST_PROBE).then_some(limit.max(USUAL_LIMIT))
}

enum Absent {
    Missing,
    Problem(Finding),
}

fn presence(area: &'static str, topic: &str, presence: &Result<Presence, String>) -> Result<i32, Absent> {
    let refusal = match presence {
        Ok(Presence::Present { partitions }) => return Ok(*partitions),
        Ok(Presence::Missing) => return Err(Absent::Missing),
        Ok(Presence::Refused(error)) | Err(error) => error,
    };
    Err(Absent::Problem(Finding::problem(
        area,
        format!("{topic} cannot be asked about: {refusal}"),
        vec![format!("when ACLs are on: kafka-acls --add --allow-principal … --operation Read --topic {topic}")],
    )))
}

fn facts(view: &View, topic: &str, partitions: i32) -> TopicFacts {
    let described = view.settings.iter().find(|described| is_topic(described, topic));
    let value = |name: &str| described.and_then(|described| described.get(name)?.value.clone());
    let policy = value("cleanup.policy").unwrap_or_default();
    TopicFacts {
        partitions,
        retention: described.map_or(Retention::Unknown, topic_retention),
        compacted: policy.split(',').any(|part| part.trim() == "compact"),
        max_message_bytes: value("max.message.bytes").and_then(|bytes| bytes.parse().ok()),
    }
}

fn is_topic(described: &ConfigResource, topic: &str) -> bool {
    matches!(&described.specifier, OwnedResourceSpecifier::Topic(name) if name == topic)
}

fn topic_retention(described: &ConfigResource) -> Retention {
    let value = |name: &str| described.get(name).and_then(|entry| entry.value.as_deref());
    let segment =
        value("segment.ms").and_then(|millis| millis.parse().ok()).map_or(USUAL_SEGMENT, Duration::from_millis);
    retention_of(value("retention.ms"), segment, value("cleanup.policy").unwrap_or_default())
}

/// Negative means for ever; without the policy `delete` the time has no effect.
fn retention_of(millis: Option<&str>, segment: Duration, policy: &str) -> Retention {
    let Some(millis) = millis.and_then(|text| text.parse::<i64>().ok()) else {
        return Retention::Unknown;
    };
    match u64::try_from(millis) {
        Ok(millis) if policy.contains("delete") => {
            let least = Duration::from_millis(millis);
            Retention::Between { least, most: least.saturating_add(segment) }
        }
        _ => Retention::Forever,
    }
}

fn described(topic: &str, facts: &TopicFacts) -> String {
    let retention = match facts.retention {
        Retention::Forever => "kept for ever".to_owned(),
        Retention::Between { least, .. } => format!("retention {}", duration::render(least)),
        Retention::Unknown => "retention unknown".to_owned(),
    };
    let noun = if facts.partitions == 1 { "partition" } else { "partitions" };
    format!("{topic}: {} {noun}, {retention}", facts.partitions)
}

fn create_command(topic: &str, partitions: i32) -> String {
    format!("kafka-topics --create --topic {topic} --partitions {partitions}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_what_the_broker_would_remove() {
        let week = Duration::from_hours(168);
        let week_and_a_second = Retention::Between { least: week, most: week + Duration::from_secs(1) };
        let cases = [
            (Some("604800000"), "delete", week_and_a_second),
            (Some("-1"), "delete", Retention::Forever),
            (Some("604800000"), "compact", Retention::Forever),
            (Some("604800000"), "compact,delete", week_and_a_second),
            (None, "delete", Retention::Unknown),
            (Some("soon"), "delete", Retention::Unknown),
        ];
        for (millis, policy, expected) in cases {
            assert_eq!(retention_of(millis, Duration::from_secs(1), policy), expected, "{millis:?} {policy}");
        }
    }

    #[test]
    fn a_probe_stays_above_the_usual_limit_though_the_topic_has_a_smaller_one() {
        for (limit, expected) in [
            (200, Some(USUAL_LIMIT)),
            (USUAL_LIMIT, Some(USUAL_LIMIT)),
            (LARGEST_PROBE, Some(LARGEST_PROBE)),
            (LARGEST_PROBE + 1, None),
        ] {
            assert_eq!(probed_limit(limit), expected, "{limit}");
        }
    }

    #[test]
    fn a_topic_is_described_in_one_line() {
        let facts = TopicFacts {
            partitions: 12,
            retention: Retention::Between { least: Duration::from_hours(168), most: Duration::from_hours(336) },
            compacted: false,
            max_message_bytes: None,
        };
        assert_eq!(described("order_events", &facts), "order_events: 12 partitions, retention 7d");
    }
}
