// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask deny`: licences, layers and sources of all dependencies, by `deny.toml`.

use std::process::ExitCode;

use anyhow::Result;

use crate::run;

pub(crate) fn run() -> Result<ExitCode> {
    if !run::answers("cargo-deny", &["--version"]) {
        eprintln!("installing cargo-deny: some minutes");
        run::succeed(run::cargo().args(["install", "--locked", "cargo-deny"]))?;
    }
    check()?;
    Ok(ExitCode::SUCCESS)
}

/// As a step of CI: where cargo-deny is installed, since building it takes minutes.
pub(crate) fn check_if_installed() -> Result<()> {
    if run::answers("cargo-deny", &["--version"]) {
        return check();
    }
    eprintln!("cargo-deny is not installed: not checked (cargo xtask deny installs it)");
    Ok(())
}

fn check() -> Result<()> {
    let checks = ["deny", "--locked", "check", "licenses", "bans", "sources"];
    run::succeed(run::cargo().args(checks))
}
