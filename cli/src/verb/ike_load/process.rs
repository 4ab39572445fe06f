// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a process has used, by /proc.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time of all threads, in user and kernel mode.
pub(super) fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name may hold anything; what follows it is numbers.
    let after = text.rsplit_once(')').map(|(_, after)| after);
    let fields: Vec<&str> = after.unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    let sum = ticks(11).zip(ticks(12)).map(|(user, system)| user + system);
    let hertz = rustix::param::clock_ticks_per_second();
    let sum = sum.with_context(|| format!("{path} is malformed"))?;
    Ok(Duration::from_secs_f64(sum as f64 / hertz as f64))
}

/// Octets of memory that it has in use.
pub(super) fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/statm");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.with_context(|| format!("{path} is malformed"))?;
    Ok(pages * rustix::param::page_size() as u64)
}
