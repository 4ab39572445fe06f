// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Looks for the partial drop rate (PDR): the highest rate of which as good as nothing is lost. What
//! arrives of a flood is no such rate: a host that drops packets spends time on those, and one that is
//! flooded does all in large bursts.

/// Part of the packets that may be lost, as in FD.io's CSIT.
pub(super) const LOSS: f64 = 0.005;
/// How close together the highest rate that was carried and the lowest that was not end up.
const CLOSE: f64 = 1.05;
/// The first trial, as a part of what arrived of a flood.
const FIRST: f64 = 0.8;
/// What a sender must reach of a rate, or it has no more to give.
const REACHED: f64 = 0.95;
/// Trials at most.
const MOST: usize = 12;

/// How a trial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It was carried, as it should be.
    Carried,
    /// Too much of it was lost.
    Lost,
    /// It was carried, and the host had not sent it all.
    Short,
}

/// A search on its way.
pub(super) struct Search {
    /// The rate to try.
    trial: f64,
    /// How it ended before. A trial that was not carried is made until it has ended so twice: the machine may
    /// have been busy with something else.
    before: Option<Outcome>,
    /// The highest rate that was sent and carried.
    carried: Option<f64>,
    /// The lowest rate of which too much was lost.
    refused: Option<f64>,
    /// How many were made.
    trials: usize,
    /// There is nothing left to try.
    done: bool,
}

impl Search {
    /// Begins near what arrived of a flood in a second.
    pub(super) fn new(flooded: f64) -> Self {
        Self {
            trial: flooded * FIRST,
            before: None,
            carried: None,
            refused: None,
            trials: 0,
            done: false,
        }
    }

    /// Packets a second to try next; nothing once it is found.
    pub(super) fn trial(&self) -> Option<f64> {
        (!self.done && self.trials < MOST).then_some(self.trial)
    }

    /// Takes in what a trial has sent in a second, and which part was lost. Whether it is the best so far.
    pub(super) fn tell(&mut self, sent: f64, lost: f64) -> bool {
        self.trials += 1;
        let good = lost <= LOSS;
        let best = good && self.carried.is_none_or(|carried| sent > carried);
        if best {
            self.carried = Some(sent);
        }
        let outcome = match good {
            false => Outcome::Lost,
            true if sent < REACHED * self.trial => Outcome::Short,
            true => Outcome::Carried,
        };
        if outcome != Outcome::Carried && self.before != Some(outcome) {
            self.before = Some(outcome);
            return best;
        }
        self.before = None;
        match outcome {
            Outcome::Carried => {}
            Outcome::Lost => self.refused = Some(self.trial),
            Outcome::Short => self.done = true,
        }
        self.trial = match (self.carried, self.refused) {
            (Some(carried), Some(refused)) => {
                self.done |= refused <= CLOSE * carried;
                (carried * refused).sqrt()
            }
            (Some(_), None) => self.trial / FIRST,
            (None, _) => self.trial / 2.0,
        };
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a tunnel that carries so much, and loses the rest, and a sender that has no more than this.
    fn search(flooded: f64, carries: f64, sends: f64) -> (Option<f64>, usize) {
        let mut search = Search::new(flooded);
        while let Some(rate) = search.trial() {
            let sent = rate.min(sends);
            search.tell(sent, 1.0 - (carries / sent).min(1.0));
        }
        (search.carried, search.trials)
    }

    #[test]
    fn the_rate_that_is_carried_is_found_within_a_twentieth() {
        for carries in [1e4, 7.9e4, 8.1e4, 1e5, 1.3e5] {
            let (found, trials) = search(1e5, carries, 1e9);
            let found = found.unwrap();
            assert!(found <= carries / (1.0 - LOSS) + 1.0, "{carries} {found}");
            assert!(found >= carries / CLOSE, "{carries} {found} {trials}");
        }
    }

    #[test]
    fn a_sender_that_has_no_more_to_give_ends_it() {
        assert_eq!(search(1e5, 1e9, 1.1e5), (Some(1.1e5), 4));
    }

    #[test]
    fn a_trial_is_made_until_it_has_ended_so_twice() {
        let mut search = Search::new(1e5);
        for (sent, lost) in [(8e4, 0.2), (5e4, 0.0), (8e4, 0.2), (5e4, 0.0)] {
            search.tell(sent, lost);
            assert_eq!(search.trial(), Some(8e4));
        }
        assert_eq!(search.carried, Some(5e4));
        search.tell(5e4, 0.0);
        assert_eq!(search.trial(), None);
    }

    #[test]
    fn a_trial_that_lost_once_is_made_again() {
        let mut search = Search::new(1e5);
        assert!(!search.tell(8e4, 0.2));
        assert_eq!(search.trial(), Some(8e4));
        assert!(search.tell(8e4, 0.0));
        assert_eq!(search.trial(), Some(1e5));
    }

    #[test]
    fn a_tunnel_that_always_loses_has_none() {
        assert_eq!(search(1e5, 0.0, 1e9), (None, MOST));
    }
}
