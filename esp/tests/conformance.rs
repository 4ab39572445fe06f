// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The software engine keeps the contract, that of replays (S54, S55, B36) and of AH (S46, S47, B39) too.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::capability::{Capabilities, Features};
use offload_api::conformance;
use offload_api::device::{Accelerator, AcceleratorInfo, Counters, Health};
use offload_api::error::{DeviceError, InstallError, OpenQueueError, SaError};
use offload_api::event::Event;
use offload_api::frame::FramePool;
use offload_api::queue::{QueueConfig, QueuePair};
use offload_api::sa::{Amend, SaHandle, SaParams, SaUsage, Suite};

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
    assert_eq!(report.ah_known, 8 * 20 + 8 * 18);
    assert_eq!(report.ah_round_trips, 9 * 3 * 2 * 20);
    assert!(report.ah_refusals > 1000);
    // 49 suites, around every third of the 14 shapes, and known ones of 41 of them both ways.
    assert_eq!(report.further, 2 * 41 * 8 + (16 * (5 + 5 + 4) + 5) * 2 * 12);
    assert!(report.refusals > 6000);
    assert!(report.gathered > 1000);
    assert!(report.crypto > 600, "{report:?}");
    // scapy's, 5 suites in 3 modes both ways and their dummies; lengths; those that it pads itself.
    assert_eq!(report.padded, 5 * 4 * (3 * 2 + 1) + 2 * 4 * 9 + 9);
}

#[test]
fn the_software_engine_keeps_the_contract_on_the_callers_thread() {
    conforms(1);
}

#[test]
fn the_software_engine_keeps_the_contract_on_many_threads() {
    conforms(4);
}

/// An engine that can do less, as small cards do.
struct Narrow {
    engine: SoftwareEngine,
    capabilities: Capabilities,
}

impl Accelerator for Narrow {
    fn info(&self) -> AcceleratorInfo {
        self.engine.info()
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn register_pool(&self, pool: &FramePool) -> Result<(), DeviceError> {
        self.engine.register_pool(pool)
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn QueuePair>, OpenQueueError> {
        self.engine.open_queue(config)
    }

    fn install(&self, sa: &SaParams) -> Result<SaHandle, InstallError> {
        sa.validate()?;
        self.capabilities.check(sa)?;
        self.engine.install(sa)
    }

    fn amend(&self, sa: SaHandle, change: &Amend) -> Result<(), SaError> {
        self.engine.amend(sa, change)
    }

    fn retire(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        self.engine.retire(sa)
    }

    fn usage(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        self.engine.usage(sa)
    }

    fn poll_events(&self, out: &mut Vec<Event>) -> usize {
        self.engine.poll_events(out)
    }

    fn counters(&self) -> Counters {
        self.engine.counters()
    }

    fn health(&self) -> Health {
        self.engine.health()
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.engine.reset()
    }
}

fn narrow(suite: Suite, lacks: Features, replay_window_max: u32) -> conformance::Report {
    conformance::run(&|| -> Arc<dyn Accelerator> {
        let engine = SoftwareEngine::new(SoftwareConfig {
            threads: 1,
            max_sas: 64,
            ..SoftwareConfig::default()
        })
        .unwrap();
        let mut capabilities = engine.capabilities().clone();
        capabilities.suites = vec![suite];
        capabilities.features -= lacks;
        capabilities.replay_window_max = replay_window_max;
        Arc::new(Narrow {
            engine,
            capabilities,
        })
    })
}

#[test]
fn an_engine_that_can_do_less_keeps_the_contract_for_what_it_can() {
    let lacks = Features::ESN
        | Features::TRANSPORT
        | Features::OUTER_HEADERS
        | Features::EXPLICIT_NUMBERING
        | Features::LIFETIMES;
    let report = narrow(Suite::AES_256_GCM, lacks, 64);
    // Tunnels without outer headers around IPv4 and IPv6.
    assert_eq!(report.round_trips, 2 * 12);
    assert_eq!((report.known_seals, report.known_opens), (0, 0));
    assert_eq!(report.unsupported, 945, "{report:?}");

    let report = narrow(
        Suite::from_name("null-sha384").unwrap(),
        Features::TUNNEL,
        4096,
    );
    // Transport mode, bare and in UDP, IPv4 and IPv6, with and without ESN.
    assert_eq!(report.round_trips, 4 * 2 * 12);
    assert_eq!((report.known_seals, report.known_opens), (4, 4));
    assert_eq!(report.unsupported, 929, "{report:?}");
}
