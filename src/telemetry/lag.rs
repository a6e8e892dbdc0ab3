//! How far behind each partition is, computed when somebody looks: a sampler that hangs shows as a lag that grows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, IntGaugeVec, Opts, Registry};

use super::define::PREFIX;
use super::unix_seconds;
use crate::core::record::{Offset, Partition};

/// What a sampler saw of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionLag {
    pub partition: Partition,
    /// The next offset the group has to end; where it has none yet, the one it starts from.
    pub committed: Offset,
    /// The offset after the partition's last record.
    pub end: Offset,
    /// When the record at `committed` was first seen to be there; ignored when nothing is behind.
    pub behind_since: Instant,
}

/// The last sample of every partition; those that are assigned are shown. Cheap to clone: all clones are one board.
#[derive(Clone)]
pub struct LagBoard {
    sample: Arc<Mutex<Sample>>,
}

#[derive(Default)]
struct Sample {
    taken_at: Option<SystemTime>,
    assigned: BTreeSet<Partition>,
    partitions: BTreeMap<Partition, PartitionLag>,
}

impl LagBoard {
    pub(super) fn register(registry: &Registry, topic: &str) -> prometheus::Result<Self> {
        let board = Self { sample: Arc::default() };
        let collector = LagCollector::new(board.clone(), topic)?;
        registry.register(Box::new(collector))?;
        Ok(board)
    }

    /// Replaces the sample, of assigned partitions and others alike: partitions that are not in it have no series any more.
    pub fn replace(&self, partitions: impl IntoIterator<Item = PartitionLag>) {
        let partitions = partitions.into_iter().map(|lag| (lag.partition, lag)).collect();
        let mut sample = self.lock();
        sample.taken_at = Some(SystemTime::now());
        sample.partitions = partitions;
    }

    /// Shows the series of partitions that are assigned.
    pub fn show(&self, partitions: &[Partition]) {
        self.lock().assigned.extend(partitions);
    }

