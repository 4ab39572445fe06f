// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask regs`: what is generated from the register map, `fpga/regs/ipa.rdl`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::{python, run};

/// Generates the files, and puts them in their places or, with `check`, compares them.
pub(crate) fn run(check: bool, html: Option<&Path>) -> Result<ExitCode> {
    let fresh = generate(html)?;
    let mut stale = Vec::new();
    for file in files(&fresh)? {
        let place = run::workspace().join(&file);
        let text = fs::read_to_string(fresh.join(&file))?;
        if fs::read_to_string(&place).is_ok_and(|old| old == text) {
            continue;
        }
        if !check {
            if let Some(folder) = place.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&place, text).with_context(|| format!("cannot write {}", place.display()))?;
            eprintln!("written: {}", file.display());
        }
        stale.push(file.display().to_string());
    }
    if check && !stale.is_empty() {
        bail!(
            "not what fpga/regs/ipa.rdl gives: {}; run `cargo xtask regs`",
            stale.join(", ")
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// A folder laid out like the workspace, with nothing but generated files.
fn generate(html: Option<&Path>) -> Result<PathBuf> {
    let generator = run::workspace().join("fpga/regs/generate");
    let environment = python::environment("regs", &generator.join("requirements.txt"))?;
    let fresh = run::target_directory().join("regs");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    let mut command = Command::new(environment.join("bin/python"));
    command
        .current_dir(run::workspace())
        .args(["-B"])
        .arg(generator.join("generate.py"))
        .arg(".")
        .arg(&fresh);
    if let Some(html) = html {
        command.arg("--html").arg(html);
    }
    run::succeed(&mut command)?;
    run::succeed(
        Command::new("rustfmt")
            .args(["--edition", "2024", "--config-path"])
            .arg(run::workspace())
            .arg(fresh.join("fpga/regs/src/registers.rs")),
    )?;
    Ok(fresh)
}

/// All files under a folder, relative to it.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}
