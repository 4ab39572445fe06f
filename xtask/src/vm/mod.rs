// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask vm`: the simulated card in a virtual machine, behind a virtual IOMMU, driven through the
//! kernel's own VFIO by the suite that the driver passes elsewhere.

mod downloads;
mod initramfs;
mod machine;

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::prerequisites::{self, VIRTUAL_MACHINE};
use crate::run;
use downloads::Kernel;
use machine::{Ending, Machine};

/// What a machine may take to boot, pass and end.
const TIME_OUT: Duration = Duration::from_secs(300);

/// How often a machine is started whose QEMU aborts itself.
const ATTEMPTS: u32 = 3;

/// Arguments of `cargo xtask vm`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Only on this kernel; otherwise on every one.
    #[arg(long, value_enum)]
    kernel: Option<Kernel>,
    /// Keep the machine's folder (serial log, card's log, initramfs) also when it passed.
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the virtual machine needs an x86-64 host");
    }
    prerequisites::ensure(&[VIRTUAL_MACHINE], &[])?;
    let folder = run::target_directory().join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let guest = initramfs::build_guest(&folder)?;
    let card = machine::build_card()?;
    let qemu = downloads::qemu(&folder)?;
    let kernels = arguments
        .kernel
        .map_or_else(|| Kernel::ALL.to_vec(), |kernel| vec![kernel]);
    let mut failed = Vec::new();
    for kernel in kernels {
        let begun = Instant::now();
        eprintln!("-- {kernel}");
        let tree = downloads::kernel(&folder, kernel)?;
        let work = folder.join(format!("run-{}-{kernel}", std::process::id()));
        let machine = Machine {
            qemu: &qemu,
            card: &card,
            vmlinuz: downloads::image(&tree)?,
            initramfs: initramfs::make(&work, &tree, &guest)?,
            shares_memory: true,
            work: &work,
        };
        let result = pass(&machine).and_then(|report| {
            fail_without_memory(machine)?;
            Ok(report)
        });
        let seconds = begun.elapsed().as_secs_f64();
        match result {
            Ok(report) => {
                for line in report {
                    eprintln!("   {line}");
                }
                eprintln!("-- {kernel}: passed in {seconds:.1} s");
                if !arguments.keep {
                    fs::remove_dir_all(&work)?;
                }
            }
            Err(error) => {
                eprintln!("-- {kernel}: FAILED after {seconds:.1} s: {error:#}");
                eprintln!("   logs are in {}", work.display());
                failed.push(kernel.to_string());
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed on {}", failed.join(" and "));
    }
    Ok(ExitCode::SUCCESS)
}

/// A card that sees other memory than the guest's: the driver finds out when it opens it.
fn fail_without_memory(machine: Machine<'_>) -> Result<()> {
    let machine = Machine {
        shares_memory: false,
        ..machine
    };
    let Err(error) = machine.run(TIME_OUT) else {
        bail!("the guest passed though the card can't see its memory");
    };
    let report = machine.report();
    let says = |start: &str, end: &str| {
        let line = |line: &String| line.starts_with(start) && line.ends_with(end);
        report.iter().any(line)
    };
    let refused = says("GUEST ok", " bind") && !says("GUEST ok", " conformance");
    ensure!(
        refused && says("GUEST ended with ", ""),
        "without shared memory: {error:#}"
    );
    eprintln!("   without shared memory: refused, as it must be");
    Ok(())
}

/// What the guest reported when it passed.
fn pass(machine: &Machine<'_>) -> Result<Vec<String>> {
    for attempt in 1..=ATTEMPTS {
        match machine.run(TIME_OUT)? {
            Ending::Passed(report) => return Ok(report),
            Ending::Aborted => {
                eprintln!("   QEMU itself aborted when the card died ({attempt} of {ATTEMPTS})");
            }
        }
    }
    bail!("QEMU itself aborted each time the card died");
}
