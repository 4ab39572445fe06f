// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tells a card that hangs from one that is slow, and from a caller that is.
//!
//! Time is counted in ticks in which the watchdog itself ran: on a machine that is busy, or was
//! stopped, it is as late as the card is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fpga_regs::descriptor::Completion;

use crate::patience;
use crate::ring::CompletionRing;

/// Between two looks.
pub(super) const TICK: Duration = Duration::from_millis(10);
/// Ticks without a completion after which the card's heartbeat is looked at.
const SUSPECT: u32 = 5;
/// Ticks without a completion or a heartbeat after which the card is given up.
const HUNG: u32 = 13;
/// Ticks without a completion after which even a card whose heart beats is given up: it has lost
/// what it was told.
const FORGOTTEN: u32 = 25;
/// Ticks without a new submission after which the watchdog lies down.
const QUIET: u32 = 100;

/// What a queue shows the watchdog.
pub(super) struct Pulse {
    completions: Arc<CompletionRing<Completion>>,
    /// Submissions that the card was told of.
    rung: AtomicU32,
    /// Completions consumed.
    consumed: AtomicU32,
    /// Operations that the card was told of and that have not come home.
    owed: AtomicU32,
}

impl Pulse {
    pub(super) fn new(completions: Arc<CompletionRing<Completion>>) -> Self {
        Self {
            completions,
            rung: AtomicU32::new(0),
            consumed: AtomicU32::new(0),
            owed: AtomicU32::new(0),
        }
    }

    /// Before the doorbell rings, and its fence.
    #[inline]
    pub(super) fn rings(&self, rung: u32, owed: usize) {
        self.rung.store(rung, Ordering::Relaxed);
        self.owed.store(owed as u32, Ordering::Relaxed);
    }

    /// After completions were consumed.
    #[inline]
    pub(super) fn consumes(&self, consumed: u32, owed: usize) {
        self.consumed.store(consumed, Ordering::Relaxed);
        self.owed.store(owed as u32, Ordering::Relaxed);
    }

    /// Nothing is owed any more: the queue has ended.
    pub(super) fn ends(&self) {
        self.owed.store(0, Ordering::Relaxed);
    }

    /// Whether anything is to come home: then somebody has to watch, also while what has come is not
    /// consumed.
    pub(super) fn is_owed(&self) -> bool {
        self.owed.load(Ordering::Relaxed) != 0
    }

    pub(super) fn look(&self) -> Look {
        let consumed = self.consumed.load(Ordering::Relaxed);
        // A completion that nobody has consumed yet is the caller's delay.
        let owes = self.is_owed() && !self.completions.is_ready(consumed);
        Look {
            rung: self.rung.load(Ordering::Relaxed),
            consumed,
            owes,
        }
    }
}

/// What a queue was seen to be at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) rung: u32,
    pub(super) consumed: u32,
    /// The card has something to do and nothing to show for it.
    pub(super) owes: bool,
}

/// One queue under watch.
#[derive(Debug, Default)]
pub(super) struct Watch {
    last: Look,
    waited: u32,
    quiet: u32,
    heartbeat: Option<u32>,
    beats: bool,
}

/// What to think of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is wrong.
    Well,
    /// Nothing was asked of it for a while.
    Quiet,
    /// It does not move.
    Hung,
    /// It moves, and has forgotten what it was told.
    Forgetful,
}

impl Watch {
    /// One tick. `heartbeat` is asked only of a card under suspicion, and gives nothing where the
    /// card does not answer.
    pub(super) fn tick(&mut self, look: Look, heartbeat: impl FnOnce() -> Option<u32>) -> Verdict {
        let moved = look.consumed != self.last.consumed;
        let asked = look.rung != self.last.rung;
        self.last = look;
        self.quiet = if asked || look.owes {
            0
        } else {
            self.quiet.saturating_add(1)
        };
        if !look.owes || moved {
            (self.waited, self.heartbeat, self.beats) = (0, None, false);
            return if self.quiet >= QUIET {
                Verdict::Quiet
            } else {
                Verdict::Well
            };
        }
        self.waited += 1;
        let times = patience::times();
        if self.waited >= SUSPECT * times
            && !self.beats
            && let Some(now) = heartbeat()
        {
            self.beats = self.heartbeat.is_some_and(|before| before != now);
            self.heartbeat.get_or_insert(now);
        }
        match self.waited / times {
            FORGOTTEN.. => Verdict::Forgetful,
            HUNG.. if !self.beats => Verdict::Hung,
            _ => Verdict::Well,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWES: Look = Look {
        rung: 1,
        consumed: 0,
        owes: true,
    };

    /// Ticks until the verdict, by a heartbeat that depends on the tick.
    fn verdict(heartbeat: impl Fn(u32) -> Option<u32>) -> (u32, Verdict) {
        let mut watch = Watch::default();
        (1..100 * patience::times())
            .map(|tick| (tick, watch.tick(OWES, || heartbeat(tick))))
            .find(|(_, verdict)| *verdict != Verdict::Well)
            .unwrap()
    }

    #[test]
    fn a_card_without_heartbeat_is_given_up_after_130_ms() {
        let times = patience::times();
        assert_eq!(verdict(|_| Some(7)), (13 * times, Verdict::Hung));
        assert_eq!(verdict(|_| None), (13 * times, Verdict::Hung));
    }

    #[test]
    fn a_card_whose_heart_beats_has_longer() {
        let expected = (25 * patience::times(), Verdict::Forgetful);
        assert_eq!(verdict(Some), expected);
        assert_eq!(verdict(|tick| Some(tick / 9)), expected);
    }

    #[test]
    fn a_card_that_completes_is_never_suspected_however_slow_the_caller_is() {
        let mut watch = Watch::default();
        for tick in 0..1000u32 {
            let slow = Look {
                consumed: tick / 4,
                ..OWES
            };
            assert_eq!(watch.tick(slow, || unreachable!()), Verdict::Well);
            let unread = Look {
                owes: false,
                ..slow
            };
            assert_ne!(watch.tick(unread, || unreachable!()), Verdict::Hung);
        }
    }

    #[test]
    fn after_a_second_without_work_it_may_lie_down() {
        let mut watch = Watch::default();
        let idle = Look::default();
        let ticks = (1..200).find(|_| watch.tick(idle, || None) == Verdict::Quiet);
        assert_eq!(ticks, Some(100));
    }
}
