// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver with a simulated card keeps the contract.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::sync::Arc;

use driver::DeviceAddress;
use offload_api::conformance;
use offload_api::device::Accelerator;
use sim::{CardConfig, RunningCard};

#[test]
fn the_card_keeps_the_contract() {
    let card = RefCell::new(None);
    let report = conformance::run(&|| -> Arc<dyn Accelerator> {
        let dir = tempfile::tempdir().unwrap();
        let mut config = CardConfig::new(dir.path().join("card.sock"));
        config.max_sas = 64;
        config.queues = 4;
        *card.borrow_mut() = Some((RunningCard::start(&config).unwrap(), dir));
        driver::open(&DeviceAddress::User(config.socket)).unwrap()
    });
    println!("{report:?}");
    // The simulated card claims everything there is, so nothing may have been left out.
    assert_eq!(report.unsupported, 0);
    assert_eq!((report.known_seals, report.known_opens), (240, 240));
    assert!(report.refusals > 6000);
    assert!(report.gathered > 1000);
    // It opens what is padded.
    assert_eq!(report.padded, 5 * 4 * (3 + 1) + 2 * 4 * 9);
}

/// The unchanged driver on the RTL.
#[cfg(feature = "rtl")]
#[test]
fn the_card_in_rtl_keeps_the_contract() {
    let card = RefCell::new(None);
    let report = conformance::run(&|| -> Arc<dyn Accelerator> {
        let dir = tempfile::tempdir().unwrap();
        let mut config = CardConfig::new(dir.path().join("card.sock"));
        config.max_sas = 64;
        config.queues = 4;
        config.rtl = Some(sim::BusTiming::default());
        *card.borrow_mut() = Some((RunningCard::start(&config).unwrap(), dir));
        driver::open(&DeviceAddress::User(config.socket)).unwrap()
    });
    println!("{report:?}");
    // AES-GCM only.
    assert!(report.unsupported > 0);
    assert_eq!((report.known_seals, report.known_opens), (32, 32));
    assert!(report.refusals > 100);
    assert!(report.gathered > 100);
}
