// SPDX-License-Identifier: Apache-2.0 OR MIT
//! This host's programs in the guest's tree, with the libraries that they load.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run;

/// DPDK's driver, and what it stands on, in the folder whose every library DPDK loads.
const PLUGINS: [&str; 3] = ["librte_bus_pci", "librte_common_qat", "librte_mempool_ring"];
const PLUGIN_FOLDERS: &str = "/usr/lib/x86_64-linux-gnu/dpdk";
const CRYPTO_PERF: &str = "/usr/bin/dpdk-test-crypto-perf";

/// Makes the folders in which a loader looks.
pub(super) fn make_folders(root: &Path) -> Result<()> {
    for folder in ["lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(folder))?;
        symlink(format!("usr/{folder}"), root.join(folder))?;
    }
    Ok(())
}

/// Adds DPDK's test program with its QAT driver.
pub(super) fn add_dpdk(root: &Path) -> Result<()> {
    add(root, Path::new(CRYPTO_PERF))?;
    let versions = fs::read_dir(PLUGIN_FOLDERS).context(PLUGIN_FOLDERS)?;
    let folder = versions
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.join("librte_common_qat.so").exists())
        .with_context(|| format!("no QAT driver below {PLUGIN_FOLDERS}"))?;
    for plugin in PLUGINS {
        add(root, &folder.join(format!("{plugin}.so")))?;
    }
    Ok(())
}

/// Adds a program of our own, without what debuggers want, to what the guest's shell finds.
pub(super) fn add_ours(root: &Path, program: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    let mut strip = Command::new("strip");
    strip
        .args(["--strip-debug", "-o"])
        .arg(root.join("bin").join(name));
    run::succeed(strip.arg(program))?;
    for library in libraries(program)? {
        place(root, &library)?;
    }
    Ok(())
}

/// Adds a program or library and what it loads, each where it is here.
fn add(root: &Path, program: &Path) -> Result<()> {
    place(root, program)?;
    for library in libraries(program)? {
        place(root, &library)?;
    }
    Ok(())
}

/// What the loader finds for a program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && !text.contains("not found"),
        "ldd {}: {text}",
        program.display()
    );
    let paths = text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

/// One file for each file, with links to it by its other names: a library with two files is loaded twice.
fn place(root: &Path, path: &Path) -> Result<()> {
    let within = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let file = fs::canonicalize(path).with_context(|| path.display().to_string())?;
    for path in [path, &file] {
        let folder = within(path.parent().context("a file has a folder")?);
        fs::create_dir_all(folder)?;
    }
    if !within(&file).exists() {
        fs::copy(&file, within(&file))?;
    }
    if within(path).symlink_metadata().is_err() {
        symlink(&file, within(path))?;
    }
    Ok(())
}
