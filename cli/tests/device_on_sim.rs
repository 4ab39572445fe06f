// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade device inspect`, `selftest` and `reset` on a simulated card.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use assert_cmd::Command;
use driver::DeviceAddress;
use serde_json::Value;
use sim::fault::{FaultPlan, FaultRule};
use sim::inline::InlineConfig;
use sim::port::PortSpec;
use sim::{CardConfig, RunningCard};

struct Card {
    running: RunningCard,
    directory: tempfile::TempDir,
}

impl Card {
    fn new(faults: &[&str]) -> Self {
        Self::with(faults, None)
    }

    fn with(faults: &[&str], inline: Option<InlineConfig>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = CardConfig::new(directory.path().join("card"));
        let faults: Vec<FaultRule> = faults.iter().map(|fault| fault.parse().unwrap()).collect();
        config.faults = FaultPlan::new(faults, 1);
        config.inline = inline;
        Self {
            running: RunningCard::start(&config).unwrap(),
            directory,
        }
    }

    fn esplanade(&self, verb: &str, arguments: &[&str]) -> Command {
        esplanade(
            verb,
            self.running.socket(),
            &self.directory.path().join("no-daemon"),
            arguments,
        )
    }
}

fn esplanade(verb: &str, card: &Path, daemon: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("esplanade").unwrap();
    command
        .args(["device", verb])
        .arg(format!("vfio-user:{}", card.display()))
        .args(arguments)
        .env("ESPLANADE_VICI", daemon)
        .timeout(std::time::Duration::from_secs(30));
    command
}

fn stdout(command: &mut Command, code: i32) -> String {
    let run = command.assert().code(code);
    String::from_utf8_lossy(&run.get_output().stdout).into_owned()
}

#[test]
fn a_card_is_laid_open_with_registers_by_name() {
    let card = Card::new(&[]);
    let table = stdout(&mut card.esplanade("inspect", &[]), 0);
    for part in [
        "identity.MAGIC",
        "IPA1",
        "control.STATUS",
        "READY",
        "aes256gcm16",
        "most SAs",
    ] {
        assert!(
            table.to_lowercase().contains(&part.to_lowercase()),
            "{part} in {table}"
        );
    }
    let json = stdout(&mut card.esplanade("inspect", &["-o", "json"]), 0);
    let card: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(card["health"], "ok");
    assert_eq!(card["abi"][0], 1);
    assert_eq!(card["function"], serde_json::json!([0, 1]));
    let registers = card["registers"].as_array().unwrap();
    assert!(
        registers
            .iter()
            .any(|register| register["name"] == "statistics.DMA_FAULTS")
    );
}

#[test]
fn a_simulated_card_is_shown_without_its_registers() {
    let card = Card::new(&[]);
    let table = stdout(&mut card.esplanade("show", &[]), 0);
    assert!(
        table.contains("ipa IPsec accelerator") && table.contains("most SAs"),
        "{table}"
    );
    assert!(!table.contains("identity.MAGIC"), "{table}");
    let json = stdout(&mut card.esplanade("show", &["-o", "json"]), 0);
    let card: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(card["driver"], "vfio-user");
}

#[test]
fn ports_of_an_inline_card_are_shown_and_others_have_none() {
    let ports = |card: &Card| {
        let json = stdout(&mut card.esplanade("inspect", &["-o", "json"]), 0);
        let card: Value = serde_json::from_str(&json).unwrap();
        card["ports"].as_array().unwrap().clone()
    };
    assert!(ports(&Card::new(&[])).is_empty());
    let none = InlineConfig {
        wire: PortSpec::None,
        host: PortSpec::None,
        exception: PortSpec::None,
    };
    let inline = Card::with(&[], Some(none));
    let found = ports(&inline);
    let roles: Vec<_> = found
        .iter()
        .map(|port| port["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["wire", "host", "exception"]);
    let table = stdout(&mut inline.esplanade("inspect", &[]), 0);
    assert!(
        table.contains("EXCEPTIONS") && table.contains("identity.PORTS"),
        "{table}"
    );
}

#[test]
fn a_good_card_passes_every_test_and_a_bad_one_is_named() {
    let card = Card::new(&[]);
    let json = stdout(&mut card.esplanade("selftest", &["-o", "json"]), 0);
    let results: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert!(results.len() > 10, "{json}");
    assert!(
        results.iter().all(|result| result["result"] == "pass"),
        "{json}"
    );

    let bad = Card::new(&["corrupt-output=1/1"]);
    let text = stdout(&mut bad.esplanade("selftest", &[]), 1);
    assert!(
        text.contains("the sealed octets differ") && text.contains("FAIL: "),
        "{text}"
    );
}

#[test]
fn a_free_card_is_reset_without_asking() {
    let card = Card::new(&[]);
    let json = stdout(&mut card.esplanade("reset", &["-o", "json"]), 0);
    let reset: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&reset["by-daemon"], &reset["sas"]),
        (&false.into(), &0.into())
    );
}

#[test]
fn a_card_that_another_driver_has_is_left_alone() {
    let card = Card::new(&[]);
    let address = DeviceAddress::User(card.running.socket().to_owned());
    let theirs = driver::open(&address).unwrap();
    for verb in ["inspect", "reset", "selftest"] {
        let run = card.esplanade(verb, &[]).assert().code(4);
        let error = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        assert!(error.contains("another driver has the device"), "{error}");
    }
    assert!(theirs.heartbeat().is_ok());
}

#[test]
fn no_card_is_3() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nothing");
    for verb in ["inspect", "reset", "selftest"] {
        let run = esplanade(verb, &path, &path, &[]).assert().code(3);
        let error = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        assert!(error.contains("nothing"), "{error}");
    }
}
