// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The QAT driver with simulated functions keeps the contract.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::sync::Arc;

use driver::DeviceAddress;
use offload_api::conformance;
use offload_api::device::Accelerator;
use sim::RunningCard;
use sim::qat::{Generation, QatConfig};

fn run(generation: Generation, functions: usize) -> conformance::Report {
    let running = RefCell::new(None);
    let report = conformance::run(&|| -> Arc<dyn Accelerator> {
        let dir = tempfile::tempdir().unwrap();
        let configs: Vec<_> = (0..functions)
            .map(|n| QatConfig {
                generation,
                ..QatConfig::new(dir.path().join(format!("vf{n}")))
            })
            .collect();
        let started: Vec<_> = configs
            .iter()
            .map(|config| RunningCard::start_qat(config).unwrap())
            .collect();
        *running.borrow_mut() = Some((started, dir));
        let mut addresses: Vec<_> = configs
            .into_iter()
            .map(|config| DeviceAddress::User(config.socket))
            .collect();
        let address = match addresses.len() {
            1 => addresses.remove(0),
            _ => DeviceAddress::Several(addresses),
        };
        driver::open_card(&address).unwrap().accelerator()
    });
    println!("{report:?}");
    report
}

fn check(report: &conformance::Report) {
    // Twelve of fifteen suites: those without a cipher are software's.
    assert_eq!((report.known_seals, report.known_opens), (192, 192));
    check_rest(report);
}

fn check_rest(report: &conformance::Report) {
    assert!(report.round_trips > 3000);
    assert!(report.refusals > 5000);
    assert!(report.gathered > 1000);
    assert!(report.crypto > 600, "{report:?}");
}

#[test]
fn a_4xxx_function_keeps_the_contract() {
    check(&run(Generation::Gen4, 1));
}

#[test]
fn a_virtual_qat_keeps_the_contract() {
    check(&run(Generation::Virtual, 1));
}

#[test]
fn a_c62x_function_keeps_the_contract() {
    let report = run(Generation::Gen2, 1);
    // One suite less: there is no ChaCha20-Poly1305.
    assert_eq!((report.known_seals, report.known_opens), (176, 176));
    check_rest(&report);
}

#[test]
fn functions_that_read_other_descriptors_are_no_one_accelerator() {
    let dir = tempfile::tempdir().unwrap();
    let start = |generation, name| {
        let config = QatConfig {
            generation,
            ..QatConfig::new(dir.path().join(name))
        };
        let card = RunningCard::start_qat(&config).unwrap();
        (card, DeviceAddress::User(config.socket))
    };
    let (old, new) = (
        start(Generation::Gen2, "old"),
        start(Generation::Gen4, "new"),
    );
    let both = DeviceAddress::Several(vec![old.1, new.1]);
    let error = driver::open_card(&both).err().unwrap();
    assert!(error.to_string().contains("no one accelerator"), "{error}");
}

#[test]
fn three_functions_as_one_keep_the_contract() {
    check(&run(Generation::Gen4, 3));
}
