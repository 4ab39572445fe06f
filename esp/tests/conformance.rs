// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The software engine keeps the contract.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::conformance;
use offload_api::device::Accelerator;

fn conforms(threads: usize) {
    let report = conformance::run(&|| -> Arc<dyn Accelerator> {
        let engine = SoftwareEngine::new(SoftwareConfig {
            threads,
            max_sas: 64,
            ..SoftwareConfig::default()
        });
        Arc::new(engine.unwrap())
    });
    println!("{report:?}");
    // It claims everything there is, so nothing may have been left out.
    assert_eq!(report.unsupported, 0);
    assert_eq!((report.known_seals, report.known_opens), (240, 240));
    assert_eq!(report.round_trips, 15 * 14 * 2 * 12);
    assert!(report.refusals > 6000);
}

#[test]
fn the_software_engine_keeps_the_contract_on_the_callers_thread() {
    conforms(1);
}

#[test]
fn the_software_engine_keeps_the_contract_on_many_threads() {
    conforms(4);
}
