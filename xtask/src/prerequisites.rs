// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the demo and the end-to-end tests need beyond cargo: installed where that is allowed, told where not.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run;

/// A program, and the Debian package that has it.
pub(crate) struct Need {
    program: &'static str,
    package: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// To build: OpenSSL is compiled from its sources.
pub(crate) const BUILD: &[Need] = &[
    need("cc", "gcc"),
    need("make", "make"),
    need("perl", "perl"),
];

/// To make networks and look at them.
pub(crate) const NETWORK: &[Need] = &[need("ip", "iproute2"), need("ping", "iputils-ping")];

/// For the end-to-end tests: peers, translators and second opinions.
pub(crate) const END_TO_END: &[Need] = &[
    need("nft", "nftables"),
    need("tcpdump", "tcpdump"),
    need("tshark", "tshark"),
    need("iperf3", "iperf3"),
    need("swanctl", "strongswan-swanctl"),
    need("charon-systemd", "charon-systemd"),
    need("ike-scan", "ike-scan"),
    // Its OCSP responder.
    need("openssl", "openssl"),
];

/// To simulate the RTL.
pub(crate) const RTL: &[Need] = &[
    need("verilator", "verilator"),
    need("g++", "g++"),
    need("python3", "python3-venv"),
];

/// To synthesise it.
pub(crate) const SYNTHESIS: &[Need] = &[need("python3", "python3-venv")];

/// To fetch and start virtual machines.
pub(crate) const VIRTUAL_MACHINE: &[Need] = &[
    need("mmdebstrap", "mmdebstrap"),
    need("busybox", "busybox-static"),
    need("cpio", "cpio"),
    need("xz", "xz-utils"),
];

/// DPDK's own test programs.
pub(crate) const DPDK: &[Need] = &[
    need("unshare", "util-linux"),
    need("dpdk-test-crypto-perf", "dpdk-dev"),
    need("dpdk-test", "dpdk-dev"),
];

/// The drivers that they load.
pub(crate) const DPDK_DRIVERS: &[&str] = &[
    "librte-common-qat23",
    "librte-bus-pci23",
    "librte-mempool-ring23",
];

/// Packages without a program of their own that come with the peers above.
pub(crate) const PEER_PLUGINS: &[&str] = &[
    "libstrongswan-standard-plugins",
    "libstrongswan-extra-plugins",
    "libcharon-extra-plugins",
    "libcharon-extauth-plugins",
];

/// Installs what is missing if this is Debian and root; otherwise an error with the exact command.
/// `extra` are packages without a program that tells whether they are there: Debian's own records do.
pub(crate) fn ensure(needs: &[&[Need]], extra: &[&str]) -> Result<()> {
    let missing: Vec<&str> = needs
        .iter()
        .flat_map(|group| group.iter())
        .filter(|need| !on_path(need.program))
        .map(|need| need.package)
        .collect();
    // libc's headers are no program, but nothing compiles without them.
    let headers = (!Path::new("/usr/include/stdio.h").exists()).then_some("libc6-dev");
    let extra = extra
        .iter()
        .copied()
        .filter(|package| is_not_installed(package));
    let packages: Vec<&str> = missing.into_iter().chain(headers).chain(extra).collect();
    if packages.is_empty() {
        return Ok(());
    }
    install(&packages)
}

/// Installs Debian packages if this is Debian and root; otherwise an error with the exact command.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let line = format!(
        "apt-get install --yes --no-install-recommends {}",
        packages.join(" ")
    );
    if !on_path("apt-get") {
        bail!("missing, by their Debian names: {}", packages.join(" "));
    }
    if !run::is_root() {
        bail!("some programs are missing; install them and come back:\n  sudo {line}");
    }
    eprintln!("installing: {}", packages.join(" "));
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-qq", "-o=Dpkg::Use-Pty=0"]);
        apt
    };
    run::succeed(apt().arg("update"))?;
    run::succeed(
        apt()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages),
    )
}

/// Whether Debian knows that a package is not there; elsewhere nobody can tell.
fn is_not_installed(package: &str) -> bool {
    let records = Path::new("/var/lib/dpkg/info");
    let list = |architecture: &str| records.join(format!("{package}{architecture}.list"));
    let architecture = match env::consts::ARCH {
        "x86_64" => ":amd64",
        "aarch64" => ":arm64",
        _ => "",
    };
    records.is_dir() && !list("").exists() && !list(architecture).exists()
}

/// Whether a program is on the path or where Debian keeps those for root.
pub(crate) fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|directory| directory.join(program).is_file())
}
