//! Files in memory, and how much memory the process takes.

use std::path::Path;

use crate::output::{Failure, at_file};

/// The bytes of a file.
pub fn map(path: &Path) -> Result<limbeck_compiler::import::map::FileBytes, Failure> {
    at_file(path, limbeck_compiler::import::map::FileBytes::open(path))
}

/// Resident bytes now and at their highest; `None` where the system does not tell.
pub fn resident() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}
