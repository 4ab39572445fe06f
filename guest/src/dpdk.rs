// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DPDK's own QAT driver on a function of the guest's bus: Debian's program, unmodified, through the
//! guest's kernel's VFIO and the IOMMU.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use qat_regs::Generation;

#[path = "../../sim/tests/dpdk/perf.rs"]
mod perf;

use perf::{OPERATIONS, Way};

const PROGRAM: &str = "/usr/bin/dpdk-test-crypto-perf";
const VECTOR: &str = "/vector.data";
/// Before the program's own arguments come those of DPDK's environment.
const ENVIRONMENT: [&str; 8] = [
    "-l",
    "0,1",
    "--in-memory",
    "-m",
    "64",
    "--no-telemetry",
    "--log-level=lib.eal:warning",
    "-a",
];

/// Whether it is this generation's turn: each kernel has one, by a word on its command line.
pub(crate) fn is_due(generation: Generation) -> bool {
    std::env::var("DPDK").is_ok_and(|due| due == format!("{generation:?}"))
}

/// Holds it to vectors, of which each must fail with one bit changed, and moves operations through it.
pub(crate) fn run(generation: Generation, card: &str) -> Result<()> {
    let mut names = vec!["aes128gcm16", "aes128-sha256"];
    if generation != Generation::Gen2 {
        names.push("chacha20poly1305");
    }
    for algorithm in perf::named(&names) {
        let good = Way::BOTH.map(|way| (way, false));
        for (way, spoiled) in good.into_iter().chain([(Way::Open, true)]) {
            fs::write(VECTOR, algorithm.vector(spoiled))?;
            let said = perf(card, &algorithm.verify(way, VECTOR))?;
            // Each operation's result is compared with the vector, or its digest does not fit.
            let wanted = if spoiled { OPERATIONS } else { 0 };
            ensure!(
                perf::failed(&said) == Some(wanted),
                "{} {way:?}, spoiled {spoiled}: {said}",
                algorithm.name
            );
        }
        let said = perf(card, &algorithm.throughput(Way::Seal))?;
        let Some(rate) = perf::rate(&said) else {
            bail!("{}: {said}", algorithm.name);
        };
        println!("GUEST DPDK {}: {rate} M operations/s", algorithm.name);
    }
    Ok(())
}

fn perf(card: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(PROGRAM)
        .args(ENVIRONMENT)
        .args([card, "--"])
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {PROGRAM}"))?;
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let said = said.concat();
    ensure!(
        output.status.success(),
        "{arguments:?}: {}\n{said}",
        output.status
    );
    Ok(said)
}
