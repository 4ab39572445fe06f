// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QEMU and kernels from Debian, unpacked below `target/vm` and kept there.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The first QEMU with a vfio-user client is in backports; its firmware comes along.
const QEMU_PIN: &str =
    "Package: src:qemu src:seabios\nPin: release n=trixie-backports\nPin-Priority: 990\n";

/// A kernel for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kernel {
    /// Debian 12's.
    #[value(name = "6.1")]
    Bookworm,
    /// Debian 13's.
    #[value(name = "6.12")]
    Trixie,
}

impl Kernel {
    pub(super) const ALL: [Self; 2] = [Self::Bookworm, Self::Trixie];

    /// The generation of the QAT functions that DPDK's driver is given there: it takes its time for either.
    pub(super) fn dpdk(self) -> &'static str {
        match self {
            Self::Bookworm => "Gen2",
            Self::Trixie => "Gen4",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bookworm => "linux-6.1",
            Self::Trixie => "linux-6.12",
        })
    }
}

/// The tree with QEMU in it.
pub(super) fn qemu(folder: &Path) -> Result<PathBuf> {
    let packages = "qemu-system-x86,seabios,ipxe-qemu";
    unpacked(folder, "qemu", packages, &["trixie", "trixie-backports"])
}

/// The tree with a kernel and its modules in it.
pub(super) fn kernel(folder: &Path, kernel: Kernel) -> Result<PathBuf> {
    let suites = [kernel.suite()];
    unpacked(
        folder,
        &kernel.to_string(),
        "linux-image-cloud-amd64",
        &suites,
    )
}

/// The kernel's image.
pub(super) fn image(tree: &Path) -> Result<PathBuf> {
    let boot = tree.join("boot");
    fs::read_dir(&boot)
        .with_context(|| format!("cannot read {}", boot.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| name.starts_with("vmlinuz-"))
        })
        .with_context(|| format!("no kernel in {}", boot.display()))
}

/// Packages and what they depend on, unpacked and not installed.
fn unpacked(folder: &Path, name: &str, packages: &str, suites: &[&str]) -> Result<PathBuf> {
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
    let pin = folder.join("qemu.pin");
    fs::write(&pin, QEMU_PIN)?;
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--variant=extract"])
        .arg(format!("--include={packages}"))
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg("--setup-hook=mkdir -p \"$1/etc/apt/preferences.d\"")
        .arg(format!(
            "--setup-hook=cp '{}' \"$1/etc/apt/preferences.d/qemu.pref\"",
            pin.display()
        ))
        .arg(suites.first().context("no suite")?)
        .arg(&part);
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
