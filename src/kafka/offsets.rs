//! Where a partition begins: committed offsets, watermarks, and the decision between them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::topic_partition_list::{Offset as NativeOffset, TopicPartitionList};

use super::context::list;
use crate::config::StartFrom;
use crate::core::record::{Offset, Partition};

/// The first offset that can be read, and the one that the next record will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watermarks {
    pub(super) low: Offset,
    pub(super) high: Offset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// At the committed offset.
    Committed(Offset),
    /// Nothing is committed.
    First(Offset),
    /// Retention removed `count` offsets before they were read: the first that is left is `at`.
    Lost { at: Offset, count: u64 },
    /// The committed offset is past the end, or of a topic that was deleted: it was created again, or truncated. Everything that is there
    /// is read, since the ledger ends what was settled before, while skipping would lose the rest.
    Rewound(Offset),
}

impl Start {
    pub(super) fn offset(self) -> Offset {
        match self {
            Self::Committed(offset) | Self::First(offset) | Self::Lost { at: offset, .. } | Self::Rewound(offset) => {
                offset
            }
        }
    }
}

pub(super) fn decide(committed: Option<Offset>, marks: Watermarks, from: StartFrom) -> Start {
    let Some(committed) = committed else {
        return Start::First(match from {
            StartFrom::Earliest => marks.low,
            StartFrom::Latest => marks.high,
        });
    };
    if committed < marks.low {
        return Start::Lost { at: marks.low, count: committed.0.abs_diff(marks.low.0) };
    }
    if committed > marks.high {
        return Start::Rewound(marks.low);
    }
    Start::Committed(committed)
}

/// The committed offsets of the client's group; `None` where there is none. Blocks for up to `timeout`.
pub(super) fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[Partition],
    timeout: Duration,
) -> Result<BTreeMap<Partition, Option<Offset>>, String> {
    let read = consumer
        .committed_offsets(list(topic, partitions.iter().copied()), timeout)
        .map_err(|error| error.to_string())?;
    let mut committed = BTreeMap::new();
    for element in read.elements() {
        element.error().map_err(|error| error.to_string())?;
        let offset = match element.offset() {
            NativeOffset::Offset(offset) => Some(Offset(offset)),
            _ => None,
        };
        committed.insert(Partition(element.partition()), offset);
    }
    Ok(committed)
}

/// The watermarks of as many of the partitions as answer within about `timeout`, one request per leader.
///
/// Partitions without a leader are left out of the answer; their leaders are looked for, for who asks again. Where none has one, or one
/// leader does not answer, the common request fails, and each partition is asked for alone. By itself librdkafka looks for no leader that
/// was gone when it last heard of it, and for none whose broker was, before `topic.metadata.refresh.interval.ms` is over: five minutes.
pub(super) fn watermarks<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[Partition],
    timeout: Duration,
) -> (BTreeMap<Partition, Watermarks>, Option<String>) {
    let deadline = Instant::now() + timeout;
    // The answer is what librdkafka knows from then on.
    let look_for_leaders = || drop(consumer.fetch_metadata(Some(topic), timeout / 4));
    let error = match both_ends(consumer, topic, partitions, timeout / 2) {
        Ok(marks) if marks.len() == partitions.len() => return (marks, None),
        Ok(marks) => {
            look_for_leaders();
            return (marks, Some("a partition has no leader".to_owned()));
        }
        Err(error) => error,
    };
    look_for_leaders();
    let mut marks = BTreeMap::new();
    for partition in partitions {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let one = both_ends(consumer, topic, &[*partition], left / 4);
        marks.extend(one.unwrap_or_default());
    }
    let is_missing_one = marks.len() < partitions.len();
    (marks, is_missing_one.then_some(error))
}

fn both_ends<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[Partition],
    timeout: Duration,
) -> Result<BTreeMap<Partition, Watermarks>, String> {
    let ends = |end| ends(consumer, topic, partitions, end, timeout);
    let lows = ends(NativeOffset::Beginning)?;
    let highs = ends(NativeOffset::End)?;
    Ok(lows
        .into_iter()
        .filter_map(|(partition, low)| {
            let high = *highs.get(&partition)?;
            Some((partition, Watermarks { low, high }))
        })
        .collect())
}

/// ListOffsets for one end. `offsets_for_times` passes the two logical offsets through as the timestamps that the protocol
/// defines for them (-2 earliest, -1 latest), and asks each leader once, where `fetch_watermarks` would ask once per partition.
fn ends<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[Partition],
    end: NativeOffset,
    timeout: Duration,
) -> Result<BTreeMap<Partition, Offset>, String> {
    let mut asked: TopicPartitionList = list(topic, partitions.iter().copied());
    asked.set_all_offsets(end).map_err(|error| error.to_string())?;
    let answered = consumer.offsets_for_times(asked, timeout).map_err(|error| error.to_string())?;
    let mut ends = BTreeMap::new();
    for element in answered.elements() {
        if let (Ok(()), NativeOffset::Offset(offset)) = (element.error(), element.offset()) {
            ends.insert(Partition(element.partition()), Offset(offset));
        }
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;

    use super::*;

    #[test]
    fn a_leader_that_was_gone_when_it_was_last_heard_of_is_found_again() {
        const TIMEOUT: Duration = Duration::from_secs(5);
        let cluster = MockCluster::new(2).unwrap();
        cluster.create_topic("orders", 2, 1).unwrap();
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("group.id", "one")
            .create()
            .unwrap();
        let watermarks = || watermarks(&consumer, "orders", &[Partition(0), Partition(1)], TIMEOUT);
        for leaderless in [vec![0, 1], vec![0]] {
            for partition in &leaderless {
                cluster.partition_leader("orders", *partition, None).unwrap();
            }
            consumer.fetch_metadata(Some("orders"), TIMEOUT).unwrap();
            let (marks, error) = watermarks();
            assert_eq!((marks.len(), error.is_some()), (2 - leaderless.len(), true), "{marks:?} {error:?}");

            for partition in &leaderless {
                cluster.partition_leader("orders", *partition, Some(2)).unwrap();
            }
            if leaderless.len() == 1 {
                assert_eq!(watermarks().0.len(), 1, "the leader is looked for now");
            }
            let empty = Watermarks { low: Offset(0), high: Offset(0) };
            assert_eq!(watermarks(), (BTreeMap::from([(Partition(0), empty), (Partition(1), empty)]), None));
        }
    }

    #[test]
    fn a_start_is_the_committed_offset_unless_it_is_not_there() {
        let marks = Watermarks { low: Offset(100), high: Offset(200) };
        let cases = [
            (None, StartFrom::Earliest, Start::First(Offset(100))),
            (None, StartFrom::Latest, Start::First(Offset(200))),
            (Some(Offset(100)), StartFrom::Latest, Start::Committed(Offset(100))),
            (Some(Offset(200)), StartFrom::Earliest, Start::Committed(Offset(200))),
            (Some(Offset(40)), StartFrom::Latest, Start::Lost { at: Offset(100), count: 60 }),
            (Some(Offset(201)), StartFrom::Latest, Start::Rewound(Offset(100))),
        ];
        for (committed, from, expected) in cases {
            assert_eq!(decide(committed, marks, from), expected, "{committed:?} {from:?}");
        }
    }
}
