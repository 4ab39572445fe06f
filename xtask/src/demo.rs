// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo demo`: prerequisites, a release build, and the demo itself.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::prerequisites::{BUILD, NETWORK, RTL, ensure};
use crate::run;

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let rtl = arguments.iter().any(|argument| argument == "--rtl");
    ensure(&[BUILD, NETWORK], &[])?;
    let features: &[&str] = if rtl {
        ensure(&[RTL], &[])?;
        &["--features", "cli/rtl"]
    } else {
        &[]
    };
    if !std::path::Path::new("/dev/net/tun").exists() {
        bail!("/dev/net/tun is missing: `modprobe tun`, or give the container the device");
    }
    eprintln!("building esplanade and ikev2d (release)");
    run::succeed(
        run::cargo()
            .args([
                "build",
                "--release",
                "--package",
                "cli",
                "--package",
                "ikev2d",
            ])
            .args(features),
    )?;
    let program = run::target_directory().join("release/esplanade");
    // Where the caller stands, so that demo-out is found where it was asked for.
    let status = Command::new(&program)
        .arg("demo")
        .args(arguments)
        .env("PATH", path_with_sbin())
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

/// `ip` is in sbin, which is not on everybody's path.
pub(crate) fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}
