// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Medians, how sure they are, and whether two differ: by the bootstrap, from a seed, so that the same
//! samples are judged alike each time.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// Samples drawn anew from the samples.
const RESAMPLES: usize = 2000;
/// Of the resampled medians on either side of the interval.
const TAIL: f64 = 0.025;
/// Rounds from which two medians are compared.
pub const ENOUGH: usize = 5;

/// A median and its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The median of the samples.
    pub median: f64,
    /// The interval's lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// The median of samples, 0 of none.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (None, _) => 0.0,
        (Some(value), 1) => *value,
        (Some(value), _) => (value + sorted.get(middle - 1).unwrap_or(value)) / 2.0,
    }
}

/// The median with its interval.
pub fn estimate(samples: &[f64], seed: u64) -> Estimate {
    let mut random = Rng::with_seed(seed);
    let medians = (0..RESAMPLES).map(|_| median(&resample(samples, &mut random)));
    let (low, high) = interval(medians.collect());
    Estimate {
        median: median(samples),
        low,
        high,
    }
}

/// The ratio of two medians, `after` to `before`, with its interval.
pub fn ratio(before: &[f64], after: &[f64], seed: u64) -> Estimate {
    let mut random = Rng::with_seed(seed);
    let ratios = (0..RESAMPLES).map(|_| {
        let before = median(&resample(before, &mut random));
        median(&resample(after, &mut random)) / before
    });
    let (low, high) = interval(ratios.collect());
    Estimate {
        median: median(after) / median(before),
        low,
        high,
    }
}

fn resample(samples: &[f64], random: &mut Rng) -> Vec<f64> {
    let draw = |_: &f64| random.choice(samples).copied().unwrap_or(0.0);
    samples.iter().map(draw).collect()
}

fn interval(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let index = (part * values.len() as f64) as usize;
        let last = values.len().saturating_sub(1);
        values.get(index.min(last)).copied().unwrap_or(0.0)
    };
    (at(TAIL), at(1.0 - TAIL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn the_same_seed_gives_the_same_interval() {
        let samples: Vec<f64> = (0..11).map(|n| 100.0 + f64::from(n * 7 % 11)).collect();
        let found = estimate(&samples, 1);
        assert_eq!(found, estimate(&samples, 1));
        assert_eq!(found.median, 105.0);
        assert!(found.low < 105.0 && 105.0 < found.high, "{found:?}");
        assert!(found.low >= 100.0 && found.high <= 110.0, "{found:?}");
    }

    #[test]
    fn a_ratio_of_equals_has_one_in_its_interval_and_of_others_has_not() {
        let before: Vec<f64> = (0..9).map(|n| 100.0 + f64::from(n)).collect();
        let after: Vec<f64> = before.iter().map(|sample| sample * 1.5).collect();
        let same = ratio(&before, &before, 1);
        assert!(same.low <= 1.0 && 1.0 <= same.high, "{same:?}");
        let slower = ratio(&before, &after, 1);
        assert!(
            slower.low > 1.3 && (slower.median - 1.5).abs() < 1e-9,
            "{slower:?}"
        );
    }
}
