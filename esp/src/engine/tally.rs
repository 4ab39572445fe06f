// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the engine has done. Each queue pair counts by itself: what two cores write by turns costs both more than a
//! packet's headers.

use std::sync::{Arc, Mutex};

use crossbeam_utils::CachePadded;
use offload_api::device::Counters;

use super::lock;
use super::totals::Totals;

/// A queue pair's counts.
pub(super) type Tally = Arc<CachePadded<Mutex<Totals>>>;

/// All queue pairs' counts.
#[derive(Default)]
pub(super) struct Tallies(Mutex<All>);

#[derive(Default)]
struct All {
    /// Of those that are gone, and how many SAs there are.
    rest: Counters,
    queues: Vec<Tally>,
}

impl Tallies {
    /// For a new queue pair.
    pub(super) fn open(&self) -> Tally {
        let tally = Tally::default();
        lock(&self.0).queues.push(tally.clone());
        tally
    }

    /// A queue pair is gone; what it has done is not.
    pub(super) fn close(&self, tally: &Tally) {
        let mut all = lock(&self.0);
        all.queues.retain(|other| !Arc::ptr_eq(other, tally));
        lock(tally).add_to(&mut all.rest);
    }

    /// Changes how many SAs there are.
    pub(super) fn sas(&self, change: impl FnOnce(&mut u64)) {
        change(&mut lock(&self.0).rest.sas);
    }

    /// All together.
    pub(super) fn sum(&self) -> Counters {
        let all = lock(&self.0);
        let mut sum = all.rest;
        for queue in &all.queues {
            lock(queue).add_to(&mut sum);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_queue_pair_has_done_outlives_it() {
        let tallies = Tallies::default();
        let [one, two] = [tallies.open(), tallies.open()];
        tallies.sas(|sas| *sas += 3);
        lock(&one).add_run(false, 5, 0);
        lock(&two).add_run(false, 7, 0);
        lock(&two).errors = 1;
        tallies.close(&one);
        lock(&two).add_run(false, 1, 0);
        let all = Counters {
            sealed: 13,
            errors: 1,
            sas: 3,
            ..Counters::default()
        };
        assert_eq!(tallies.sum(), all);
        tallies.close(&two);
        assert_eq!(tallies.sum(), all);
    }
}
