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
use sim::qat::{Generation, QatConfig};
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

/// A QAT function, and what the command says of it.
fn qat(verb: &str, arguments: &[&str], generation: Generation) -> String {
    let directory = tempfile::tempdir().unwrap();
    let running = RunningCard::start_qat(&QatConfig {
        generation,
        ..QatConfig::new(directory.path().join("vf"))
    })
    .unwrap();
    let daemon = directory.path().join("no-daemon");
    stdout(
        &mut esplanade(verb, running.socket(), &daemon, arguments),
        0,
    )
}

/// As programs read it: the names are a promise.
#[test]
fn a_qat_is_laid_open_by_the_same_verbs() {
    for (generation, name, id, pairs, chacha) in [
        (Generation::Gen4, "Gen4", "4xxx", 4, true),
        (Generation::Gen2, "Gen2", "C62x", 2, false),
    ] {
        for verb in ["inspect", "show"] {
            let json = qat(verb, &["-o", "json"], generation);
            let device: Value = serde_json::from_str(&json).unwrap();
            assert_eq!(device["health"], "ok", "{json}");
            assert_eq!(device["driver"], "vfio-user", "{json}");
            assert!(device["product"].as_str().unwrap().contains(id), "{json}");
            let suites = device["suites"].as_array().unwrap();
            assert_eq!(
                suites.contains(&"chacha20poly1305".into()),
                chacha,
                "{json}"
            );
            let named = |list: &str, name: &str| {
                let list = device[list].as_array().unwrap();
                let found = list.iter().find(|entry| entry[0] == name);
                found.unwrap_or_else(|| panic!("{name}: {json}"))[1].clone()
            };
            assert_eq!(named("limits", "queue pairs"), pairs);
            assert_eq!(named("limits", "pieces of a packet"), 16);
            for counter in ["sealed", "opened", "errors", "aborted", "bogus responses"] {
                assert_eq!(named("counters", counter), 0);
            }
            let function = &device["functions"][0];
            assert_eq!(function["number"], 0);
            assert_eq!(function["generation"], name, "{json}");
            assert_eq!(function["interrupts"], true, "{json}");
            assert_eq!(function["physical_function"], true, "{json}");
            assert_eq!(function["lost"], Value::Null, "{json}");
            let found = function["pairs"].as_array().unwrap();
            assert_eq!(found.len(), pairs, "{json}");
            for key in [
                "bundle",
                "ring",
                "request_head",
                "request_tail",
                "response_head",
                "response_tail",
            ] {
                assert!(found[0][key].is_u64(), "{key}: {json}");
            }
            assert_eq!(found[0]["served"], false, "{json}");
        }
        let table = qat("inspect", &[], generation);
        for part in ["RING", "COUNTER", "bogus responses", "most SAs", "crypto"] {
            assert!(table.contains(part), "{part} in {table}");
        }
    }
}

#[test]
fn a_qat_passes_the_self_test() {
    let json = qat("selftest", &["-o", "json"], Generation::Gen4);
    let results: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert!(results.len() > 10, "{json}");
    for result in &results {
        assert_eq!(result["result"], "pass", "{json}");
    }
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
    let tests = results.iter().map(|result| result["test"].as_str());
    let tests: Vec<_> = tests.flatten().collect();
    assert!(tests.contains(&"counters"), "{tests:?}");

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
