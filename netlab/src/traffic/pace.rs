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
    /// Those that were sent.
    sent: u64,
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
            sent: 0,
            skipped: 0,
        }
    }

    /// How many are due after such a time.
    pub(super) fn due(&mut self, gone: Duration) -> u64 {
        let wanted = (gone.as_secs_f64() * self.rate) as u64;
        let due = wanted.saturating_sub(self.sent + self.skipped);
        let left_out = due.saturating_sub(self.most);
        self.skipped += left_out;
        due - left_out
    }

    /// Takes note of what was sent.
    pub(super) fn sent(&mut self, count: u64) {
        self.sent += count;
    }

    /// After which time the next is due.
    pub(super) fn next(&self) -> Duration {
        let next = (self.sent + self.skipped + 1) as f64 / self.rate;
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
        let mut pace = Pace::new(100_000.0, false);
        for step in 1..=1000u64 {
            let due = pace.due(micros(50 * step));
            assert!((4..=6).contains(&due), "{due}");
            pace.sent(due);
        }
        assert_eq!((pace.sent, pace.skipped()), (5000, 0));
        assert_eq!(pace.due(micros(50_000)), 0);
        assert_eq!(pace.next(), micros(50_010));
    }

    #[test]
    fn a_load_that_is_late_leaves_out_what_was_due_long_ago() {
        let mut pace = Pace::new(100_000.0, false);
        assert_eq!(pace.due(micros(1_005)), 11);
        assert_eq!(pace.skipped(), 89);
        pace.sent(11);
        assert_eq!(pace.next(), micros(1_010));
        assert_eq!(pace.due(micros(1_015)), 1);
    }

    #[test]
    fn turns_that_are_late_by_less_leave_nothing_out() {
        for rate in [500.0, 9_900.0, 15_000.0, 19_900.0, 29_000.0, 150_000.0] {
            let mut pace = Pace::new(rate, false);
            for _ in 0..1000 {
                let due = pace.due(pace.next() + micros(90));
                pace.sent(due);
            }
            assert_eq!(pace.skipped(), 0, "{rate}");
        }
    }

    #[test]
    fn nothing_a_second_is_never_due() {
        let mut pace = Pace::new(0.0, false);
        assert_eq!(pace.due(Duration::from_secs(3600)), 0);
        assert_eq!(pace.next(), Duration::MAX);
    }

    #[test]
    fn a_probe_that_is_late_sends_all() {
        let mut pace = Pace::new(2_000.0, true);
        assert_eq!(pace.due(micros(10_250)), 20);
        assert_eq!(pace.skipped(), 0);
    }

    #[test]
    fn a_low_rate_is_sent_one_by_one() {
        let mut pace = Pace::new(10.0, false);
        assert_eq!(pace.due(micros(99_000)), 0);
        assert_eq!(pace.due(micros(350_000)), 1);
        assert_eq!(pace.skipped(), 2);
    }
}
