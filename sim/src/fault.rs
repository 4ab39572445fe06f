// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Injected faults, by name and seed.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A completion is never written.
    DropCompletion,
    /// A completion is written twice.
    DuplicateCompletion,
    /// A completion names a slot that no operation has.
    ForgeSlot,
    /// A completion claims more octets than the buffer has.
    ForgeLength,
    /// A completion has a status that does not exist.
    ForgeStatus,
    /// A sealed packet has a flipped bit.
    CorruptOutput,
    /// The card stops working for good.
    Stall,
    /// An interrupt is not sent.
    LoseInterrupt,
}

impl Fault {
    const ALL: [(&'static str, Self); 8] = [
        ("drop-completion", Self::DropCompletion),
        ("duplicate-completion", Self::DuplicateCompletion),
        ("forge-slot", Self::ForgeSlot),
        ("forge-length", Self::ForgeLength),
        ("forge-status", Self::ForgeStatus),
        ("corrupt-output", Self::CorruptOutput),
        ("stall", Self::Stall),
        ("lose-interrupt", Self::LoseInterrupt),
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL
            .iter()
            .find(|(_, fault)| fault == self)
            .map_or("?", |(name, _)| name);
        f.write_str(name)
    }
}

/// A fault and how often: on average once in so many chances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRate {
    /// What.
    pub fault: Fault,
    /// Once in this many.
    pub one_in: u64,
}

/// The text is no `NAME=1/N`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("fault {found:?}: expected NAME=1/N with NAME one of {}", names())]
pub struct ParseFaultError {
    found: String,
}

fn names() -> String {
    Fault::ALL.map(|(name, _)| name).join(", ")
}

impl FromStr for FaultRate {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseFaultError {
            found: text.to_owned(),
        };
        let (name, rate) = text.split_once('=').ok_or_else(error)?;
        let (_, fault) = Fault::ALL
            .into_iter()
            .find(|(n, _)| *n == name)
            .ok_or_else(error)?;
        let one_in = rate
            .strip_prefix("1/")
            .and_then(|n| n.parse().ok())
            .filter(|n| *n > 0);
        Ok(Self {
            fault,
            one_in: one_in.ok_or_else(error)?,
        })
    }
}

/// When to misbehave; the same seed gives the same faults for the same traffic.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    rates: Vec<FaultRate>,
    state: u64,
}

impl FaultPlan {
    /// A plan.
    pub fn new(rates: Vec<FaultRate>, seed: u64) -> Self {
        Self { rates, state: seed }
    }

    /// Whether there is anything to inject.
    pub fn is_empty(&self) -> bool {
        self.rates.is_empty()
    }

    /// Whether to inject this fault now.
    pub(crate) fn strikes(&mut self, fault: Fault) -> bool {
        let Some(rate) = self.rates.iter().find(|rate| rate.fault == fault) else {
            return false;
        };
        let one_in = rate.one_in;
        self.next().is_multiple_of(one_in)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_parsed_and_bad_ones_told() {
        let rate: FaultRate = "forge-length=1/100".parse().unwrap();
        assert_eq!(
            rate,
            FaultRate {
                fault: Fault::ForgeLength,
                one_in: 100
            }
        );
        for bad in [
            "forge-length",
            "nothing=1/2",
            "stall=1/0",
            "stall=2/3",
            "stall=1/x",
        ] {
            let error = bad.parse::<FaultRate>().unwrap_err().to_string();
            assert!(error.contains("forge-status"), "{error}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_faults_again() {
        let plan = || FaultPlan::new(vec!["stall=1/10".parse().unwrap()], 7);
        let draw = |mut plan: FaultPlan| -> Vec<bool> {
            (0..1000).map(|_| plan.strikes(Fault::Stall)).collect()
        };
        assert_eq!(draw(plan()), draw(plan()));
        let strikes = draw(plan()).into_iter().filter(|s| *s).count();
        assert!((50..200).contains(&strikes), "{strikes}");
    }
}
