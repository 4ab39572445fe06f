// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[daemon.puzzles]` and `[daemon.solve_puzzles]`: client puzzles (RFC 8019).

use std::time::Duration;

use ikev2d_proto::config::{PuzzleSolving, Puzzles};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::Seconds;

/// Zero bits that anybody sets, or solves, at most: four times 2^32 calls of a PRF.
const MOST: u8 = 32;

/// Puzzles for peers that want to begin.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PuzzlesSection {
    /// Half-open IKE SAs from which they are set.
    pub threshold: usize,
    /// Zero bits at the threshold; one more each time that there are twice as many half-open IKE SAs.
    #[serde(default = "difficulty", deserialize_with = "bits")]
    pub difficulty: u8,
    /// Zero bits, at most.
    #[serde(default = "hardest", deserialize_with = "bits")]
    pub hardest: u8,
    /// One in so many messages that have a cookie and solve nothing gets in; 0 is none, and peers that
    /// don't know of puzzles stay out meanwhile.
    #[serde(default = "legacy")]
    pub legacy: u16,
}

/// Puzzles that peers set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SolvePuzzlesSection {
    /// Zero bits, at most; 0 solves none.
    #[serde(deserialize_with = "bits")]
    pub difficulty: u8,
    /// How long it may take; then the daemon goes on without a solution.
    pub time: Seconds,
}

impl Default for SolvePuzzlesSection {
    fn default() -> Self {
        let PuzzleSolving { difficulty, time } = PuzzleSolving::default();
        let time = Seconds(time);
        Self { difficulty, time }
    }
}

impl PuzzlesSection {
    pub(crate) fn to_policy(&self) -> Puzzles {
        Puzzles {
            threshold: Some(self.threshold),
            difficulty: self.difficulty.max(1),
            hardest: self.hardest.max(1),
            legacy: self.legacy,
        }
    }
}

impl SolvePuzzlesSection {
    pub(crate) fn to_policy(&self) -> PuzzleSolving {
        PuzzleSolving {
            difficulty: self.difficulty,
            time: self.time.0.min(Duration::from_secs(600)),
        }
    }
}

fn difficulty() -> u8 {
    Puzzles::default().difficulty
}

fn hardest() -> u8 {
    Puzzles::default().hardest
}

fn legacy() -> u16 {
    Puzzles::default().legacy
}

fn bits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let bits = u8::deserialize(deserializer)?;
    if bits > MOST {
        return Err(D::Error::custom(format!(
            "{bits} zero bits: nobody solves more than {MOST} in time"
        )));
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B5: puzzles are set only where the configuration says from when on, within bounds.
    #[test]
    fn puzzles_are_checked() {
        let section: PuzzlesSection = toml::from_str("threshold = 500").unwrap();
        let policy = Puzzles {
            threshold: Some(500),
            ..Puzzles::default()
        };
        assert_eq!(section.to_policy(), policy);
        let solving: SolvePuzzlesSection = toml::from_str("time = \"5s\"").unwrap();
        assert_eq!(solving.to_policy().time, Duration::from_secs(5));
        for bad in [
            "",
            "threshold = 1\ndifficulty = 33",
            "threshold = 1\nbits = 3",
        ] {
            assert!(toml::from_str::<PuzzlesSection>(bad).is_err(), "{bad:?}");
        }
        assert!(toml::from_str::<SolvePuzzlesSection>("difficulty = 40").is_err());
    }
}
