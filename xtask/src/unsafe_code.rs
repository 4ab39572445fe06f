// SPDX-License-Identifier: Apache-2.0 OR MIT
//! That `unsafe` is where docs/architecture.md says, and nowhere else. The lints do the rest: they deny
//! `unsafe` in every crate, and blocks without `// SAFETY:`, unless a module asks for it by name.
#![cfg(test)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::run::workspace;
use crate::sources::{files, read};

/// The files that the section names; `a/{b,c}.rs` stands for two.
fn named() -> BTreeSet<String> {
    let text = read("docs/architecture.md");
    let section = text.split("\n## Where unsafe is\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut names = BTreeSet::new();
    for name in section.split('`').skip(1).step_by(2) {
        if !name.ends_with(".rs") {
            continue;
        }
        match name.split_once('{').and_then(|(before, rest)| {
            let (middle, after) = rest.split_once('}')?;
            Some((before, middle, after))
        }) {
            Some((before, middle, after)) => {
                names.extend(
                    middle
                        .split(',')
                        .map(|part| format!("{before}{part}{after}")),
                );
            }
            None => {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

/// Those that ask the lint for leave.
fn asking() -> BTreeSet<String> {
    let leave = ["expect", "allow"].map(|attribute| format!("{attribute}(unsafe_code"));
    let mut all = files(".rs");
    all.retain(|path| {
        let text: String = read(path).split_whitespace().collect();
        leave.iter().any(|leave| text.contains(leave))
    });
    all
}

#[test]
fn unsafe_is_where_the_architecture_says_and_nowhere_else() {
    assert_eq!(asking(), named());
}

#[test]
fn every_package_takes_the_workspaces_lints() {
    for manifest in files("Cargo.toml") {
        // The fuzz targets are no part of the workspace.
        if manifest == "Cargo.toml" || manifest.starts_with("fuzz/") {
            continue;
        }
        let text = read(&manifest);
        let own = [
            "[lints.rust]\nunsafe_code = \"deny\"",
            "undocumented_unsafe_blocks = \"deny\"",
        ];
        let takes = text.contains("[lints]\nworkspace = true");
        assert!(
            takes || own.iter().all(|lint| text.contains(lint)),
            "{manifest}"
        );
    }
    let text = read("Cargo.toml");
    for lint in [
        "unsafe_code = \"deny\"",
        "undocumented_unsafe_blocks = \"deny\"",
    ] {
        assert!(text.contains(lint), "{lint}");
    }
}

#[test]
fn crates_without_unsafe_forbid_it() {
    let asking = asking();
    for manifest in files("Cargo.toml") {
        let folder = PathBuf::from(&manifest);
        let folder = folder.parent().unwrap().join("src");
        let holds = |path: &String| Path::new(path).starts_with(&folder);
        if manifest == "Cargo.toml" || manifest.starts_with("fuzz/") || asking.iter().any(holds) {
            continue;
        }
        for root in ["lib.rs", "main.rs"].map(|root| folder.join(root)) {
            if workspace().join(&root).exists() {
                let forbids = read(&root).contains("#![forbid(unsafe_code)]");
                assert!(forbids, "{} does not forbid unsafe code", root.display());
            }
        }
    }
}
