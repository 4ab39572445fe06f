// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver with a simulated card keeps the contract.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::sync::Arc;
use std::thread::JoinHandle;

use driver::DeviceAddress;
use offload_api::conformance;
use offload_api::device::Accelerator;
use sim::{CardConfig, SimulatedCard};

/// A simulated card on its thread.
struct Card {
    stop: sim::CardStop,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Drop for Card {
    fn drop(&mut self) {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn the_card_keeps_the_contract() {
    let card = RefCell::new(None);
    let report = conformance::run(&|| -> Arc<dyn Accelerator> {
        let dir = tempfile::tempdir().unwrap();
        let mut config = CardConfig::new(dir.path().join("card.sock"));
        config.max_sas = 64;
        config.queues = 4;
        let simulated = SimulatedCard::bind(&config).unwrap();
        let stop = simulated.stop_handle();
        let thread = Some(std::thread::spawn(move || simulated.run().unwrap()));
        *card.borrow_mut() = Some(Card {
            stop,
            thread,
            _dir: dir,
        });
        driver::open(&DeviceAddress::User(config.socket)).unwrap()
    });
    println!("{report:?}");
    // The simulated card claims everything there is, so nothing may have been left out.
    assert_eq!(report.unsupported, 0);
    assert_eq!((report.known_seals, report.known_opens), (240, 240));
    assert!(report.refusals > 6000);
}
