// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian's packages of any suite, unpacked into a folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What a root directory has and no package brings.
const ROOT: &str = r#"cd "$1"; mkdir -p dev proc run tmp
for name in bin sbin lib lib64; do [ -e $name ] || ln -s usr/$name $name; done"#;

/// What is unpacked where.
pub(crate) struct Tree<'a> {
    /// Of the folder.
    pub(crate) name: &'a str,
    /// With commas between.
    pub(crate) packages: &'a str,
    /// Debian's suites, the main one first.
    pub(crate) suites: &'a [&'a str],
    /// Preferences among the suites, as in apt's own files.
    pub(crate) pin: &'a str,
    /// Whether indices count that their suite has not signed anew for long: a mirror of Debian testing may
    /// stand still.
    pub(crate) stale: bool,
}

/// Packages and what they depend on, unpacked and not installed: a folder in `folder` that can be a root directory.
pub(crate) fn unpacked(folder: &Path, wanted: &Tree<'_>) -> Result<PathBuf> {
    let Tree {
        name,
        packages,
        suites,
        pin,
        stale,
    } = *wanted;
    let tree = folder.join(name);
    if tree.exists() {
        return Ok(tree);
    }
    eprintln!("fetching {packages} into {}", tree.display());
    let mirror = mirror()?;
    // Renamed when it is whole, so that what was cut off is not taken for it.
    let part = folder.join(format!("{name}.part"));
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    let pins = folder.join(format!("{name}.pin"));
    fs::write(&pins, pin)?;
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--variant=extract"])
        .arg(format!("--include={packages}"))
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg("--setup-hook=mkdir -p \"$1/etc/apt/preferences.d\"")
        .arg(format!(
            "--setup-hook=cp '{}' \"$1/etc/apt/preferences.d/own.pref\"",
            pins.display()
        ))
        .arg(format!("--extract-hook={ROOT}"))
        .arg(suites.first().context("no suite")?)
        .arg(&part);
    if stale {
        command.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    }
    for suite in suites {
        command.arg(format!("deb [signed-by={KEYRING}] {mirror} {suite} main"));
    }
    run::succeed(&mut command)?;
    fs::rename(&part, &tree)?;
    Ok(tree)
}

/// Where this machine has its Debian packages from.
fn mirror() -> Result<String> {
    let known = || -> Result<Option<String>> {
        let output = Command::new("apt-get")
            .args(["indextargets", "--format", "$(LABEL) $(REPO_URI)"])
            .arg("Identifier: Packages")
            .stdin(Stdio::null())
            .output()
            .context("cannot run apt-get")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let uri = text.lines().find_map(|line| line.strip_prefix("Debian "));
        Ok(uri.map(str::to_owned))
    };
    if let Some(mirror) = known()? {
        return Ok(mirror);
    }
    if run::is_root() {
        // apt knows its sources' labels only after it has read their indices.
        run::succeed(Command::new("apt-get").args(["-qq", "update"]))?;
        if let Some(mirror) = known()? {
            return Ok(mirror);
        }
    }
    bail!("apt knows no Debian mirror: `apt-get update` on a Debian host, and come back")
}
