// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The workspace's own files, for what tests hold of their text.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::run::workspace;

/// All files below a folder whose name ends so, by their path in the workspace.
pub(crate) fn files(ending: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![workspace()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(ending) && path.is_file() {
                let within = path.strip_prefix(workspace()).unwrap();
                found.insert(within.display().to_string());
            }
        }
    }
    found
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(workspace().join(path)).unwrap()
}
