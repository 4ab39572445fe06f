// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tools from PyPI, in virtual environments of their own under the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::prerequisites::install;
use crate::run;

/// The folder of an environment that has what `requirements` names; made or renewed if need be.
pub(crate) fn environment(name: &str, requirements: &Path) -> Result<PathBuf> {
    let folder = run::target_directory().join("python").join(name);
    let stamp = folder.join("installed.txt");
    let wanted = fs::read_to_string(requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    // Its programs begin with its path: one that has been moved is of no use.
    let wanted = format!("{}\n{wanted}", folder.display());
    if fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
        return Ok(folder);
    }
    // Debian's Python comes without the means to make environments.
    if !run::answers("python3", &["-c", "import ensurepip, venv"]) {
        install(&["python3-venv"])?;
    }
    eprintln!("installing the tools of {} ...", requirements.display());
    run::succeed(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    )?;
    run::succeed(
        Command::new(folder.join("bin/pip"))
            .args([
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--requirement",
            ])
            .arg(requirements),
    )?;
    fs::write(&stamp, wanted)?;
    Ok(folder)
}
