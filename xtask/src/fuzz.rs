// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B58: `cargo xtask fuzz`: every fuzz target for a while.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::run;

pub(crate) fn run(seconds: u32, name: &str) -> Result<ExitCode> {
    if !run::answers("cargo-fuzz", &["--version"]) {
        eprintln!("installing cargo-fuzz");
        run::succeed(run::cargo().args(["install", "--locked", "cargo-fuzz"]))?;
    }
    let targets: Vec<String> = targets()?
        .into_iter()
        .filter(|target| target.contains(name))
        .collect();
    if targets.is_empty() {
        bail!("no fuzz target has {name:?} in its name");
    }
    let mut broken = Vec::new();
    for target in targets {
        eprintln!("\n== {target}: {seconds} s");
        let limit = format!("-max_total_time={seconds}");
        let status = run::status(fuzz().args([
            "run",
            &target,
            "--",
            &limit,
            "-timeout=10",
            "-rss_limit_mb=2048",
        ]))?;
        if !status.success() {
            broken.push(target);
        }
    }
    if broken.is_empty() {
        eprintln!("\nno target broke");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("\nbroken: {}", broken.join(", "));
    Ok(ExitCode::FAILURE)
}

fn targets() -> Result<Vec<String>> {
    let output = fuzz()
        .arg("list")
        .output()
        .context("cannot run cargo fuzz list")?;
    if !output.status.success() {
        bail!(
            "cargo fuzz list: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

/// Sanitizers are a nightly option; the stable compiler takes it when told that it may.
fn fuzz() -> Command {
    let mut command = run::cargo();
    command.arg("fuzz").env("RUSTC_BOOTSTRAP", "1");
    command
}
