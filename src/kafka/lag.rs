//! How far the group is behind, read by a client of its own.
//!
//! librdkafka's own lag freezes while a partition is paused and is -1 before the first commit, so the offsets are asked for: one
//! ListOffsets per leader and one OffsetFetch, on one thread that blocks so that nothing else does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::oneshot;

use super::client::{self, ClientError};
use super::context::Context;
use super::offsets;
use crate::config::Settings;
use crate::core::input::Holder;
use crate::core::record::{Coordinates, Offset, Partition};

const BROKER_TIMEOUT: Duration = Duration::from_secs(5);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Ends remembered per partition; at one sample in 5 s they say the lag to the second for 20 minutes, coarser further back.
const MAX_ENDS: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LagSample {
    pub partition: Partition,
    /// `None` before the first commit.
    pub committed: Option<Offset>,
    pub end: Offset,
    pub low: Offset,
}

impl LagSample {
    /// From where on nothing has ended: the commit, as far as what is there can still be read.
    pub fn next(&self) -> Offset {
        self.committed.unwrap_or(self.low).max(self.low)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LagError {
    #[error("offsets cannot be read: {0}")]
    Unavailable(String),
    #[error("the thread that reads offsets has ended")]
    Ended,
}

/// The handle of the thread; dropping it ends the thread.
#[derive(Debug)]
pub struct LagReader {
    questions: Sender<Question>,
}

enum Question {
    Sample(oneshot::Sender<Result<Vec<LagSample>, LagError>>),
    IsAbandoned(Holder, oneshot::Sender<Result<bool, LagError>>),
}

impl LagReader {
    pub fn start(settings: &Settings) -> Result<Self, ClientError> {
        let consumer = client::reader_config(&settings.kafka)?
            .create_with_context(Context::default())
            .map_err(client::creation_error)?;
        let reader = Reader { consumer, topic: settings.kafka.topic.clone() };
        let (questions, receiver) = channel();
        std::thread::Builder::new()
            .name("kafka-lag".to_owned())
            .spawn(move || reader.serve(&receiver))
            .map_err(|error| ClientError::Creation(error.to_string()))?;
        Ok(Self { questions })
    }

    /// All partitions of the source topic that could be read. Answers within about 15 s.
    pub async fn sample(&self) -> Result<Vec<LagSample>, LagError> {
        let (sender, answer) = oneshot::channel();
        self.ask(Question::Sample(sender), answer).await
    }

    /// Whether nobody will ever go on with the claim of this holder: our group committed past it, the topic ends before it, or its
    /// partition does not exist.
    pub async fn is_abandoned(&self, holder: &Holder) -> Result<bool, LagError> {
        let (sender, answer) = oneshot::channel();
        self.ask(Question::IsAbandoned(holder.clone(), sender), answer).await
    }

    async fn ask<T>(&self, question: Question, answer: oneshot::Receiver<Result<T, LagError>>) -> Result<T, LagError> {
        self.questions.send(question).map_err(|_| LagError::Ended)?;
        answer.await.map_err(|_| LagError::Ended)?
    }
}

struct Reader {
    consumer: BaseConsumer<Context>,
    topic: String,
}

impl Reader {
    fn serve(self, questions: &Receiver<Question>) {
        while let Ok(question) = questions.recv() {
            // A dropped receiver does not want its answer any more.
            match question {
                Question::Sample(answer) => drop(answer.send(self.sample())),
                Question::IsAbandoned(holder, answer) => drop(answer.send(self.is_abandoned(&holder))),
            }
            self.serve_events();
        }
    }

    /// Errors and log lines gather until they are polled.
    fn serve_events(&self) {
        while self.consumer.poll(Duration::ZERO).is_some() {}
        drop(self.consumer.context().take());
    }

    fn sample(&self) -> Result<Vec<LagSample>, LagError> {
        let partitions = match self.partitions(&self.topic)? {
            Some(count) => (0..count).map(Partition).collect::<Vec<_>>(),
            None => return Ok(Vec::new()),
        };
        let committed = offsets::committed(&self.consumer, &self.topic, &partitions, BROKER_TIMEOUT)
            .map_err(LagError::Unavailable)?;
        let (marks, error) = offsets::watermarks(&self.consumer, &self.topic, &partitions, BROKER_TIMEOUT);
        if let (true, Some(error)) = (marks.is_empty(), error) {
            return Err(LagError::Unavailable(error));
        }
        let samples = marks.into_iter().map(|(partition, marks)| LagSample {
            partition,
            committed: committed.get(&partition).copied().flatten(),
            end: marks.high,
            low: marks.low,
        });
        Ok(samples.collect())
    }

    fn is_abandoned(&self, holder: &Holder) -> Result<bool, LagError> {
        let Coordinates { partition, offset } = holder.coordinates;
        let topic = &*holder.topic;
        if !self.exists(topic, partition)? {
            // A claim is taken from whoever is gone, so one broker's answer is not enough.
            std::thread::sleep(LOOK_AGAIN_AFTER);
            if !self.exists(topic, partition)? {
                return Ok(true);
            }
        }
        let committed =
            offsets::committed(&self.consumer, topic, &[partition], BROKER_TIMEOUT).map_err(LagError::Unavailable)?;
        if committed.get(&partition).copied().flatten().is_some_and(|committed| offset < committed) {
            return Ok(true);
        }
        let (marks, error) = offsets::watermarks(&self.consumer, topic, &[partition], BROKER_TIMEOUT);
        let Some(marks) = marks.get(&partition) else {
            return Err(LagError::Unavailable(error.unwrap_or_else(|| "no watermarks".to_owned())));
        };
        Ok(offset >= marks.high)
    }

    fn exists(&self, topic: &str, partition: Partition) -> Result<bool, LagError> {
        let count = self.partitions(topic)?;
        Ok(count.is_some_and(|count| (0..count).contains(&partition.0)))
    }

    /// `None`: there is no such topic.
    fn partitions(&self, topic: &str) -> Result<Option<i32>, LagError> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(topic), BROKER_TIMEOUT)
            .map_err(|error| LagError::Unavailable(error.to_string()))?;
        let Some(found) = metadata.topics().iter().find(|one| one.name() == topic) else {
            return Err(LagError::Unavailable("no metadata of the topic".to_owned()));
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => Ok(i32::try_from(found.partitions().len()).ok()),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            Some(error) => Err(LagError::Unavailable(error.to_string())),
        }
    }
}