    /// Removes the series of partitions that were taken away: they are their next owner's.
    pub fn forget(&self, partitions: &[Partition]) {
        self.lock().assigned.retain(|assigned| !partitions.contains(assigned));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sample> {
        self.sample.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartitionLag {
    fn records(&self) -> i64 {
        self.end.0.saturating_sub(self.committed.0).max(0)
    }

    fn seconds(&self, now: Instant) -> f64 {
        if self.records() == 0 {
            return Duration::ZERO.as_secs_f64();
        }
        now.saturating_duration_since(self.behind_since).as_secs_f64()
    }
}

struct LagCollector {
    board: LagBoard,
    topic: String,
    gauges: Mutex<Gauges>,
    descriptions: Vec<Desc>,
}

/// Written anew at each scrape.
struct Gauges {
    records: IntGaugeVec,
    seconds: GaugeVec,
    committed: IntGaugeVec,
    sampled: Gauge,
}

impl LagCollector {
    fn new(board: LagBoard, topic: &str) -> prometheus::Result<Self> {
        let gauges = Gauges::new()?;
        let descriptions = gauges.collectors().iter().flat_map(|gauge| gauge.desc()).cloned().collect();
        Ok(Self { board, topic: topic.to_owned(), gauges: Mutex::new(gauges), descriptions })
    }
}

impl Gauges {
    fn new() -> prometheus::Result<Self> {
        const LABELS: &[&str] = &["topic", "partition"];
        let opts = |name: &str, help: &str| Opts::new(name, help).namespace(PREFIX);
        Ok(Self {
            records: IntGaugeVec::new(opts("consumer_lag_records", "Records that are not ended yet."), LABELS)?,
            seconds: GaugeVec::new(
                opts(
                    "consumer_lag_seconds",
                    "How long the oldest record that is not ended has been there, at the time of the scrape.",
                ),
                LABELS,
            )?,
            committed: IntGaugeVec::new(
                opts(
                    "consumer_committed_offset",
                    "The committed offset: that of the next record to end; where none is committed, the oldest there is.",
                ),
                LABELS,
            )?,
            sampled: Gauge::with_opts(opts(
                "consumer_lag_sample_timestamp_seconds",
                "When the lag was last sampled; 0 before the first time.",
            ))?,
        })
    }

    fn collectors(&self) -> [&dyn Collector; 4] {
        [&self.records, &self.seconds, &self.committed, &self.sampled]
    }

    fn write(&self, sample: &Sample, topic: &str) {
        self.records.reset();
        self.seconds.reset();
        self.committed.reset();
        if let Some(taken_at) = sample.taken_at {
            self.sampled.set(unix_seconds(taken_at));
        }
        let now = Instant::now();
        for lag in sample.partitions.values().filter(|lag| sample.assigned.contains(&lag.partition)) {
            let partition = lag.partition.to_string();
            let labels = [topic, partition.as_str()];
            self.records.with_label_values(&labels).set(lag.records());
            self.seconds.with_label_values(&labels).set(lag.seconds(now));
            self.committed.with_label_values(&labels).set(lag.committed.0);
        }
    }
}

impl Collector for LagCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Held to the end: of two scrapes at once, neither may see the gauges half written.
        let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.write(&self.board.lock(), &self.topic);
        gauges.collectors().iter().flat_map(|gauge| gauge.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    fn lag(partition: i32, offsets: (i64, i64), seconds_behind: u64) -> PartitionLag {
        PartitionLag {
            partition: Partition(partition),
            committed: Offset(offsets.0),
            end: Offset(offsets.1),
            behind_since: Instant::now().checked_sub(Duration::from_secs(seconds_behind)).unwrap(),
        }
    }

    fn value(registry: &Registry, series: &str) -> Option<f64> {
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let line = text.lines().find(|line| line.starts_with(series))?;
        Some(line.rsplit(' ').next()?.parse().unwrap())
    }

    #[test]
    fn lag_in_seconds_grows_while_nobody_samples() {
        let registry = Registry::new();
        let board = LagBoard::register(&registry, "t").unwrap();
        board.show(&[Partition(0), Partition(1), Partition(2)]);
        board.replace([lag(0, (5, 9), 100), lag(1, (7, 7), 100), lag(2, (8, 7), 1)]);
        let series =
            |name: &str, partition| value(&registry, &format!(r#"herald_{name}{{partition="{partition}",topic="t"}}"#));
        assert_eq!(series("consumer_lag_records", 0), Some(4.0));
        assert_eq!(series("consumer_lag_records", 1), Some(0.0));
        assert_eq!(series("consumer_lag_records", 2), Some(0.0));
        assert_eq!(series("consumer_lag_seconds", 1), Some(0.0));
        assert_eq!(series("consumer_committed_offset", 2), Some(8.0));
        let first = series("consumer_lag_seconds", 0).unwrap();
        let second = series("consumer_lag_seconds", 0).unwrap();
        assert!(second > first && first >= 100.0, "{first} {second}");
    }

    #[test]
    fn a_revoked_partition_has_no_series_any_more() {
        let registry = Registry::new();
        let board = LagBoard::register(&registry, "t").unwrap();
        let behind = |partition| value(&registry, &format!(r#"herald_consumer_lag_records{{partition="{partition}""#));
        let sample = || [lag(0, (0, 3), 0), lag(1, (0, 4), 0), lag(2, (0, 5), 0)];
        board.show(&[Partition(0), Partition(1)]);
        board.replace(sample());
        assert_eq!((behind(0), behind(1), behind(2)), (Some(3.0), Some(4.0), None));
        board.forget(&[Partition(0)]);
        assert_eq!((behind(0), behind(1)), (None, Some(4.0)));
        board.replace(sample());
        assert_eq!((behind(0), behind(1)), (None, Some(4.0)));
        board.show(&[Partition(2)]);
        assert_eq!(behind(2), Some(5.0));
    }
}
