// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two runs beside each other.

use serde::Serialize;

use crate::report::{Cell, Report};
use crate::stats::{self, ENOUGH, Estimate};

/// What became of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Slower by more than the threshold, and not by chance.
    Regression,
    /// Faster by more than the threshold, and not by chance.
    Improvement,
    /// Within the threshold, or within what chance does.
    Same,
    /// It passed its check before, and does not now.
    Broken,
}

/// One cell, before and after.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// Which cell.
    pub cell: String,
    /// Unit of the two medians.
    pub metric: String,
    /// The median before.
    pub before: f64,
    /// The median after.
    pub after: f64,
    /// After to before, with its 95 % interval; nothing where only a check was made.
    pub ratio: Option<Estimate>,
    /// Whether the interval leaves 1 out.
    pub significant: bool,
    /// What became of it.
    pub change: Change,
}

/// Two runs.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Cells of both.
    pub cells: Vec<Compared>,
    /// Cells of the first run only.
    pub missing: Vec<String>,
    /// Cells of the second run only.
    pub new: Vec<String>,
    /// Cells with fewer than [`ENOUGH`] rounds on either side: nothing is said of them.
    pub too_few_rounds: Vec<String>,
    /// Differences of the machines.
    pub machines: Vec<String>,
}

impl Comparison {
    /// Lays two runs beside each other; a ratio beyond 1 ± `threshold` counts.
    pub fn new(before: &Report, after: &Report, threshold: f64, seed: u64) -> Self {
        let find = |report: &Report, key: &str| -> Option<Cell> {
            report.cells.iter().find(|cell| cell.key() == key).cloned()
        };
        let (mut cells, mut missing, mut too_few_rounds) = (Vec::new(), Vec::new(), Vec::new());
        for old in &before.cells {
            let key = old.key();
            let Some(new) = find(after, &key) else {
                missing.push(key);
                continue;
            };
            if old.verify.is_none() && old.samples.len().min(new.samples.len()) < ENOUGH {
                too_few_rounds.push(key);
                continue;
            }
            cells.push(compare(key, old, &new, threshold, seed));
        }
        let new = after.cells.iter().map(Cell::key);
        let new = new.filter(|key| find(before, key).is_none()).collect();
        Self {
            cells,
            missing,
            new,
            too_few_rounds,
            machines: before.machine.differences(&after.machine),
        }
    }

    /// Whether something got worse.
    pub fn regressed(&self) -> bool {
        let worse = |cell: &Compared| matches!(cell.change, Change::Regression | Change::Broken);
        self.cells.iter().any(worse)
    }
}

fn compare(cell: String, old: &Cell, new: &Cell, threshold: f64, seed: u64) -> Compared {
    let passed = |cell: &Cell| cell.verify.as_ref().is_none_or(|verdict| verdict.passed());
    let ratio = old
        .verify
        .is_none()
        .then(|| stats::ratio(&old.samples, &new.samples, seed));
    let significant = ratio.is_some_and(|ratio| ratio.low > 1.0 || ratio.high < 1.0);
    let beyond = |ratio: Estimate| match ratio.median {
        slower if slower > 1.0 + threshold => Change::Regression,
        faster if faster < 1.0 - threshold => Change::Improvement,
        _ => Change::Same,
    };
    let change = match ratio {
        None if passed(old) && !passed(new) => Change::Broken,
        Some(ratio) if significant => beyond(ratio),
        _ => Change::Same,
    };
    Compared {
        cell,
        metric: old.metric.clone(),
        before: old.value.median,
        after: new.value.median,
        ratio,
        significant,
        change,
    }
}
