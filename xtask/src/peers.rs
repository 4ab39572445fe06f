// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Peers of the end-to-end tests that can't be installed beside Debian 12's strongSwan: unpacked below
//! `target/peers`, and kept there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::ci::{cargo_with_networks, test_command};
use crate::debian::{Tree, unpacked};
use crate::prerequisites::{BUILD, END_TO_END, NETWORK, PEER_PLUGINS, VIRTUAL_MACHINE, ensure};
use crate::run;

/// Test files with strongSwan.
const WITH_STRONGSWAN: [&str; 13] = [
    "ike_load",
    "interop_certificates",
    "interop_eap",
    "interop_fragments",
    "interop_ikev1",
    "interop_ml_kem",
    "interop_mobike",
    "interop_nat",
    "interop_pools",
    "interop_ppk",
    "interop_redirect",
    "interop_strongswan",
    "interop_xauth",
];

const LIBRESWAN: &str = "interop_libreswan";

/// A strongSwan that is not the installed one.
struct Strongswan {
    tree: Tree<'static>,
    /// Test files that are nothing to it.
    without: &'static [&'static str],
    /// Tests that are nothing to it contain this.
    skip: &'static str,
}

const STRONGSWANS: [Strongswan; 2] = [
    // 6.0: the last with IKEv1, and Debian's is without ML-KEM.
    Strongswan {
        tree: Tree {
            name: "strongswan-trixie",
            packages: STRONGSWAN,
            suites: &["trixie"],
            pin: "",
            stale: false,
        },
        without: &["interop_ml_kem"],
        skip: "",
    },
    // 6.1: the other way round.
    Strongswan {
        tree: Tree {
            name: "strongswan-forky",
            packages: STRONGSWAN,
            suites: &["forky"],
            pin: "",
            stale: true,
        },
        without: &["interop_ikev1", "interop_xauth"],
        skip: "ikev1",
    },
];

const STRONGSWAN: &str = "charon-systemd,libstrongswan-extra-plugins,libcharon-extra-plugins,\
     libcharon-extauth-plugins,strongswan-swanctl";

/// The tests with peers: those with strongSwan against newer ones than the installed one.
pub(crate) fn run(only: &str) -> Result<ExitCode> {
    ensure(&[BUILD, NETWORK, END_TO_END], PEER_PLUGINS)?;
    let programs = [
        "build",
        "--locked",
        "--package",
        "cli",
        "--package",
        "ikev2d",
    ];
    run::succeed(run::cargo().args(programs))?;
    for strongswan in &STRONGSWANS {
        let wanted = |name: &&&str| name.contains(only) && !strongswan.without.contains(name);
        let files: Vec<_> = WITH_STRONGSWAN.iter().filter(wanted).collect();
        if !files.is_empty() {
            eprintln!("\n== {}", strongswan.tree.name);
            let root = peer(&strongswan.tree)?;
            test(&files, strongswan.skip, Some(&root))?;
        }
    }
    if LIBRESWAN.contains(only) {
        eprintln!("\n== libreswan");
        libreswan()?;
        test(&[&LIBRESWAN], "", None)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn test(files: &[&&str], skip: &str, strongswan: Option<&Path>) -> Result<()> {
    let mut command = test_command(cargo_with_networks());
    command.args(["--package", "tests", "--locked"]);
    for file in files {
        command.args(["--test", file]);
    }
    if let Some(root) = strongswan {
        command.env("ESPLANADE_STRONGSWAN_ROOT", root);
    }
    if !skip.is_empty() {
        command.args(["--", "--skip", skip]);
    }
    run::succeed(&mut command)
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

fn peer(tree: &Tree<'_>) -> Result<PathBuf> {
    let folder = run::target_directory().join("peers");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    ensure(&[VIRTUAL_MACHINE], &[])?;
    unpacked(&folder, tree)
}
