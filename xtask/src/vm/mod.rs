// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask vm`: the simulated card in a virtual machine, behind a virtual IOMMU, driven through the
//! kernel's own VFIO by the suite that the driver passes elsewhere.

mod downloads;
mod initramfs;
mod machine;
mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::prerequisites::{self, DPDK, DPDK_DRIVERS, VIRTUAL_MACHINE};
use crate::run;
use downloads::Kernel;
use machine::{Ending, Machine};

/// What a machine may take to boot, pass and end, on a host that has much else to do.
const TIME_OUT: Duration = Duration::from_secs(900);

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
    prerequisites::ensure(&[VIRTUAL_MACHINE, DPDK], DPDK_DRIVERS)?;
    let folder = run::target_directory().join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let kernels = arguments
        .kernel
        .map_or_else(|| Kernel::ALL.to_vec(), |kernel| vec![kernel]);
    // What is fetched waits for the network, and compilers for the processor.
    let (fetched, programs) = thread::scope(|scope| {
        let fetched = scope.spawn(|| fetch(&folder, &kernels));
        let programs = build();
        (fetched.join(), programs)
    });
    let fetched = fetched.map_err(|_| anyhow!("fetching panicked"))?;
    let ((qemu, trees), programs) = (fetched?, programs?);
    // A guest waits more than it computes: they share the processors well.
    let results: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = trees
            .iter()
            .map(|(kernel, tree)| {
                let (folder, qemu, programs) = (&folder, &qemu, &programs);
                scope.spawn(move || prove(folder, qemu, *kernel, tree, programs, arguments.keep))
            })
            .collect();
        running.into_iter().map(|machine| machine.join()).collect()
    });
    let failed = results
        .into_iter()
        .filter(|proved| !matches!(proved, Ok(true)));
    match failed.count() {
        0 => Ok(ExitCode::SUCCESS),
        count => bail!("failed on {count} of {} kernels", kernels.len()),
    }
}

/// QEMU, and each kernel with its modules.
type Trees = (PathBuf, Vec<(Kernel, PathBuf)>);

fn fetch(folder: &Path, kernels: &[Kernel]) -> Result<Trees> {
    let qemu = downloads::qemu(folder)?;
    let tree = |kernel: &Kernel| Ok((*kernel, downloads::kernel(folder, *kernel)?));
    Ok((qemu, kernels.iter().map(tree).collect::<Result<_>>()?))
}

/// Builds what runs in the guest and beside it, and gives its folder. The guest finds the libraries of
/// this host, so that nothing is compiled for it alone.
fn build() -> Result<PathBuf> {
    let mut cargo = run::cargo();
    cargo.args(["build", "--quiet", "--locked"]);
    run::succeed(cargo.args(["--package", "guest", "--package", "cli"]))?;
    Ok(run::target_directory().join("debug"))
}

/// Whether the guest passes on a kernel, and fails where it must.
fn prove(
    folder: &Path,
    qemu: &Path,
    kernel: Kernel,
    tree: &Path,
    programs: &Path,
    keep: bool,
) -> bool {
    let begun = Instant::now();
    let work = folder.join(format!("run-{}-{kernel}", std::process::id()));
    let proved = || {
        let machine = Machine {
            qemu,
            card: &programs.join("esplanade"),
            vmlinuz: downloads::image(tree)?,
            initramfs: initramfs::make(&work, tree, programs)?,
            dpdk: kernel.dpdk(),
            shares_memory: true,
            work: &work,
        };
        let report = pass(&machine)?;
        fail_without_memory(machine)?;
        if !keep {
            fs::remove_dir_all(&work)?;
        }
        anyhow::Ok(report)
    };
    let result = proved();
    let seconds = begun.elapsed().as_secs_f64();
    // At once: another kernel's may come between.
    let said = match &result {
        Ok(report) => format!(
            "   {}\n   without shared memory: refused, as it must be\n-- {kernel}: passed in {seconds:.1} s",
            report.join("\n   ")
        ),
        Err(error) => format!(
            "-- {kernel}: FAILED after {seconds:.1} s: {error:#}\n   logs are in {}",
            work.display()
        ),
    };
    eprintln!("{said}");
    result.is_ok()
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
