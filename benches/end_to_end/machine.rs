//! What a number was measured on: without that it says nothing.

use std::fs;

use serde::Serialize;

use crate::ledger::Facts;
use crate::support::kafka;

#[derive(Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub memory_gib: f64,
    pub kernel: String,
    pub postgresql: String,
    pub fsync: String,
    pub synchronous_commit: String,
    /// Of the database's directory.
    pub filesystem: String,
    pub kafka: String,
    /// Others may use the machine too.
    pub load: String,
}

impl Machine {
    pub fn look(database: &Facts) -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: after_colon("/proc/cpuinfo", "model name"),
            memory_gib: memory_gib(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            postgresql: database.version.clone(),
            fsync: database.fsync.clone(),
            synchronous_commit: database.synchronous_commit.clone(),
            filesystem: filesystem_of(&database.data_directory),
            kafka: kafka::description(),
            load: load(),
        }
    }

    /// A line for each part.
    pub fn table(&self) -> String {
        let Self { cores, processor, memory_gib, kernel, .. } = self;
        let Self { postgresql, fsync, synchronous_commit, filesystem, kafka, load, .. } = self;
        format!(
            "  machine       {cores} cores, {processor}, {memory_gib:.0} GiB, Linux {kernel}, load average {load}\n  \
             postgresql    {postgresql}, fsync {fsync}, synchronous_commit {synchronous_commit}, {filesystem}\n  \
             kafka         {kafka}\n"
        )
    }
}

/// Of the last one, five and fifteen minutes.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn memory_gib() -> f64 {
    let text = after_colon("/proc/meminfo", "MemTotal");
    let kib: f64 = text.trim_end_matches("kB").trim().parse().unwrap_or_default();
    kib / 1_048_576.0
}

/// The value of the first line `name : value`; `unknown` where there is no such file or line.
fn after_colon(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value);
    value.trim().to_owned()
}

/// The type of the mount that is nearest to the directory.
fn filesystem_of(directory: &str) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let above = fields.filter(|fields| fields.len() > 2 && std::path::Path::new(directory).starts_with(fields[1]));
    above.max_by_key(|fields| fields[1].len()).map_or("unknown".to_owned(), |fields| fields[2].to_owned())
}
