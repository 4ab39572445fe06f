// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo ci`: everything that must hold before a change goes in. Each step is timed; all are tried.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::demo::path_with_sbin;
use crate::prerequisites::{BUILD, END_TO_END, NETWORK, PEER_PLUGINS, ensure};
use crate::{deny, dpdk, instructions, peers, python, regs, rtl, run, vm};

/// The package whose tests make networks.
const NETWORK_TESTS: &str = "tests";

/// How many of them may run at once.
const NETWORK_TESTS_AT_A_TIME: usize = 4;

/// A step's name, and what it does.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: &[Step] = &[
    ("prerequisites", || {
        ensure(&[BUILD, NETWORK, END_TO_END], PEER_PLUGINS)?;
        peers::libreswan()?;
        scapy().map(drop)
    }),
    ("format", || {
        run::succeed(run::cargo().args(["fmt", "--all", "--check"]))
    }),
    ("register map", || regs::run(true, None).map(drop)),
    ("lints", || {
        let lints = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "--deny",
            "warnings",
        ];
        run::succeed(run::cargo().args(lints))
    }),
    ("dependencies", deny::check_if_installed),
    ("tests", tests),
    ("instructions", instructions::check_if_installed),
    ("models of the SA cache", cache_models),
    ("documentation tests", || {
        run::succeed(run::cargo().args(["test", "--workspace", "--locked", "--doc"]))
    }),
    ("programs for the end-to-end tests", || {
        run::succeed(run::cargo().args([
            "build",
            "--locked",
            "--package",
            "cli",
            "--package",
            "ikev2d",
        ]))
    }),
    ("end-to-end tests", network_tests),
    ("virtual machine", || {
        vm::run(&vm::Arguments::default()).map(drop)
    }),
    ("DPDK on the simulated QAT", dpdk_step),
    ("RTL", || rtl::run(&[]).map(drop)),
    ("documentation", || {
        let doc = ["doc", "--workspace", "--locked", "--no-deps"];
        run::succeed(
            run::cargo()
                .args(doc)
                .env("RUSTDOCFLAGS", "--deny warnings"),
        )
    }),
];

pub(crate) fn run() -> Result<ExitCode> {
    let start = Instant::now();
    let mut results = Vec::new();
    for (name, step) in STEPS {
        eprintln!("\n== {name}");
        let begun = Instant::now();
        let result = step();
        if let Err(error) = &result {
            eprintln!("== {name}: {error:#}");
        }
        results.push((name, begun.elapsed(), result.is_ok()));
    }
    eprintln!("\n== summary");
    for (name, time, passed) in &results {
        eprintln!(
            "{}  {:>8}  {name}",
            if *passed { "ok    " } else { "FAILED" },
            seconds(*time)
        );
    }
    let passed = results.iter().all(|(_, _, passed)| *passed);
    eprintln!(
        "{}  {:>8}  in all",
        if passed { "ok    " } else { "FAILED" },
        seconds(start.elapsed())
    );
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn dpdk_step() -> Result<()> {
    if !run::is_root() {
        eprintln!("not run: it needs root (cargo xtask dpdk)");
        return Ok(());
    }
    dpdk::run().map(drop)
}

/// A Python with scapy, for tests that ask it for its opinion.
fn scapy() -> Result<PathBuf> {
    let requirements = run::workspace().join("tests/scapy/requirements.txt");
    Ok(python::environment("scapy", &requirements)?.join("bin/python"))
}

fn tests() -> Result<()> {
    let mut command = test_command(run::cargo());
    command.env("ESPLANADE_PYTHON", scapy()?);
    run::succeed(command.args(["--workspace", "--exclude", NETWORK_TESTS, "--locked"]))
}

/// Every interleaving of the SA cache's writers and readers, and of who takes frames and brings them home,
/// which are compiled for loom. The driver's
/// and the card's models are ordinary tests.
fn cache_models() -> Result<()> {
    let mut command = test_command(run::cargo());
    command
        .args(["--package", "offload-api", "--locked", "loom"])
        .env("CARGO_TARGET_DIR", run::target_directory().join("loom"))
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "2")
        .env("RUSTFLAGS", "--cfg loom")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run::succeed(&mut command)
}

fn network_tests() -> Result<()> {
    let mut command = test_command(cargo_with_networks());
    command.env("ESPLANADE_PYTHON", scapy()?);
    // They wait for peers and timers far more than they compute; `.config/nextest.toml` has who runs alone.
    let at_a_time = NETWORK_TESTS_AT_A_TIME.to_string();
    if command.get_args().any(|argument| argument == "nextest") {
        command.args(["--test-threads", &at_a_time]);
    }
    run::succeed(command.args(["--package", NETWORK_TESTS, "--locked"]))
}

/// For tests that make networks, which need root over them: in a user namespace for anybody else.
pub(crate) fn cargo_with_networks() -> Command {
    let mut command = if run::is_root() {
        run::cargo()
    } else {
        let mut command = Command::new("unshare");
        command
            .current_dir(run::workspace())
            .args(["--map-root-user", "--mount", "--net", "--"])
            .arg(run::cargo().get_program());
        command
    };
    command.env("PATH", path_with_sbin());
    command
}

/// `cargo nextest run` where it is installed, `cargo test` elsewhere.
pub(crate) fn test_command(mut command: Command) -> Command {
    if run::answers("cargo-nextest", &["nextest", "--version"]) {
        command.args(["nextest", "run", "--no-fail-fast"]);
    } else {
        command.args(["test", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    }
    command
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
