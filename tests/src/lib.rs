// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the end-to-end tests share.
#![forbid(unsafe_code)]

use std::path::PathBuf;

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
