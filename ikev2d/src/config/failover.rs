// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[daemon.failover]`: how far the accelerator is trusted.

use std::time::Duration;

use offload_api::failover::{FailoverConfig, HoldOff};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::text::Seconds;

/// How far the accelerator is trusted. Each setting has a sane default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FailoverSection {
    /// Sequence numbers granted at once: the most that a crash can skip.
    #[serde(deserialize_with = "block")]
    pub block: u64,
    /// One in so many of the accelerator's packets is done again in software and compared; 0 is off.
    pub sample: u32,
    /// How long an accelerator that was lost is left alone at first.
    pub hold_off: Seconds,
    /// How long at most, when it is lost again and again.
    pub hold_off_max: Seconds,
    /// How long it must stay up to count as well again.
    pub well_after: Seconds,
    /// How long an SA that an earlier process has left in the accelerator waits for its successor before it
    /// is retired.
    pub orphan_grace: Seconds,
}

impl Default for FailoverSection {
    fn default() -> Self {
        let config = FailoverConfig::default();
        Self {
            block: config.block,
            sample: config.sample,
            hold_off: Seconds(config.hold_off.first),
            hold_off_max: Seconds(config.hold_off.longest),
            well_after: Seconds(config.hold_off.well_after),
            orphan_grace: Seconds(Duration::from_secs(60)),
        }
    }
}

impl FailoverSection {
    pub(crate) fn config(&self) -> FailoverConfig {
        let longest: Duration = self.hold_off_max.0.max(self.hold_off.0);
        FailoverConfig {
            block: self.block,
            sample: self.sample,
            hold_off: HoldOff {
                first: self.hold_off.0,
                longest,
                well_after: self.well_after.0,
            },
        }
    }
}

/// A block smaller than a queue's operations would be topped up for every burst; a larger one than
/// this would waste a 32-bit space in a few crashes.
fn block<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let block = u64::deserialize(deserializer)?;
    if (1 << 12..=1 << 24).contains(&block) {
        Ok(block)
    } else {
        Err(D::Error::custom(format!(
            "block {block}: expected 4096 to 16777216 sequence numbers"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orphans_have_a_minute_unless_told_otherwise() {
        let section: FailoverSection = toml::from_str("").unwrap();
        assert_eq!(section.orphan_grace, Seconds(Duration::from_secs(60)));
        let section: FailoverSection = toml::from_str("orphan_grace = \"3s\"").unwrap();
        assert_eq!(section.orphan_grace, Seconds(Duration::from_secs(3)));
    }
}
