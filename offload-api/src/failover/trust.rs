// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether a device that was lost may be taken back, and when.

use std::time::{Duration, Instant};

use super::HoldOff;
use crate::error::DeviceError;

/// What is held against the device.
#[derive(Debug, Default)]
pub(super) struct Trust {
    quarantine: Option<String>,
    /// The present rest, and when it ends.
    rest: Duration,
    not_before: Option<Instant>,
    returned: Option<Instant>,
}

impl Trust {
    pub(super) fn quarantine(&self) -> Option<&str> {
        self.quarantine.as_deref()
    }

    /// The device gave a wrong result.
    pub(super) fn distrust(&mut self, reason: &str) {
        self.quarantine.get_or_insert_with(|| reason.to_owned());
    }

    /// The device was lost: it rests, longer if it had just come back.
    pub(super) fn lost(&mut self, config: &HoldOff, now: Instant) {
        let flapped = self
            .returned
            .is_some_and(|returned| now.saturating_duration_since(returned) < config.well_after);
        self.rest = if flapped {
            (self.rest * 2).clamp(config.first, config.longest.max(config.first))
        } else {
            config.first
        };
        self.not_before = now.checked_add(self.rest);
    }

    /// Whether it may be taken back.
    pub(super) fn check(&self, now: Instant) -> Result<(), DeviceError> {
        if let Some(reason) = &self.quarantine {
            let reason = reason.clone();
            return Err(DeviceError::Quarantined { reason });
        }
        match self.not_before {
            Some(at) if at > now => Err(DeviceError::HeldOff {
                millis: (at - now).as_millis() as u64 + 1,
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn returned(&mut self, now: Instant) {
        self.returned = Some(now);
        self.not_before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: HoldOff = HoldOff {
        first: Duration::from_millis(100),
        longest: Duration::from_millis(500),
        well_after: Duration::from_secs(10),
    };

    fn rest(trust: &Trust, now: Instant) -> u64 {
        match trust.check(now) {
            Err(DeviceError::HeldOff { millis }) => millis - 1,
            Ok(()) => 0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_device_that_flaps_rests_longer_each_time_and_one_that_was_well_does_not() {
        let (mut trust, mut now) = (Trust::default(), Instant::now());
        let mut rests = Vec::new();
        for _ in 0..5 {
            trust.lost(&CONFIG, now);
            rests.push(rest(&trust, now));
            now += Duration::from_millis(500);
            assert_eq!(rest(&trust, now), 0);
            trust.returned(now);
            now += Duration::from_secs(1);
        }
        assert_eq!(rests, [100, 200, 400, 500, 500]);
        now += CONFIG.well_after;
        trust.lost(&CONFIG, now);
        assert_eq!(rest(&trust, now), 100);
    }

    #[test]
    fn a_quarantined_device_stays_out_and_the_first_reason_counts() {
        let (mut trust, now) = (Trust::default(), Instant::now());
        trust.distrust("first");
        trust.distrust("second");
        trust.lost(&CONFIG, now);
        let error = trust.check(now + Duration::from_secs(3600)).unwrap_err();
        assert!(error.to_string().contains("first"), "{error}");
    }
}
