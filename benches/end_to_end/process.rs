//! What the kernel says of a process.

use std::fs;

/// The most memory that it had so far (VmHWM: the maximum of VmRSS), in MiB; 0 where there is no such process.
pub fn peak_mebibytes(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: f64 = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or_default();
    kibibytes / 1_024.0
}
