//! What the kernel says of a process.

use std::fs;

/// Of the kernel's counters of time, whatever its timer: fixed for programs that read them.
const TICKS_PER_SECOND: f64 = 100.0;

/// The most memory that it had so far (VmHWM: the maximum of VmRSS), in MiB; 0 where there is no such process.
pub fn peak_mebibytes(pid: u32) -> f64 {
    mebibytes(pid, "VmHWM:")
}

/// The memory that it has at this moment (VmRSS), in MiB; 0 where there is no such process.
pub fn resident_mebibytes(pid: u32) -> f64 {
    mebibytes(pid, "VmRSS:")
}

fn mebibytes(pid: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes: f64 = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or_default();
    kibibytes / 1_024.0
}

/// Processor time that it and its children used so far, in seconds, those that have ended included; 0 where there is no such process.
pub fn processor_seconds(pid: u32) -> f64 {
    let children = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let living: f64 = children.filter_map(Times::of).filter(|child| child.parent == pid).map(|child| child.own).sum();
    Times::of(pid).map_or(0.0, |process| process.own + process.ended_children) + living
}

struct Times {
    parent: u32,
    own: f64,
    ended_children: f64,
}

impl Times {
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before may hold anything, parentheses too.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let seconds = |user: usize| {
            let ticks: f64 = fields[user].parse::<f64>().ok()? + fields[user + 1].parse::<f64>().ok()?;
            Some(ticks / TICKS_PER_SECOND)
        };
        Some(Self { parent: fields[1].parse().ok()?, own: seconds(11)?, ended_children: seconds(13)? })
    }
}
