// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Peers of the end-to-end tests that can't be installed beside Debian 12's strongSwan: unpacked below
//! `target/peers`, and kept there.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::ci::{cargo_with_networks, test_command};
use crate::debian::{Tree, unpacked};
use crate::prerequisites::{BUILD, END_TO_END, NETWORK, PEER_PLUGINS, VIRTUAL_MACHINE, ensure};
use crate::run;

/// Tests with peers.
const WITH_PEERS: [&str; 13] = [
    "ike_load",
    "interop_certificates",
    "interop_eap",
    "interop_fragments",
    "interop_ikev1",
    "interop_libreswan",
    "interop_ml_kem",
    "interop_nat",
    "interop_pools",
    "interop_ppk",
    "interop_redirect",
    "interop_strongswan",
    "interop_xauth",
];

/// The tests with peers, with Debian testing's strongSwan in place of the installed one.
pub(crate) fn run(only: &str) -> Result<ExitCode> {
    ensure(&[BUILD, NETWORK, END_TO_END], PEER_PLUGINS)?;
    let (root, _) = (strongswan()?, libreswan()?);
    let programs = [
        "build",
        "--locked",
        "--package",
        "cli",
        "--package",
        "ikev2d",
    ];
    run::succeed(run::cargo().args(programs))?;
    let mut command = test_command(cargo_with_networks());
    command.env("ESPLANADE_STRONGSWAN_ROOT", root);
    command.args(["--package", "tests", "--locked"]);
    for binary in WITH_PEERS.iter().filter(|name| name.contains(only)) {
        command.args(["--test", binary]);
    }
    run::succeed(&mut command)?;
    Ok(ExitCode::SUCCESS)
}

/// libreswan 5, a second IKE daemon.
pub(crate) fn libreswan() -> Result<PathBuf> {
    peer(&Tree {
        name: "libreswan",
        packages: "libreswan",
        suites: &["trixie"],
        pin: "",
        stale: false,
    })
}

/// strongSwan 6 with ML-KEM.
fn strongswan() -> Result<PathBuf> {
    peer(&Tree {
        name: "strongswan-6",
        packages: "charon-systemd,libstrongswan-extra-plugins,libcharon-extra-plugins,libcharon-extauth-plugins",
        suites: &["forky"],
        pin: "",
        stale: true,
    })
}

fn peer(tree: &Tree<'_>) -> Result<PathBuf> {
    let folder = run::target_directory().join("peers");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    ensure(&[VIRTUAL_MACHINE], &[])?;
    unpacked(&folder, tree)
}
