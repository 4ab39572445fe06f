// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade device` on a tree of files such as the kernel shows: what it prints, what it writes, and
//! how it exits.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use assert_cmd::Command;
use serde_json::Value;

const CARD: &str = "0000:01:00.0";

struct Tree {
    root: tempfile::TempDir,
}

impl Tree {
    /// A host with an ipa card that a kernel driver has, alone in IOMMU group 7.
    fn new() -> Self {
        let tree = Self {
            root: tempfile::tempdir().unwrap(),
        };
        let at = format!("sys/bus/pci/devices/{CARD}");
        for (name, text) in [
            ("vendor", "0x1b36"),
            ("device", "0x1fa0"),
            ("class", "0x100000"),
            ("driver_override", "(null)"),
        ] {
            tree.file(&format!("{at}/{name}"), text);
        }
        tree.file("sys/bus/pci/drivers_probe", "");
        tree.file("sys/bus/pci/drivers/vfio-pci/unbind", "");
        tree.file("sys/bus/pci/drivers/ipa-kernel/unbind", "");
        tree.link(&format!("{at}/driver"), "sys/bus/pci/drivers/ipa-kernel");
        let group = "sys/kernel/iommu_groups/7";
        tree.link(&format!("{group}/devices/{CARD}"), &at);
        tree.link(&format!("{at}/iommu_group"), group);
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(self.path(target), path).unwrap();
    }

    fn esplanade(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("esplanade").unwrap();
        command
            .arg("device")
            .args(arguments)
            .arg("--root")
            .arg(self.root.path())
            .env("ESPLANADE_VICI", self.path("no-daemon"))
            .timeout(std::time::Duration::from_secs(20));
        command
    }
}

fn output(command: &mut Command, code: i32) -> (String, String) {
    let run = command.assert().code(code);
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (
        text(&run.get_output().stdout),
        text(&run.get_output().stderr),
    )
}

#[test]
fn cards_are_listed_and_shown_as_table_and_as_json() {
    let tree = Tree::new();
    let (table, _) = output(&mut tree.esplanade(&["list"]), 0);
    for part in [
        "pci:0000:01:00.0",
        "1b36:1fa0",
        "ipa IPsec accelerator",
        "ipa-kernel",
    ] {
        assert!(table.contains(part), "{part} in {table}");
    }
    for json in [&["list", "-o", "json"][..], &["list", "--json"]] {
        let (json, _) = output(&mut tree.esplanade(json), 0);
        let cards: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(cards[0]["address"], format!("pci:{CARD}"));
        assert_eq!(cards[0]["iommu_group"], 7);
    }
    let (json, _) = output(&mut tree.esplanade(&["show", CARD, "-o", "json"]), 0);
    let card: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(card["driver"], "ipa-kernel");
    let (table, _) = output(&mut tree.esplanade(&["show", "pci:0000:01:00.0"]), 0);
    assert!(table.contains("IOMMU group"), "{table}");
}

#[test]
fn a_dry_run_prints_the_writes_and_writes_nothing() {
    let tree = Tree::new();
    let (text, _) = output(&mut tree.esplanade(&["bind", CARD, "--dry-run"]), 0);
    let expected = [
        format!("/devices/{CARD}/driver_override"),
        format!("/devices/{CARD}/driver/unbind"),
        "/drivers_probe".to_owned(),
    ];
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    for (line, end) in lines.iter().zip(expected) {
        assert!(line.starts_with("echo ") && line.ends_with(&end), "{line}");
    }
    let read = |path: &str| fs::read_to_string(tree.path(path)).unwrap();
    assert_eq!(
        read(&format!("sys/bus/pci/devices/{CARD}/driver_override")),
        "(null)\n"
    );
    assert_eq!(read("sys/bus/pci/drivers/ipa-kernel/unbind"), "\n");
}

#[test]
fn a_kernel_that_does_not_follow_is_a_failure_and_nothing_stays_written() {
    let tree = Tree::new();
    // Files take what is written, and bind nothing.
    let (_, error) = output(&mut tree.esplanade(&["bind", CARD]), 1);
    assert!(error.contains("expected vfio-pci"), "{error}");
    let path = tree.path(&format!("sys/bus/pci/devices/{CARD}/driver_override"));
    assert_eq!(fs::read_to_string(path).unwrap(), "\n");
}

#[test]
fn a_card_in_use_is_refused_with_status_4() {
    let tree = Tree::new();
    tree.file(
        &format!("sys/bus/pci/devices/{CARD}/net/eth7/flags"),
        "0x1003",
    );
    let (_, error) = output(&mut tree.esplanade(&["bind", CARD]), 4);
    assert!(error.contains("eth7 is up"), "{error}");
    let (_, warning) = output(
        &mut tree.esplanade(&["bind", CARD, "--force", "--dry-run"]),
        0,
    );
    assert!(warning.contains("eth7 is up"), "{warning}");
    let (_, error) = output(&mut tree.esplanade(&["unbind", CARD]), 4);
    assert!(error.contains("ipa-kernel"), "{error}");
}

#[test]
fn no_such_card_is_3_and_wrong_usage_2() {
    let tree = Tree::new();
    let (_, error) = output(&mut tree.esplanade(&["show", "0000:09:00.0"]), 3);
    assert!(error.contains("0000:09:00.0"), "{error}");
    output(&mut tree.esplanade(&["show", "eth0"]), 2);
    output(&mut tree.esplanade(&["bind", "vfio-user:/tmp/card"]), 2);
}

#[test]
fn the_doctor_names_cause_and_fix_and_exits_with_1() {
    let tree = Tree::new();
    let (text, _) = output(&mut tree.esplanade(&["doctor"]), 1);
    assert!(
        text.contains("esplanade device bind pci:0000:01:00.0"),
        "{text}"
    );
    let (json, _) = output(&mut tree.esplanade(&["doctor", CARD, "-o", "json"]), 1);
    let findings: Vec<Value> = serde_json::from_str(&json).unwrap();
    let problems = findings.iter().filter(|f| f["severity"] == "problem");
    for problem in problems {
        assert!(
            problem["cause"].is_string() && problem["fix"].is_string(),
            "{problem}"
        );
    }
}

#[test]
fn every_verb_has_a_manual_page_and_every_shell_completions() {
    let directory = tempfile::tempdir().unwrap();
    let esplanade = || Command::cargo_bin("esplanade").unwrap();
    let to = directory.path().join("man1");
    esplanade()
        .args(["man", "--to"])
        .arg(&to)
        .assert()
        .success();
    for page in ["esplanade", "esplanade-sim", "esplanade-device-bind"] {
        let text = fs::read_to_string(to.join(format!("{page}.1"))).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (script, _) = output(esplanade().args(["completions", shell]), 0);
        assert!(
            script.contains("esplanade") && script.contains("doctor"),
            "{shell}"
        );
    }
}
