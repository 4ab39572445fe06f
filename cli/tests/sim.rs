// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade sim` refuses what it can't be, and says that it was asked wrongly.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use assert_cmd::Command;

/// What it says to these options: wrong usage, with a text.
fn refusal(options: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let refused = Command::cargo_bin("esplanade")
        .unwrap()
        .args(["sim", "--socket"])
        .arg(dir.path().join("card"))
        .args(options)
        // One that is not refused serves for ever.
        .timeout(Duration::from_secs(60))
        .assert()
        .code(2);
    String::from_utf8(refused.get_output().stderr.clone()).unwrap()
}

#[test]
fn a_qat_refuses_what_only_an_ipa_card_can_do() {
    let capture = tempfile::NamedTempFile::new().unwrap();
    let capture = capture.path().display().to_string();
    let ports = ["--wire=none", "--host=none", "--exception=none"];
    for (name, options) in [
        ("--wire", &ports[..]),
        ("--rate", &["--rate=1G"]),
        ("--latency", &["--latency=1us"]),
        ("--capture", &["--capture", &capture]),
        ("--poll", &["--poll"]),
        ("--null-crypto", &["--null-crypto"]),
        ("--max-sas", &["--max-sas=8"]),
        ("--queues", &["--queues=2"]),
    ] {
        let options = [&["--model=qat-gen4"], options].concat();
        let text = refusal(&options);
        assert!(text.contains(name) && text.contains("QAT"), "{text}");
    }
}

#[test]
fn limits_out_of_range_are_wrong_usage() {
    for functions in ["--functions=0", "--functions=17"] {
        for model in ["--model=ipa", "--model=qat-gen2"] {
            assert!(refusal(&[model, functions]).contains("1..=16"));
        }
    }
    assert!(refusal(&["--queues=65"]).contains("expected 1 to 64, found 65"));
}
