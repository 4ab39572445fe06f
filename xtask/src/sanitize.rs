// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask sanitize`: the tests of what runs on several threads, or holds `unsafe`, under
//! ThreadSanitizer and AddressSanitizer. The loom models stay out: loom brings its own threads.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::{ci, run};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Whose tests. ThreadSanitizer does not see the slow path of std's locks, which comes without
/// instrumentation, and takes what a contended lock guards for a race. So it gets the tests of what
/// works without locks.
const THREAD: &[&str] = &[
    "--package=offload-api",
    "--package=vfio-user",
    "--package=driver",
    "--lib",
    "--test=counterparts",
    "--test=hostile",
];
const ADDRESS: &[&str] = &[
    "--package=offload-api",
    "--package=vfio-user",
    "--package=esp",
    "--package=driver",
    "--package=sim",
];
/// Tests that stay out of both: loom's threads are its own, the laws contend for locks, and who looks for
/// keys in all of a process's memory has no end of it where AddressSanitizer maps terabytes.
const SKIPPED: &[&str] = &["loom", "the_laws_hold", "keys_are_gone_after"];
/// Tests that stay out of ThreadSanitizer's alone.
const SKIPPED_BY_THREAD: &[&str] = &[
    // They share memory with processes that they start or fork. ThreadSanitizer sees one of the two sides,
    // and its runtime does not go on in a child that was forked from several threads.
    "processes::s01_nothing_is_torn",
    "sharing::s08_only_the_owner",
    "sharing::readers_get_what_is_published",
    // A card and a driver that share memory by two mappings of it, at two addresses: what orders them
    // there is no order to ThreadSanitizer. Fuzzing runs it under AddressSanitizer.
    "fuzzing::tests::whatever_a_card_says",
];

/// Exit status of a program whose sanitizer has found something.
const FOUND: i32 = 66;

/// A sanitizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sanitizer {
    /// Races.
    Thread,
    /// Memory out of bounds or freed, and leaks.
    Address,
}

impl Sanitizer {
    const ALL: [Self; 2] = [Self::Thread, Self::Address];

    fn name(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Address => "address",
        }
    }

    /// A program with a mistake that it must find, and what it says then.
    fn control(self) -> (&'static str, &'static str) {
        match self {
            Self::Thread => ("race", "WARNING: ThreadSanitizer: data race"),
            Self::Address => ("stale", "ERROR: AddressSanitizer: heap-use-after-free"),
        }
    }

    /// Sanitizers are a nightly option; the stable compiler takes it when told that it may. std is not
    /// instrumented, which has to be allowed.
    fn flags(self) -> [String; 3] {
        [
            format!("-Zsanitizer={}", self.name()),
            "-Cunsafe-allow-abi-mismatch=sanitizer".to_owned(),
            // The driver's watchdogs wait longer.
            "--cfg=sanitized".to_owned(),
        ]
    }

    fn prepare(self, command: &mut Command) {
        let suppressions = sources().join("thread.supp");
        let thread = format!("exitcode={FOUND}:suppressions={}", suppressions.display());
        command
            .env("RUSTC_BOOTSTRAP", "1")
            .env("TSAN_OPTIONS", thread)
            .env(
                "ASAN_OPTIONS",
                format!("exitcode={FOUND}:detect_odr_violation=0"),
            );
    }
}

fn sources() -> PathBuf {
    run::workspace().join("xtask/sanitize")
}

pub(crate) fn run(which: Option<Sanitizer>, filter: Option<&str>) -> Result<ExitCode> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the sanitizers are set up for x86-64");
    }
    let which = which.map_or_else(|| Sanitizer::ALL.to_vec(), |which| vec![which]);
    for sanitizer in which {
        eprintln!("\n== {}: the control", sanitizer.name());
        control(sanitizer)?;
        eprintln!("\n== {}: the tests", sanitizer.name());
        tests(sanitizer, filter)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn folder(sanitizer: Sanitizer) -> PathBuf {
    run::target_directory()
        .join("sanitize")
        .join(sanitizer.name())
}

/// A mistake on purpose is found.
fn control(sanitizer: Sanitizer) -> Result<()> {
    let (name, complaint) = sanitizer.control();
    let folder = folder(sanitizer);
    std::fs::create_dir_all(&folder)?;
    let program = folder.join(name);
    let mut compile = Command::new("rustc");
    compile
        .current_dir(run::workspace())
        .args(["--edition=2024", "--target", TARGET, "-Copt-level=0", "-g"])
        .args(sanitizer.flags())
        .arg(sources().join(name).with_extension("rs"))
        .arg("-o")
        .arg(&program);
    sanitizer.prepare(&mut compile);
    run::succeed(&mut compile)?;
    let mut command = Command::new(&program);
    sanitizer.prepare(&mut command);
    let output = command.output().context("the control does not run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        said.contains(complaint) && output.status.code() == Some(FOUND),
        "the mistake in {name}.rs was not found ({}):\n{said}",
        output.status
    );
    eprintln!("found: {complaint}");
    Ok(())
}

fn tests(sanitizer: Sanitizer, filter: Option<&str>) -> Result<()> {
    let mut command = ci::test_command(run::cargo());
    command.args(["--locked", "--target", TARGET]);
    command.args(match sanitizer {
        Sanitizer::Thread => THREAD,
        Sanitizer::Address => ADDRESS,
    });
    command
        .env("CARGO_TARGET_DIR", folder(sanitizer))
        .env("RUSTFLAGS", sanitizer.flags().join(" "))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("NEXTEST_PROFILE", "sanitized");
    sanitizer.prepare(&mut command);
    command.args(filter);
    let skipped = match sanitizer {
        Sanitizer::Thread => SKIPPED_BY_THREAD,
        Sanitizer::Address => &[],
    };
    command.arg("--");
    for test in SKIPPED.iter().chain(skipped) {
        command.args(["--skip", test]);
    }
    run::succeed(&mut command)
}
