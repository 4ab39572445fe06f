// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask dpdk`: DPDK's own QAT driver, as Debian ships it, on the simulated QAT function. Needs
//! root, for huge pages and for knowing where they are.

use std::fs;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::prerequisites::{self, DPDK, DPDK_DRIVERS};
use crate::run;

/// Pages of 2 MiB that its programs want.
const PAGES: u32 = 128;
const RESERVED: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
const COMPACT: &str = "/proc/sys/vm/compact_memory";
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";
/// What is done for memory that is free but scattered, from the least to the most.
const REMEDIES: &[&[&str]] = &[&[], &[COMPACT], &[COMPACT], &[DROP_CACHES, COMPACT]];

pub(crate) fn run() -> Result<ExitCode> {
    if !run::is_root() {
        bail!("DPDK's driver is run as root: it is given huge pages, and told where they are");
    }
    prerequisites::ensure(&[DPDK], DPDK_DRIVERS)?;
    let _pages = HugePages::reserve()?;
    run::succeed(run::cargo().args([
        "test",
        "--locked",
        "--package",
        "sim",
        "--test",
        "dpdk",
        "--",
        "--ignored",
        "--nocapture",
        "--test-threads",
        "1",
    ]))?;
    Ok(ExitCode::SUCCESS)
}

/// Huge pages that were set aside, and are given back.
struct HugePages {
    added: u32,
}

impl HugePages {
    fn reserve() -> Result<Self> {
        let before = number(RESERVED)?;
        let mut pages = Self { added: 0 };
        for remedies in REMEDIES {
            for remedy in *remedies {
                fs::write(remedy, "1").context(*remedy)?;
                sleep(Duration::from_millis(200));
            }
            let missing = PAGES.saturating_sub(number(FREE)?);
            if missing != 0 {
                let wanted = number(RESERVED)? + missing;
                fs::write(RESERVED, wanted.to_string()).context(RESERVED)?;
            }
            pages.added = number(RESERVED)?.saturating_sub(before);
            if number(FREE)? >= PAGES {
                return Ok(pages);
            }
        }
        bail!(
            "{PAGES} huge pages of 2 MiB are wanted, and there is memory for {}: free some, or restart the machine",
            number(FREE)?
        );
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Ok(now) = number(RESERVED) {
            // What can't be given back stays reserved, and is seen there.
            let _ = fs::write(RESERVED, now.saturating_sub(self.added).to_string());
        }
    }
}

fn number(path: &str) -> Result<u32> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    text.trim()
        .parse()
        .with_context(|| format!("{path}: {text:?}"))
}
