// SPDX-License-Identifier: Apache-2.0 OR MIT
//! For how long a worker asks for more before it sleeps. To ask pays where the next packet comes about as
//! soon as a sleeper would be woken, and burns a processor where it doesn't; so the time falls while sleeps are
//! long, and is whole again after the first short one, as in KVM's halt polling.

use std::time::{Duration, Instant};

/// What is not worth a look at the clock.
const LEAST: Duration = Duration::from_micros(10);

/// A worker's times of asking on.
#[derive(Debug)]
pub(super) struct BusyPoll {
    /// As it is set; nothing is never.
    most: Duration,
    /// As it pays.
    now: Duration,
    /// Since when there has been nothing to do.
    idle: Option<Instant>,
}

impl BusyPoll {
    /// Asks on for `most` at a time.
    pub(super) fn new(most: Duration) -> Self {
        Self {
            most,
            now: most,
            idle: None,
        }
    }

    /// There was something to do.
    #[inline]
    pub(super) fn found(&mut self) {
        self.idle = None;
    }

    /// Whether to ask once more.
    pub(super) fn goes_on(&mut self) -> bool {
        !self.now.is_zero() && self.idle.get_or_insert_with(Instant::now).elapsed() < self.now
    }

    /// What [`slept`](Self::slept) wants to know of the moment before.
    pub(super) fn sleeps(&self) -> Option<Instant> {
        (!self.most.is_zero()).then(Instant::now)
    }

    /// Takes in how long it slept: less than it may ask on, and it would have found something.
    pub(super) fn slept(&mut self, since: Option<Instant>) {
        if let Some(since) = since {
            self.adapt(since.elapsed());
        }
        self.idle = None;
    }

    fn adapt(&mut self, slept: Duration) {
        self.now = match self.now / 2 {
            _ if slept < self.most => self.most,
            half if half < LEAST => Duration::ZERO,
            half => half,
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
    fn long_sleeps_end_it_and_a_short_one_begins_it_again() {
        let mut poll = BusyPoll::new(MOST);
        let times: Vec<_> = (0..6)
            .map(|_| {
                let now = poll.now.as_micros();
                poll.adapt(LONG);
                now
            })
            .collect();
        assert_eq!(times, [100, 50, 25, 12, 0, 0]);
        assert!(!poll.goes_on());
        poll.adapt(MOST / 2);
        assert_eq!(poll.now, MOST);
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
