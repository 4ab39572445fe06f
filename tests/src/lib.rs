// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the end-to-end tests share.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// One of the project's programs, built beside the tests.
///
/// # Panics
/// It is not built.
pub fn program(name: &str) -> PathBuf {
    // target/PROFILE/deps/test-HASH
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join(name);
    assert!(
        path.is_file(),
        "{} is missing: cargo build --package cli --package ikev2d",
        path.display()
    );
    path
}

/// The report of `esplanade demo ARGUMENTS` of two seconds, which left its files in `directory`.
///
/// # Panics
/// It did not succeed, or its report does not say so.
pub fn demo(arguments: &[&str], directory: &Path) -> Value {
    let output = Command::new(program("esplanade"))
        .arg("demo")
        .args(arguments)
        .args(["--seconds", "2", "--json", "--out"])
        .arg(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{error}\n{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["ok"], true);
    report
}

/// The folder of a peer that `cargo ci` unpacks, whether it is there or not.
///
/// # Panics
/// The test is not where cargo builds them.
pub fn peer(name: &str) -> PathBuf {
    // target/PROFILE/deps/test-HASH
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().join("peers").join(name)
}
