// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The manual page that the systemd unit names.
#![allow(clippy::unwrap_used)]

use std::process::Command;

fn says(option: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ikev2d"))
        .arg(option)
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{option}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_manual_page_has_every_option() {
    let page = says("--man");
    assert!(page.contains(".TH ikev2d 8"), "{page}");
    let plain = page.replace('\\', "");
    let help = says("--help");
    let options = help
        .split_whitespace()
        .filter(|word| word.starts_with("--"));
    let options: Vec<&str> = options.filter(|word| word.len() > 2).collect();
    assert!(options.len() >= 5, "{help}");
    for option in options {
        assert!(plain.contains(option), "{option}: {page}");
    }
}
