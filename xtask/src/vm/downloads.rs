// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QEMU and kernels from Debian, unpacked below `target/vm` and kept there.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::debian::{Tree, unpacked};

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
    unpacked(
        folder,
        &Tree {
            name: "qemu",
            packages: "qemu-system-x86,seabios,ipxe-qemu",
            suites: &["trixie", "trixie-backports"],
            pin: QEMU_PIN,
            stale: false,
        },
    )
}

/// The tree with a kernel and its modules in it.
pub(super) fn kernel(folder: &Path, kernel: Kernel) -> Result<PathBuf> {
    unpacked(
        folder,
        &Tree {
            name: &kernel.to_string(),
            packages: "linux-image-cloud-amd64",
            suites: &[kernel.suite()],
            pin: "",
            stale: false,
        },
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
