// SPDX-License-Identifier: Apache-2.0 OR MIT
//! For how long a thread asks for more before it sleeps. To ask pays where the next packet comes about as
//! soon as a sleeper would be woken, and burns a processor where it doesn't; so each long time of nothing halves
//! that of asking, and each short one doubles it, as in KVM's halt polling.

use std::time::{Duration, Instant};

/// What is not worth a look at the clock.
const LEAST: Duration = Duration::from_micros(10);

/// A thread's times of asking on.
#[derive(Debug)]
pub struct BusyPoll {
    /// As it is set; nothing is never.
    most: Duration,
    /// As it pays.
    now: Duration,
    /// Since when there has been nothing to do.
    idle: Option<Instant>,
}

impl BusyPoll {
    /// Asks on for `most` at a time.
    pub fn new(most: Duration) -> Self {
        Self {
            most,
            now: most,
            idle: None,
        }
    }

    /// There was something to do.
    #[inline]
    pub fn found(&mut self) {
        self.idle = None;
    }

    /// Whether to ask once more; where it never asks, this costs nothing.
    pub fn goes_on(&mut self) -> bool {
        !self.now.is_zero() && self.idle.get_or_insert_with(Instant::now).elapsed() < self.now
    }

    /// Before it sleeps: since when there has been nothing to do, which [`slept`](Self::slept) wants to know.
    pub fn sleeps(&self) -> Option<Instant> {
        (!self.most.is_zero()).then(|| self.idle.unwrap_or_else(Instant::now))
    }

    /// Takes in how long there was nothing to do: less than it may ask on, and asking would have found
    /// something.
    pub fn slept(&mut self, since: Option<Instant>) {
        if let Some(since) = since {
            self.adapt(since.elapsed());
        }
        self.idle = None;
    }

    fn adapt(&mut self, nothing: Duration) {
        self.now = if nothing < self.most {
            (self.now * 2).max(LEAST).min(self.most)
        } else {
            Some(self.now / 2)
                .filter(|half| *half >= LEAST)
                .unwrap_or_default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(100);
    const LONG: Duration = Duration::from_millis(1);

    #[test]
    fn nothing_is_asked_where_it_is_not_set() {
        let mut poll = BusyPoll::new(Duration::ZERO);
        assert!(!poll.goes_on());
        assert!(poll.sleeps().is_none());
        poll.slept(None);
        poll.adapt(Duration::ZERO);
        assert!(!poll.goes_on());
    }

    #[test]
    fn long_sleeps_end_it_and_short_ones_begin_it_again() {
        let mut poll = BusyPoll::new(MOST);
        let mut after = |slept: Duration| {
            poll.adapt(slept);
            poll.now.as_micros()
        };
        assert_eq!([LONG; 5].map(&mut after), [50, 25, 12, 0, 0]);
        assert_eq!([MOST / 2; 5].map(&mut after), [10, 20, 40, 80, 100]);
        // What comes by turns stays between.
        assert_eq!([LONG, MOST / 2, LONG].map(&mut after), [50, 100, 50]);
    }

    #[test]
    fn what_it_asked_in_vain_counts() {
        let mut poll = BusyPoll::new(MOST);
        let begun = Instant::now().checked_sub(MOST).unwrap();
        poll.idle = Some(begun);
        let since = poll.sleeps();
        assert_eq!(since, Some(begun));
        poll.slept(since);
        assert_eq!((poll.now, poll.idle), (MOST / 2, None));
    }

    #[test]
    fn less_than_is_worth_a_look_is_done_as_it_is_set() {
        let most = LEAST / 2;
        let mut poll = BusyPoll::new(most);
        poll.adapt(LONG);
        assert!(poll.now.is_zero());
        poll.adapt(Duration::ZERO);
        assert_eq!(poll.now, most);
    }

    #[test]
    fn it_goes_on_until_its_time_is_over_and_anew_after_each_find() {
        let mut poll = BusyPoll::new(Duration::from_secs(3600));
        assert!(poll.goes_on());
        poll.idle = Instant::now().checked_sub(Duration::from_secs(3600));
        assert!(poll.idle.is_none() || !poll.goes_on());
        poll.found();
        assert!(poll.goes_on());
    }
}
