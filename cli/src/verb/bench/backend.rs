// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Engines by their names on the command line.

use std::sync::Arc;

use anyhow::anyhow;
use bench_harness::case::Ptest;
use bench_harness::report::EngineInfo;
use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::device::Accelerator;

use super::Arguments;
use crate::engine::Simulated;
use crate::failure::Failure;
use crate::verb::device::open_card;
use crate::verb::sim::Model;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Backend {
    /// Software ESP, each thread doing its own packets.
    Software,
    /// A simulated ipa card.
    Sim,
    /// The same, its data path the verilated RTL.
    Rtl,
    /// A simulated QAT 4xxx.
    Qat,
    /// A simulated QAT C62x.
    QatGen2,
    /// The device of --device.
    Card,
}

/// An engine, open.
pub(super) struct Engine {
    pub(super) backend: Backend,
    pub(super) accelerator: Arc<dyn Accelerator>,
    /// Dropped behind its driver.
    _simulated: Option<Simulated>,
}

/// Queue pairs that a simulated card has at most.
const MOST_QUEUES: usize = 64;

impl Backend {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Software => "software",
            Self::Sim => "sim",
            Self::Rtl => "rtl",
            Self::Qat => "qat",
            Self::QatGen2 => "qat-gen2",
            Self::Card => "card",
        }
    }

    /// Packets of a round where nobody says how many: a simulated clock is slow, and so is checking.
    pub(super) fn total_ops(self, ptest: Ptest) -> u64 {
        let most = match self {
            Self::Software => 200_000,
            Self::Sim | Self::Qat | Self::QatGen2 | Self::Card => 50_000,
            Self::Rtl => 256,
        };
        match ptest {
            Ptest::Verify => most.min(4096),
            _ => most,
        }
    }

    pub(super) fn open(self, queues: usize, arguments: &Arguments) -> Result<Engine, Failure> {
        let model = match self {
            Self::Software => {
                let engine = SoftwareEngine::new(SoftwareConfig {
                    threads: 1,
                    ..SoftwareConfig::default()
                })?;
                return Ok(self.opened(Arc::new(engine)));
            }
            Self::Card => {
                let address = arguments.device.as_ref();
                let address = address.ok_or_else(|| {
                    Failure::usage(anyhow!("--backend card needs --device ADDRESS"))
                })?;
                return Ok(self.opened(open_card(address)?.accelerator()));
            }
            Self::Sim => Model::Ipa,
            Self::Rtl if !cfg!(feature = "rtl") => {
                return Err(Failure::refused(anyhow!(
                    "this `esplanade` was built without the RTL: build it with --features rtl, which needs \
                     verilator 5"
                )));
            }
            Self::Rtl => Model::Rtl,
            Self::Qat => Model::QatGen4,
            Self::QatGen2 => Model::QatGen2,
        };
        let enough = |config: &mut sim::CardConfig| {
            let most = config.queues.max(queues.min(MOST_QUEUES) as u16);
            config.queues = most;
        };
        let simulated = Simulated::start(model, enough)?;
        let mut engine = self.opened(simulated.accelerator());
        engine._simulated = Some(simulated);
        Ok(engine)
    }

    fn opened(self, accelerator: Arc<dyn Accelerator>) -> Engine {
        Engine {
            backend: self,
            accelerator,
            _simulated: None,
        }
    }
}

impl Engine {
    pub(super) fn info(&self) -> EngineInfo {
        let info = self.accelerator.info();
        EngineInfo {
            name: self.backend.name().to_owned(),
            product: format!("{}, {}", info.product, info.driver),
            firmware: info.firmware,
        }
    }
}
