// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Slots that are free. The one that came home last goes out first: it is in a cache still, where the one
//! that waits longest has left them all.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

use super::{NO_SLOT, Pair};

/// A stack of slots, whichever thread takes one or brings it home.
pub(super) struct Free {
    /// The uppermost slot, and how often that has changed: whoever has seen a slot there that was taken and
    /// brought home meanwhile must not take what was below it then. A thread that is held up for 2^32 changes
    /// would.
    top: Place,
    /// What is below each slot, and how many slots that are.
    below: Box<[AtomicU64]>,
}

/// In a line of the cache of its own: every core writes it.
#[repr(align(128))]
struct Place(AtomicU64);

impl Free {
    /// All of so many; the first one is uppermost.
    pub(super) fn all(slots: u32) -> Self {
        let below = (0..slots).map(|slot| {
            let next = slot + 1;
            let next = if next == slots { NO_SLOT } else { next };
            AtomicU64::new(Pair::new(next, slots - slot - 1).0)
        });
        Self {
            below: below.collect(),
            top: Place(AtomicU64::new(Pair::new(0, 0).0)),
        }
    }

    /// Takes a slot, if any is free.
    #[inline]
    pub(super) fn take(&self) -> Option<u32> {
        let mut seen = Pair(self.top.0.load(Ordering::Acquire));
        loop {
            let below = self.below.get(seen.first() as usize)?;
            // Another thread may have changed it by now, and then `top` as well.
            let next = Pair(below.load(Ordering::Relaxed)).first();
            match self.change(seen, next) {
                Ok(()) => return Some(seen.first()),
                Err(now) => seen = now,
            }
        }
    }

    /// Brings a slot home that was taken.
    #[inline]
    pub(super) fn bring(&self, slot: u32) {
        let Some(below) = self.below.get(slot as usize) else {
            return;
        };
        let mut seen = Pair(self.top.0.load(Ordering::Acquire));
        loop {
            let count = self.count(seen.first());
            below.store(Pair::new(seen.first(), count).0, Ordering::Relaxed);
            match self.change(seen, slot) {
                Ok(()) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// How many are free; were, where other threads are at it.
    pub(super) fn len(&self) -> usize {
        self.count(Pair(self.top.0.load(Ordering::Acquire)).first()) as usize
    }

    /// How many are free while this slot is uppermost.
    #[inline]
    fn count(&self, top: u32) -> u32 {
        let below = self.below.get(top as usize);
        below.map_or(0, |below| {
            Pair(below.load(Ordering::Relaxed)).second().wrapping_add(1)
        })
    }

    /// Makes a slot uppermost, unless another thread has been there since; gives what is there then.
    ///
    /// What was written of a slot, and into it, is seen by whoever takes it: each change is a release, and each
    /// look an acquire.
    #[inline]
    fn change(&self, seen: Pair, slot: u32) -> Result<(), Pair> {
        let new = Pair::new(slot, seen.second().wrapping_add(1)).0;
        let top = &self.top.0;
        match top.compare_exchange_weak(seen.0, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(now) => Err(Pair(now)),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_came_home_last_goes_out_first() {
        let free = Free::all(3);
        assert_eq!(free.len(), 3);
        let taken: Vec<_> = std::iter::from_fn(|| free.take()).collect();
        assert_eq!((taken, free.len()), (vec![0, 1, 2], 0));
        for slot in [1, 2, 0] {
            free.bring(slot);
        }
        assert_eq!(free.len(), 3);
        let again: Vec<_> = std::iter::from_fn(|| free.take()).collect();
        assert_eq!(again, [0, 2, 1]);
    }

    #[test]
    fn threads_that_take_and_bring_slots_never_share_one() {
        const SLOTS: u32 = 8;
        const TURNS: usize = if cfg!(miri) { 200 } else { 50_000 };
        let free = Free::all(SLOTS);
        let owned: Vec<_> = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for turn in 0..TURNS {
                        let mine: Vec<_> = (0..turn % 4).filter_map(|_| free.take()).collect();
                        for &slot in &mine {
                            let before = owned[slot as usize].fetch_add(1, Ordering::Relaxed);
                            assert_eq!(before, 0, "slot {slot} has two owners");
                        }
                        for slot in mine {
                            owned[slot as usize].fetch_sub(1, Ordering::Relaxed);
                            free.bring(slot);
                        }
                    }
                });
            }
        });
        let home: BTreeSet<_> = std::iter::from_fn(|| free.take()).collect();
        assert_eq!(home, (0..SLOTS).collect());
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Two threads take two slots each and bring them home in the other order, beside a third that takes one:
    /// each slot has one owner at a time, who sees what the last one has written, and none is lost.
    #[test]
    fn loom_a_free_slot_has_one_owner() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let free = Arc::new(Free::all(3));
            let contents: Arc<[_; 3]> =
                Arc::new(std::array::from_fn(|_| loom::cell::UnsafeCell::new(0u32)));
            let user = |most: usize| {
                let (free, contents) = (free.clone(), contents.clone());
                thread::spawn(move || {
                    let mine: Vec<_> = (0..most).filter_map(|_| free.take()).collect();
                    for &slot in &mine {
                        // Loom finds two threads here that do not follow each other.
                        contents[slot as usize].with_mut(|_| ());
                    }
                    for slot in mine {
                        free.bring(slot);
                    }
                })
            };
            let (first, second) = (user(2), user(2));
            if let Some(slot) = free.take() {
                contents[slot as usize].with_mut(|_| ());
                free.bring(slot);
            }
            first.join().unwrap();
            second.join().unwrap();
            assert_eq!(free.len(), 3);
            let mut home: Vec<_> = std::iter::from_fn(|| free.take()).collect();
            home.sort_unstable();
            assert_eq!(home, [0, 1, 2]);
        });
    }
}
