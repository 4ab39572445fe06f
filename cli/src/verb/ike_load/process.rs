// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a process has used, by /proc.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time of a process and of those that it has started and that run still, in user and kernel mode: a daemon
/// may have private keys kept by a process beside it.
pub(super) fn cpu(pid: u32) -> Result<Duration> {
    let beside = children(pid).into_iter();
    // One that has ended meanwhile has used nothing.
    let beside: Duration = beside.filter_map(|child| cpu(child).ok()).sum();
    Ok(own_cpu(pid)? + beside)
}

/// The processes that any thread of this one has started.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let lists = threads.into_iter().flatten().flatten();
    let lists = lists.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let lists: Vec<String> = lists.collect();
    let words = lists.iter().flat_map(|list| list.split_whitespace());
    words.filter_map(|word| word.parse().ok()).collect()
}

fn own_cpu(pid: u32) -> Result<Duration> {
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

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_processes_beside_it_use_is_counted() {
        let mut busy = Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        let own = std::process::id();
        let enough = Duration::from_millis(100);
        while cpu(busy.id()).unwrap() < enough && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let (all, alone) = (cpu(own).unwrap(), own_cpu(own).unwrap());
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(all >= alone + enough, "{all:?} with it, {alone:?} without");
    }
}