/// Turns samples into seconds: how long the oldest uncommitted record has been there.
///
/// Reading that record for its timestamp would cost a fetch per partition and sample, and a producer's clock is not ours. Instead it
/// is remembered when each end offset was first seen: a record below an end was there by then. So the answer is at most one
/// sampling interval too young, and for a backlog that is older than this process it counts from the first sample. It is computed
/// when it is asked for, so that it grows though nothing samples any more.
#[derive(Debug, Default)]
pub struct LagClock {
    partitions: BTreeMap<Partition, Ends>,
}

#[derive(Debug, Default)]
struct Ends {
    /// Growing offsets with the time at which each was first seen as the end.
    seen: VecDeque<(Offset, Instant)>,
}

impl LagClock {
    pub fn observe(&mut self, now: Instant, samples: &[LagSample]) {
        for sample in samples {
            let committed = sample.committed.unwrap_or(sample.low).max(sample.low);
            let ends = self.partitions.entry(sample.partition);
            ends.or_default().observe(now, committed, sample.end);
        }
    }

    /// Zero when nothing is uncommitted.
    pub fn lag(&self, now: Instant, partition: Partition) -> Option<Duration> {
        let ends = self.partitions.get(&partition)?;
        let oldest = ends.seen.front().map(|(_, at)| *at);
        Some(oldest.map_or(Duration::ZERO, |at| now.saturating_duration_since(at)))
    }
}

impl Ends {
    fn observe(&mut self, now: Instant, committed: Offset, end: Offset) {
        if self.seen.back().is_some_and(|(last, _)| end < *last) {
            // The topic was recreated.
            self.seen.clear();
        }
        while self.seen.front().is_some_and(|(end, _)| *end <= committed) {
            self.seen.pop_front();
        }
        let grown = self.seen.back().is_none_or(|(last, _)| end > *last);
        if grown && end > committed {
            self.seen.push_back((end, now));
        }
        if self.seen.len() > MAX_ENDS {
            self.thin_out();
        }
    }

    /// Forgets every second end but the first: ages between them come out too young, never too old.
    fn thin_out(&mut self) {
        let mut index = 0;
        self.seen.retain(|_| {
            index += 1;
            index % 2 == 1
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Partition = Partition(0);

    fn sample(committed: impl Into<Option<i64>>, end: i64) -> LagSample {
        LagSample { partition: P, committed: committed.into().map(Offset), end: Offset(end), low: Offset(0) }
    }

    #[test]
    fn the_lag_counts_from_what_can_still_be_read() {
        for (committed, low, expected) in [(Some(4), 0, 4), (None, 3, 3), (Some(4), 8, 8), (Some(12), 0, 12)] {
            let sample = LagSample { low: Offset(low), ..sample(committed, 10) };
            assert_eq!(sample.next(), Offset(expected), "{sample:?}");
        }
    }

    #[test]
    fn the_lag_in_seconds_is_the_age_of_the_oldest_uncommitted_record() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut clock = LagClock::default();
        let mut step = |second: u64, committed: i64, end: i64| {
            clock.observe(at(second), &[sample(committed, end)]);
            clock.lag(at(second), P).map(|lag| lag.as_secs())
        };
        assert_eq!(step(0, 5, 5), Some(0));
        assert_eq!(step(10, 5, 8), Some(0));
        assert_eq!(step(20, 5, 8), Some(10));
        assert_eq!(step(30, 6, 20), Some(20));
        assert_eq!(step(40, 8, 20), Some(10));
        assert_eq!(step(50, 20, 20), Some(0));
        assert_eq!(clock.lag(at(60), Partition(1)), None);
    }

    #[test]
    fn the_lag_in_seconds_grows_while_nothing_samples() {
        let start = Instant::now();
        let mut clock = LagClock::default();
        clock.observe(start, &[sample(0, 1)]);
        let later = start + Duration::from_hours(1);
        assert_eq!(clock.lag(later, P), Some(Duration::from_hours(1)));
    }

    #[test]
    fn a_recreated_topic_begins_anew() {
        let start = Instant::now();
        let mut clock = LagClock::default();
        clock.observe(start, &[sample(0, 100)]);
        let later = start + Duration::from_mins(1);
        clock.observe(later, &[sample(None, 3)]);
        assert_eq!(clock.lag(later, P), Some(Duration::ZERO));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_end_is_kept() {
        let start = Instant::now();
        let mut clock = LagClock::default();
        let mut now = start;
        for end in 1..10_000 {
            now = start + Duration::from_secs(u64::try_from(end).expect("positive"));
            clock.observe(now, &[sample(0, end)]);
        }
        assert!(clock.partitions[&P].seen.len() <= MAX_ENDS);
        assert_eq!(clock.lag(now, P), Some(Duration::from_secs(9_998)));
    }
}
