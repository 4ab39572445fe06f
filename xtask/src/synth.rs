// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask synth`: how large the RTL's blocks are, by yosys, and how fast small ones, by nextpnr.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::prerequisites::{SYNTHESIS, ensure};
use crate::{python, run};

/// Synthesises the blocks named, or all but the large ones, and writes fpga/syn/report.md.
pub(crate) fn run(jobs: u32, blocks: &[String]) -> Result<ExitCode> {
    ensure(&[SYNTHESIS], &[])?;
    let folder = run::workspace().join("fpga/syn");
    let programs = python::environment("synth", &folder.join("requirements.txt"))?.join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = [programs.clone()]
        .into_iter()
        .chain(std::env::split_paths(&path));
    run::succeed(
        Command::new(programs.join("python"))
            .env("PATH", std::env::join_paths(paths)?)
            .arg(folder.join("synth.py"))
            .args(["--jobs", &jobs.to_string()])
            .args(blocks),
    )?;
    Ok(ExitCode::SUCCESS)
}
