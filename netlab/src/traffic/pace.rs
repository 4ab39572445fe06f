// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When the datagrams of a constant rate are due.

use std::time::Duration;

/// How late a datagram may be sent. A load whose turn came later leaves out what was due before, as a
/// generator with a clock of its own does that has missed its slots: sent all at once, it would be another
/// load.
const LATE: f64 = 100e-6;

/// What is due of a constant rate.
pub(super) struct Pace {
    /// A second.
    rate: f64,
    /// Most that may be due at once.
    most: u64,
    /// Those that were left out.
    skipped: u64,
}

impl Pace {
    /// At `rate` a second; with `catches_up` whatever is late is sent all the same.
    pub(super) fn new(rate: f64, catches_up: bool) -> Self {
        // The one that is due now, and those that were within the time before.
        let most = if catches_up {
            u64::MAX
        } else {
            (rate * LATE) as u64 + 1
        };
        Self {
            rate,
            most,
            skipped: 0,
        }
    }

    /// How many are due after such a time, of which so many were sent before.
    pub(super) fn due(&mut self, gone: Duration, sent: u64) -> u64 {
        let wanted = (gone.as_secs_f64() * self.rate) as u64;
        let due = wanted.saturating_sub(sent + self.skipped);
        let left_out = due.saturating_sub(self.most);
        self.skipped += left_out;
        due - left_out
    }

    /// After which time the next is due, behind so many that were sent.
    pub(super) fn next(&self, sent: u64) -> Duration {
        let next = (sent + self.skipped + 1) as f64 / self.rate;
        Duration::try_from_secs_f64(next).unwrap_or(Duration::MAX)
    }

    /// Those that were left out.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(of: u64) -> Duration {
        Duration::from_micros(of)
    }

    #[test]
    fn a_rate_in_time_is_sent_whole() {
        let (mut pace, mut sent) = (Pace::new(100_000.0, false), 0);
        for step in 1..=1000u64 {
            let due = pace.due(micros(50 * step), sent);
            assert!((4..=6).contains(&due), "{due}");
            sent += due;
        }
        assert_eq!((sent, pace.skipped()), (5000, 0));
        assert_eq!(pace.due(micros(50_000), sent), 0);
        assert_eq!(pace.next(sent), micros(50_010));
    }

    #[test]
    fn a_load_that_is_late_leaves_out_what_was_due_long_ago() {
        let mut pace = Pace::new(100_000.0, false);
        assert_eq!(pace.due(micros(1_005), 0), 11);
        assert_eq!(pace.skipped(), 89);
        assert_eq!(pace.next(11), micros(1_010));
        assert_eq!(pace.due(micros(1_015), 11), 1);
    }

    #[test]
    fn turns_that_are_late_by_less_leave_nothing_out() {
        for rate in [500.0, 9_900.0, 15_000.0, 19_900.0, 29_000.0, 150_000.0] {
            let (mut pace, mut sent) = (Pace::new(rate, false), 0);
            for _ in 0..1000 {
                sent += pace.due(pace.next(sent) + micros(90), sent);
            }
            assert_eq!(pace.skipped(), 0, "{rate}");
        }
    }

    #[test]
    fn nothing_a_second_is_never_due() {
        let mut pace = Pace::new(0.0, false);
        assert_eq!(pace.due(Duration::from_secs(3600), 0), 0);
        assert_eq!(pace.next(0), Duration::MAX);
    }

    #[test]
    fn a_probe_that_is_late_sends_all() {
        let mut pace = Pace::new(2_000.0, true);
        assert_eq!(pace.due(micros(10_250), 0), 20);
        assert_eq!(pace.skipped(), 0);
    }

    #[test]
    fn a_low_rate_is_sent_one_by_one() {
        let mut pace = Pace::new(10.0, false);
        assert_eq!(pace.due(micros(99_000), 0), 0);
        assert_eq!(pace.due(micros(350_000), 0), 1);
        assert_eq!(pace.skipped(), 2);
    }
}
