// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What QAT functions tell of themselves.

use offload_api::device::{Accelerator, Health};
use offload_api::error::DeviceError;
use serde::{Deserialize, Serialize};

use super::QatCard;

/// QAT functions as one accelerator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QatReport {
    /// Where it is.
    pub address: String,
    /// What it is.
    pub product: String,
    /// Its transport.
    pub driver: String,
    /// How it is.
    pub health: String,
    /// Its suites.
    pub suites: Vec<String>,
    /// Its limits, by name.
    pub limits: Vec<(String, u64)>,
    /// What it has done, all lives together, by name.
    pub counters: Vec<(String, u64)>,
    /// Its functions.
    pub functions: Vec<FunctionReport>,
}

/// One function.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FunctionReport {
    /// Which of them, from 0.
    pub number: usize,
    /// What it is.
    pub product: String,
    /// Its generation.
    pub generation: String,
    /// Whether it interrupts; it is polled otherwise.
    pub interrupts: bool,
    /// Whether its physical function answers.
    pub physical_function: bool,
    /// Why it is lost, if it is.
    pub lost: Option<String>,
    /// Its ring pairs for symmetric cryptography.
    pub pairs: Vec<PairReport>,
}

/// A ring pair's registers. Heads and tails are octets from its rings' bases.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PairReport {
    /// Its bundle.
    pub bundle: u32,
    /// Its request ring in the bundle.
    pub ring: u32,
    /// The arbiter serves it.
    pub served: bool,
    /// Where the function is in the requests.
    pub request_head: u32,
    /// Where the driver is.
    pub request_tail: u32,
    /// Where the driver is in the responses.
    pub response_head: u32,
    /// Where the function is.
    pub response_tail: u32,
}

impl QatCard {
    /// Looks into it.
    ///
    /// # Errors
    /// A register can't be read.
    pub fn inspect(&self) -> Result<QatReport, DeviceError> {
        let life = self.life();
        let functions = life.functions.iter().enumerate();
        let functions = functions.map(|(number, function)| {
            let lost = function.lost_reason();
            let pairs = match lost {
                Some(_) => Ok(Vec::new()),
                None => function
                    .pairs
                    .iter()
                    .map(|pair| function.look(*pair))
                    .collect(),
            };
            Ok(FunctionReport {
                number,
                product: function.product.to_owned(),
                generation: format!("{:?}", function.generation),
                interrupts: function.interrupts(),
                physical_function: function.is_heard,
                lost,
                pairs: pairs?,
            })
        });
        let functions: Result<_, DeviceError> = functions.collect();
        let info = self.info();
        let most = &self.capabilities;
        let limits = [
            ("SAs", most.max_sas.into()),
            ("queue pairs", most.max_queues.into()),
            ("ring entries", most.max_depth.into()),
            ("octets of a packet", most.max_packet.into()),
            ("pieces of a packet", most.max_gather.into()),
            ("replay window", most.replay_window_max.into()),
        ];
        let done = self.counters();
        let counters = [
            ("sealed", done.sealed),
            ("sealed octets", done.sealed_bytes),
            ("opened", done.opened),
            ("opened octets", done.opened_bytes),
            ("errors", done.errors),
            ("aborted", done.aborted),
            ("bogus responses", done.bogus_completions),
            ("SAs", done.sas),
        ];
        let named = |(name, value): (&str, u64)| (name.to_owned(), value);
        Ok(QatReport {
            address: info.name,
            product: info.product,
            driver: info.driver,
            health: match self.health() {
                Health::Ok => "ok".to_owned(),
                Health::Resetting => "resetting".to_owned(),
                Health::Lost { reason } => format!("lost: {reason}"),
            },
            suites: self
                .capabilities
                .suites
                .iter()
                .map(ToString::to_string)
                .collect(),
            limits: limits.map(named).into(),
            counters: counters.map(named).into(),
            functions: functions?,
        })
    }
}
