// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What docs/ci.md tells people to type does what it says.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

#[test]
fn the_shell_of_the_document_runs_as_it_stands() {
    let document = include_str!("../../docs/ci.md");
    let blocks: Vec<&str> = document
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0)
        .collect();
    assert_eq!(blocks.len(), 3);
    let commands = Path::new(env!("CARGO_BIN_EXE_esplanade")).parent().unwrap();
    let path = format!("{}:{}", commands.display(), std::env::var("PATH").unwrap());
    for block in blocks {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new("timeout")
            .args(["60", "sh", "-eu", "-c", block])
            .current_dir(directory.path())
            .env("PATH", &path)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{block}\n{told}");
        let left: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name.to_string_lossy().ends_with(".sock"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
