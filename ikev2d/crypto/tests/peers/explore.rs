// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every order of delivery and every loss, one after another: a search without a stored state, which
//! plays each schedule from the start.

use std::time::Duration;

use super::Pair;

/// What is searched.
pub(crate) struct Search {
    /// Messages that may be lost in one schedule.
    pub(crate) losses: usize,
    /// Messages that may arrive a second time.
    pub(crate) copies: usize,
    /// Schedules, at most; more make the search fail, so that it never quietly leaves some out.
    pub(crate) most: usize,
}

/// What a schedule may do next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Deliver(usize),
    Lose(usize),
    Copy(usize),
}

impl Search {
    /// Plays every schedule of what `begin` sets going; `check` sees each end. Returns how many.
    pub(crate) fn all(&self, begin: impl Fn() -> Pair, check: impl Fn(&mut Pair, &str)) -> usize {
        // The choice made at each point, and how many there were.
        let mut path: Vec<(usize, usize)> = Vec::new();
        for count in 1..=self.most {
            let mut pair = begin();
            let told = self.play(&mut pair, &mut path);
            check(&mut pair, &told);
            while path.last().is_some_and(|(chosen, of)| chosen + 1 == *of) {
                path.pop();
            }
            match path.last_mut() {
                Some((chosen, _)) => *chosen += 1,
                None => return count,
            }
        }
        panic!("more than {} schedules", self.most);
    }

    fn play(&self, pair: &mut Pair, path: &mut Vec<(usize, usize)>) -> String {
        let (mut losses, mut copies) = (self.losses, self.copies);
        let mut told = String::new();
        let end = pair.now + Duration::from_secs(3);
        let mut depth = 0;
        for _ in 0..500 {
            pair.flush();
            pair.assert_no_black_hole(&told);
            if pair.wire.is_empty() {
                if pair.advance(end) {
                    continue;
                }
                break;
            }
            let on_wire = pair.wire.len();
            let mut steps: Vec<Step> = (0..on_wire).map(Step::Deliver).collect();
            if losses != 0 {
                steps.extend((0..on_wire).map(Step::Lose));
            }
            if copies != 0 {
                steps.extend((0..on_wire).map(Step::Copy));
            }
            if depth == path.len() {
                path.push((0, steps.len()));
            }
            let (chosen, of) = path[depth];
            assert_eq!(of, steps.len(), "a schedule does not repeat itself: {told}");
            depth += 1;
            let step = steps[chosen];
            told.push_str(&format!("{step:?} "));
            match step {
                Step::Deliver(at) => pair.deliver(at),
                Step::Lose(at) => {
                    losses -= 1;
                    pair.wire.remove(at);
                }
                Step::Copy(at) => {
                    copies -= 1;
                    let copy = pair.wire[at].clone();
                    pair.deliver(at);
                    pair.wire.push_back(copy);
                }
            }
        }
        pair.run(Duration::from_secs(60));
        pair.assert_no_black_hole(&told);
        told
    }
}
