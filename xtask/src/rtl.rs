// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask rtl`: the accelerator's RTL is linted, simulated and proved.

mod coverage;
mod proof;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::prerequisites::{BUILD, NETWORK, RTL, ensure};
use crate::{ci, python, regs, run};

/// One part, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// verilator -Wall and verible on each module.
    Lint,
    /// The register map's generated files.
    Regs,
    /// Simulation against OpenSSL, NIST and the functional model, and below the driver.
    Tests,
    /// Formal proofs, and mutants that must fail.
    Proofs,
    /// What of the RTL the tests reach: only if named, for it takes long.
    Coverage,
}

type Work = fn() -> Result<()>;

/// Runs the parts named, or all.
pub(crate) fn run(parts: &[Part]) -> Result<ExitCode> {
    ensure(&[RTL], &[])?;
    let works: [(Part, Work); 5] = [
        (Part::Lint, lint),
        (Part::Regs, || regs::run(true, None).map(drop)),
        (Part::Tests, tests),
        (Part::Proofs, proof::all),
        (Part::Coverage, coverage::measure),
    ];
    for (part, work) in works {
        if parts.contains(&part) || parts.is_empty() && part != Part::Coverage {
            let begun = Instant::now();
            work()?;
            eprintln!("{part:?}: passed in {:.1} s", begun.elapsed().as_secs_f64());
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn folder() -> PathBuf {
    run::workspace().join("fpga/rtl")
}

/// Of the generated register blocks: verilator finds modules by their names, and no packages.
const REGISTER_PACKAGES: [&str; 2] = ["ipa_registers_pkg.sv", "ipa_doorbells_pkg.sv"];

/// Each module that is in no other one, with all that it instantiates.
fn lint() -> Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sv") {
            files.push((fs::read_to_string(&path)?, path));
        }
    }
    files.sort();
    let (packages, modules): (Vec<_>, Vec<_>) = files
        .iter()
        .partition(|(_, path)| path.to_string_lossy().ends_with("_pkg.sv"));
    let mut failed = Vec::new();
    for (text, path) in &modules {
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else {
            continue;
        };
        if !text.contains(&format!("\nmodule {name}\n"))
            && !text.contains(&format!("\nmodule {name} "))
        {
            bail!("{}: a file has one module, of its own name", path.display());
        }
        if !text
            .split("\nmodule ")
            .next()
            .is_some_and(|head| head.contains("\n// Promise: "))
        {
            bail!("{}: a module's header has its promise", path.display());
        }
        // Instances are indented.
        let inside = [format!("  {name} #("), format!("  {name} u_")];
        let instantiated = modules.iter().any(|(text, other)| {
            other != path && inside.iter().any(|instance| text.contains(instance))
        });
        if instantiated {
            continue;
        }
        let mut command = Command::new("verilator");
        command
            .args(["--lint-only", "-Wall", "--top-module", name, "-y"])
            .arg(folder())
            .arg("-y")
            .arg(folder().join("generated"))
            .arg(folder().join("generated/waivers.vlt"))
            .args(REGISTER_PACKAGES.map(|package| folder().join("generated").join(package)))
            .args(packages.iter().map(|(_, path)| path))
            .arg(path);
        if run::succeed(&mut command).is_err() {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint: {}", failed.join(", "));
    }
    eprintln!("{} modules without a warning", modules.len());
    style(files.iter().map(|(_, path)| path))
}

/// verible's rules, none of them waived.
fn style<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
    let requirements = run::workspace().join("fpga/lint/requirements.txt");
    let environment = python::environment("lint", &requirements)?;
    run::succeed(Command::new(environment.join("bin/verible-verilog-lint")).args(files))
}

/// All designs, in every build here: with another set of features they would be verilated and compiled
/// again.
const DESIGNS: [&str; 5] = [
    "--locked",
    "--package",
    "fpga-cosim",
    "--features",
    "fpga-cosim/blocks",
];

/// The blocks alone; the card beside the functional model; the card driven by hand and by the driver; all
/// of it in two gateways.
fn tests() -> Result<()> {
    let packages = [
        "--package",
        "sim",
        "--package",
        "driver",
        "--features",
        "sim/rtl,driver/rtl",
    ];
    let cargo = |verb: &str| {
        let mut command = run::cargo();
        command.arg(verb).args(DESIGNS).args(packages);
        command
    };
    let lints = ["--all-targets", "--", "--deny", "warnings"];
    run::succeed(cargo("clippy").args(lints))?;
    let tests = [
        "--test",
        "rtl",
        "--test",
        "card",
        "--test",
        "lockstep",
        "--test",
        "conformance",
    ];
    run::succeed(cargo("test").args(tests))?;
    run::succeed(cargo("test").args(["--lib", "--", "rtl::", "inline::lockstep::"]))?;
    run::succeed(&mut by_hand(cargo("test")))?;
    // Only the RTL's own are meant here: captures and paces are not for it.
    let inline = ["--test", "inline", "--", "host_port", "cable"];
    run::succeed(cargo("test").args(inline).env("RTL_CARD", "1"))?;
    demo()
}

/// What the functional model has to pass, driven by hand; the RTL has one function.
fn by_hand(mut test: Command) -> Command {
    for name in ["card", "dma", "abi", "gather", "events", "refusals"] {
        test.args(["--test", &format!("raw_{name}")]);
    }
    test.args(["--", "--skip", "functions_are_cards_of_their_own"])
        .env("RTL_CARD", "1");
    test
}

/// Two gateways with cards in RTL, from IKE to the wire.
fn demo() -> Result<()> {
    ensure(&[BUILD, NETWORK], &[])?;
    let programs = [
        "--package",
        "cli",
        "--package",
        "ikev2d",
        "--features",
        "cli/rtl",
    ];
    run::succeed(run::cargo().arg("build").args(DESIGNS).args(programs))?;
    let test = [
        "--package",
        "tests",
        "--features",
        "tests/rtl",
        "--test",
        "demo_rtl",
    ];
    run::succeed(
        ci::cargo_with_networks()
            .arg("test")
            .args(DESIGNS)
            .args(test),
    )
}
