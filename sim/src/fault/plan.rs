// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When a card misbehaves: by rules, by seed, always the same for the same traffic.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::{Fault, FaultRule, ParseFaultError};

/// When a fault strikes, counted in its chances: for most of them each completion is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Once in so many chances on average.
    OneIn(u64),
    /// So many in a row, every so many.
    Burst {
        /// In a row.
        length: u64,
        /// From the first of one row to the first of the next.
        every: u64,
    },
    /// At exactly these chances, from 1.
    At(Vec<u64>),
}

impl When {
    /// Once in so many chances on average; nothing for none.
    pub fn one_in(chances: u64) -> Option<Self> {
        (chances > 0).then_some(Self::OneIn(chances))
    }

    /// So many in a row, every so many; nothing for an empty row, or one longer than that.
    pub fn burst(length: u64, every: u64) -> Option<Self> {
        (1..=every)
            .contains(&length)
            .then_some(Self::Burst { length, every })
    }

    /// At exactly these chances; nothing for none, or one before the first, which is 1.
    pub fn at(chances: Vec<u64>) -> Option<Self> {
        (!chances.is_empty() && !chances.contains(&0)).then_some(Self::At(chances))
    }
}

/// Rules with their chances so far. Each rule draws by itself: whether a fault strikes at its n-th chance
/// depends on the seed, the rule and n, and on no other fault.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    rules: Vec<Armed>,
    /// Bit n: the fault with number n has a rule.
    armed: u64,
}

#[derive(Clone, Debug)]
struct Armed {
    rule: FaultRule,
    chances: u64,
    /// What its draws start from.
    stream: u64,
}

/// A plan can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The file can't be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// It is no plan.
    #[error("{}: {error}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        error: toml::de::Error,
    },
    /// A rule makes no sense.
    #[error("{}: rule {number} ({name}): {what}", path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// Which rule, from 1.
        number: usize,
        /// Its fault.
        name: String,
        /// What is wrong with it.
        what: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    seed: Option<u64>,
    #[serde(default)]
    fault: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    one_in: Option<u64>,
    burst: Option<u64>,
    every: Option<u64>,
    at: Option<Vec<u64>>,
}

impl FaultPlan {
    /// A plan of rules.
    pub fn new(rules: Vec<FaultRule>, seed: u64) -> Self {
        let armed = rules.iter().fold(0, |armed, rule| armed | bit(rule.fault));
        let mut planned: Vec<Armed> = Vec::new();
        for rule in rules {
            let same = planned
                .iter()
                .filter(|other| other.rule.fault == rule.fault);
            let place = (rule.fault as u64) << 32 | same.count() as u64;
            planned.push(Armed {
                rule,
                chances: 0,
                stream: mix(seed ^ mix(place.wrapping_add(GAMMA))),
            });
        }
        Self {
            rules: planned,
            armed,
        }
    }

    /// The rules of a plan file, and its seed if it has one.
    ///
    /// # Errors
    /// [`PlanError`], which names the line or the rule.
    pub fn read(path: &Path) -> Result<(Vec<FaultRule>, Option<u64>), PlanError> {
        let text = std::fs::read_to_string(path).map_err(|error| PlanError::Read {
            path: path.to_owned(),
            error,
        })?;
        let file: File = toml::from_str(&text).map_err(|error| PlanError::Parse {
            path: path.to_owned(),
            error,
        })?;
        let mut rules = Vec::new();
        for (number, entry) in file.fault.into_iter().enumerate() {
            let name = entry.name.clone();
            let rule = entry.rule().map_err(|error| PlanError::Rule {
                path: path.to_owned(),
                number: number + 1,
                name,
                what: error.to_string(),
            })?;
            rules.push(rule);
        }
        Ok((rules, file.seed))
    }

    /// Whether there is anything to inject.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Its rules.
    pub fn rules(&self) -> impl Iterator<Item = &FaultRule> {
        self.rules.iter().map(|armed| &armed.rule)
    }

    /// Whether to inject this fault now: one more chance for it.
    pub(crate) fn strikes(&mut self, fault: Fault) -> bool {
        if self.armed & bit(fault) == 0 {
            return false;
        }
        let mut strikes = false;
        for armed in &mut self.rules {
            if armed.rule.fault != fault {
                continue;
            }
            armed.chances += 1;
            let chance = armed.chances;
            strikes |= match &armed.rule.when {
                When::OneIn(n) => draw(armed.stream, chance).is_multiple_of((*n).max(1)),
                When::Burst { length, every } => (chance - 1) % (*every).max(1) < *length,
                When::At(at) => at.contains(&chance),
            };
        }
        strikes
    }
}

