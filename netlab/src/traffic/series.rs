// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Amounts by tenths of a second.

use std::time::{Duration, Instant};

use serde::Serialize;

/// The length of one interval.
const INTERVAL: Duration = Duration::from_millis(100);

/// What was counted in each tenth of a second since a common start.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    #[serde(skip)]
    start: Instant,
    amounts: Vec<u64>,
}

impl Series {
    /// An empty series that starts at `start`; series with the same start can be laid over one another.
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            amounts: Vec::new(),
        }
    }

    /// Counts `amount` at `now`.
    pub fn add(&mut self, now: Instant, amount: u64) {
        let index = self.index(now);
        if self.amounts.len() <= index {
            self.amounts.resize(index + 1, 0);
        }
        self.amounts[index] += amount;
    }

    /// Each interval's start in seconds, and its amount.
    pub fn points(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.amounts
            .iter()
            .enumerate()
            .map(|(index, amount)| (index as f64 * INTERVAL.as_secs_f64(), *amount))
    }

    /// The amount in the whole intervals between two instants.
    pub fn between(&self, from: Instant, until: Instant) -> u64 {
        self.whole(from, until).iter().sum()
    }

    /// The mean rate, in amounts a second, over the whole intervals between two instants.
    pub fn rate(&self, from: Instant, until: Instant) -> f64 {
        let intervals = self.span(from, until).len();
        if intervals == 0 {
            return 0.0;
        }
        self.between(from, until) as f64 / (intervals as f64 * INTERVAL.as_secs_f64())
    }

    /// Everything counted.
    pub fn total(&self) -> u64 {
        self.amounts.iter().sum()
    }

    fn whole(&self, from: Instant, until: Instant) -> &[u64] {
        let span = self.span(from, until);
        let end = span.end.min(self.amounts.len());
        self.amounts
            .get(span.start.min(end)..end)
            .unwrap_or_default()
    }

    /// The intervals that lie wholly between two instants, also where nothing was counted yet.
    fn span(&self, from: Instant, until: Instant) -> std::ops::Range<usize> {
        let since = from.saturating_duration_since(self.start).as_nanos();
        let first = since.div_ceil(INTERVAL.as_nanos()) as usize;
        first..self.index(until).max(first)
    }

    fn index(&self, at: Instant) -> usize {
        (at.saturating_duration_since(self.start).as_nanos() / INTERVAL.as_nanos()) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_the_silent_tenths_too() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut series = Series::new(start);
        series.add(at(50), 5);
        series.add(at(150), 100);
        series.add(at(199), 100);
        series.add(at(450), 7);
        assert_eq!(series.total(), 212);
        assert_eq!(series.between(at(100), at(400)), 200);
        // 200 over 0.3 s; the tenth that has only begun is left out at both ends.
        assert!((series.rate(at(60), at(480)) - 200.0 / 0.3).abs() < 1e-6);
        assert!(
            (series.rate(at(0), at(1000)) - 212.0).abs() < 1e-6,
            "after the last count there was silence"
        );
    }
}
