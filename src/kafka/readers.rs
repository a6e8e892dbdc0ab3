//! Which consumer groups read a topic: those that have committed offsets on it, and those with members that subscribe to it.
//!
//! The client library lists the groups of a cluster and what their members subscribe to, but only the offsets of its own group:
//! so each group is asked for by a client in its name, which never joins it.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tokio::task::JoinSet;

use super::client;
use super::context::Context;
use super::offsets;
use crate::config::Kafka;
use crate::core::record::Partition;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Clients at the same time.
const AT_ONCE: usize = 8;

/// A consumer group, and what says that it reads the topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reader {
    pub group: String,
    pub reads: Reads,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reads {
    /// It has committed offsets there.
    Committed,
    /// Members subscribe to it, and have not committed yet.
    Subscribed,
    /// A share group, or a group whose offsets may not be read.
    Perhaps,
}

/// The groups that read `kafka.topic`, by name. Groups that may not be described are not told.
pub async fn readers(kafka: &Kafka) -> Result<Vec<Reader>, String> {
    let ended = |error: tokio::task::JoinError| error.to_string();
    let settings = kafka.clone();
    let (groups, partitions) = tokio::task::spawn_blocking(move || groups(&settings)).await.map_err(ended)??;
    let mut found = Vec::new();
    for some in groups.chunks(AT_ONCE) {
        let mut asked = JoinSet::new();
        for group in some {
            let (kafka, group, partitions) = (kafka.clone(), group.clone(), partitions.clone());
            asked.spawn_blocking(move || reader(&kafka, group, &partitions));
        }
        while let Some(answer) = asked.join_next().await {
            found.extend(answer.map_err(ended)?);
        }
    }
    found.sort();
    Ok(found)
}

/// A group of the cluster.
#[derive(Clone, Debug)]
struct Group {
    name: String,
    is_subscribed: bool,
    is_share: bool,
}

/// All groups, and the partitions of the topic. Blocks.
fn groups(kafka: &Kafka) -> Result<(Vec<Group>, Vec<Partition>), String> {
    let consumer = client_of(kafka)?;
    let failed = |error: rdkafka::error::KafkaError| format!("the consumer groups cannot be listed: {error}");
    let metadata = consumer.fetch_metadata(Some(&kafka.topic), TIMEOUT).map_err(failed)?;
    let topics = metadata.topics().iter().filter(|found| found.name() == kafka.topic);
    let partitions = topics.flat_map(|found| found.partitions().iter().map(|partition| Partition(partition.id())));
    let listed = consumer.fetch_group_list(None, TIMEOUT).map_err(failed)?;
    let groups = listed.groups().iter().map(|group| Group {
        name: group.name().to_owned(),
        is_subscribed: group
            .members()
            .iter()
            .filter_map(|member| member.metadata())
            .any(|metadata| subscribes(metadata, &kafka.topic)),
        is_share: group.protocol_type() == "share",
    });
    Ok((groups.collect(), partitions.collect()))
}

/// Blocks.
fn reader(kafka: &Kafka, group: Group, partitions: &[Partition]) -> Option<Reader> {
    let as_group = Kafka { group: group.name.clone(), ..kafka.clone() };
    let committed = client_of(&as_group)
        .and_then(|consumer| offsets::committed(&consumer, &kafka.topic, partitions, TIMEOUT))
        .map(|offsets| offsets.values().any(Option::is_some));
    let reads = match committed {
        Ok(true) => Reads::Committed,
        Ok(false) | Err(_) if group.is_subscribed => Reads::Subscribed,
        Ok(false) if group.is_share => Reads::Perhaps,
        Err(_) => Reads::Perhaps,
        Ok(false) => return None,
    };
    Some(Reader { group: group.name, reads })
}

fn client_of(kafka: &Kafka) -> Result<BaseConsumer<Context>, String> {
    let config = client::reader_config(kafka).map_err(|error| error.to_string())?;
    config.create_with_context(Context::default()).map_err(|error| client::creation_error(error).to_string())
}

/// Whether the metadata of a member, as the consumer protocol has it, names the topic: a version, and the topics by name. Members of
/// other protocols do not read so.
fn subscribes(metadata: &[u8], topic: &str) -> bool {
    let mut rest = metadata.get(2..).unwrap_or_default();
    let Some((count, after)) = rest.split_first_chunk::<4>() else { return false };
    rest = after;
    for _ in 0..i32::from_be_bytes(*count) {
        let Some((length, after)) = rest.split_first_chunk::<2>() else { return false };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((name, after)) = after.split_at_checked(length) else { return false };
        if name == topic.as_bytes() {
            return true;
        }
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_read_for_the_topics_that_it_subscribes_to() {
        let metadata = b"\0\x01\0\0\0\x02\0\x06orders\0\x05order\xff\xff\xff\xff";
        for (topic, expected) in [("orders", true), ("order", true), ("orde", false), ("ers", false)] {
            assert_eq!(subscribes(metadata, topic), expected, "{topic}");
        }
        for end in 0..20 {
            assert!(!subscribes(&metadata[..end], "order"), "cut at {end}");
        }
        assert!(!subscribes(b"\0\x01\xff\xff\xff\xff", "orders"), "a negative count");
    }
}