impl Entry {
    fn rule(self) -> Result<FaultRule, ParseFaultError> {
        let fault = self.name.parse()?;
        let when = match (self.one_in, self.burst, self.every, self.at) {
            (Some(chances), None, None, None) => When::one_in(chances),
            (None, Some(length), Some(every), None) => When::burst(length, every),
            (None, None, None, Some(chances)) => When::at(chances),
            _ => None,
        };
        let when = when.ok_or_else(|| ParseFaultError::When {
            found: format!("{}, by its keys", self.name),
        })?;
        Ok(FaultRule { fault, when })
    }
}

fn bit(fault: Fault) -> u64 {
    1 << (fault as u8)
}

/// What SplitMix64 (Steele, Lea, Flood 2014) adds for each draw.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream's n-th draw.
fn draw(stream: u64, n: u64) -> u64 {
    mix(stream.wrapping_add(n.wrapping_mul(GAMMA)))
}

/// SplitMix64's output function.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strikes(rule: &str, chances: usize) -> Vec<usize> {
        let mut plan = FaultPlan::new(vec![rule.parse().unwrap()], 7);
        (1..=chances)
            .filter(|_| plan.strikes(Fault::Stall))
            .collect()
    }

    #[test]
    fn a_seed_gives_the_same_faults_again() {
        let first = strikes("stall=1/10", 1000);
        assert_eq!(first, strikes("stall=1/10", 1000));
        assert!((50..200).contains(&first.len()), "{}", first.len());
    }

    #[test]
    fn a_fault_strikes_at_the_same_chances_whatever_others_do() {
        let rules = |texts: &[&str]| {
            let rules = texts.iter().map(|rule| rule.parse().unwrap()).collect();
            FaultPlan::new(rules, 7)
        };
        let alone = strikes("stall=1/10", 1000);
        let mut among = rules(&["drop-answer=1/3", "stall=1/10", "forge-slot=1/5"]);
        let mut struck = Vec::new();
        for chance in 1..=1000 {
            // Registers are read when somebody happens to.
            for _ in 0..chance % 7 {
                among.strikes(Fault::DropAnswer);
                among.strikes(Fault::ForgeSlot);
            }
            if among.strikes(Fault::Stall) {
                struck.push(chance);
            }
        }
        assert_eq!(struck, alone);
        // Two rules of one fault are two.
        let mut twice = rules(&["stall=1/10", "stall=1/10"]);
        let twice = (1..=1000).filter(|_| twice.strikes(Fault::Stall)).count();
        assert!(twice > alone.len() * 3 / 2, "{twice}");
    }

    #[test]
    fn bursts_and_exact_chances_strike_where_they_say() {
        assert_eq!(strikes("stall=2x5", 12), [1, 2, 6, 7, 11, 12]);
        assert_eq!(strikes("stall=@3,9", 12), [3, 9]);
        assert!(strikes("drop-answer=1/1", 12).is_empty());
    }

    #[test]
    fn a_plan_file_is_read_and_a_bad_one_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            FaultPlan::read(&path)
        };
        let (rules, seed) = read(
            "seed = 9\n[[fault]]\nname = \"stall\"\nat = [500]\n[[fault]]\nname = \"forge-slot\"\none_in = 100\n\
             [[fault]]\nname = \"lose-event\"\nburst = 8\nevery = 100\n",
        )
        .unwrap();
        let rules: Vec<_> = rules.iter().map(ToString::to_string).collect();
        assert_eq!(
            rules,
            ["stall=@500", "forge-slot=1/100", "lose-event=8x100"]
        );
        assert_eq!(seed, Some(9));
        for (bad, word) in [
            (
                "[[fault]]\nname = \"nothing\"\none_in = 2\n",
                "forge-status",
            ),
            ("[[fault]]\nname = \"stall\"\n", "NAME=1/N"),
            (
                "[[fault]]\nname = \"stall\"\none_in = 2\nat = [1]\n",
                "NAME=1/N",
            ),
            ("[[fault]]\nname = \"stall\"\nonce_in = 2\n", "once_in"),
            ("[[fault]]\nname = \"stall\"\none_in = 0\n", "NAME=1/N"),
            ("[[fault]]\nname = \"stall\"\nat = [0]\n", "NAME=1/N"),
            ("[[fault]]\nname = \"stall\"\nat = []\n", "NAME=1/N"),
            (
                "[[fault]]\nname = \"stall\"\nburst = 9\nevery = 8\n",
                "NAME=1/N",
            ),
            (
                "[[fault]]\nname = \"stall\"\nburst = 0\nevery = 8\n",
                "NAME=1/N",
            ),
            ("speed = 1\n", "speed"),
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(
                error.contains(word) && error.contains("plan.toml"),
                "{error}"
            );
        }
        assert!(FaultPlan::read(&dir.path().join("none")).is_err());
    }
}
