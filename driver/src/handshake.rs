// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The host's side of what it shares with a card and locks nothing for: entries, the doorbell page, and
//! who sleeps (docs/device-abi.md, "Queue pairs"). Over any memory, so that a model checker runs this
//! very code.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use fpga_regs::registers::{DOORBELL_PAGE, doorbell};

use crate::transport::MappedRegion;

/// Where a ring's entries are, found by positions that count up for ever.
pub(crate) trait Slots<T> {
    /// A power of two.
    fn depth(&self) -> u32;

    /// Writes an entry.
    fn write(&self, position: u32, entry: T);

    /// Copies an entry out, once.
    fn read(&self, position: u32) -> T;

    /// The last eight octets of an entry, loaded at once.
    fn last_word(&self, position: u32, order: Ordering) -> u64;
}

/// A queue pair's doorbell page.
pub(crate) trait Page {
    /// Writes a word.
    fn write(&self, register: u64, value: u32);

    /// Reads a word.
    fn read(&self, register: u64) -> u32;

    /// Orders accesses of this thread.
    fn fence(&self, order: Ordering) {
        fence(order);
    }
}

/// A page of the mapped doorbells.
#[derive(Clone, Copy)]
pub(crate) struct MappedPage<'a> {
    doorbells: &'a MappedRegion,
    start: u64,
}

impl<'a> MappedPage<'a> {
    #[inline]
    pub(crate) fn new(doorbells: &'a MappedRegion, queue: u16) -> Self {
        let start = u64::from(queue) * DOORBELL_PAGE;
        Self { doorbells, start }
    }
}

impl Page for MappedPage<'_> {
    #[inline]
    fn write(&self, register: u64, value: u32) {
        self.doorbells.write(self.start + register, value);
    }

    #[inline]
    fn read(&self, register: u64) -> u32 {
        self.doorbells.read(self.start + register)
    }
}

/// Tells the card how many submissions there are.
#[inline]
pub(crate) fn ring(page: &impl Page, tail: u32) {
    // Orders the entries before the doorbell; pairs with the card's acquire of TAIL. Orders what the
    // caller noted for the watchdog before its look at it, too.
    page.fence(Ordering::SeqCst);
    page.write(doorbell::TAIL, tail);
}

/// After a doorbell: whether the card sleeps, and is to be woken.
#[inline]
pub(crate) fn must_wake(page: &impl Page) -> bool {
    // Pairs with the card's fence between its word and its last look at the doorbells.
    page.fence(Ordering::SeqCst);
    page.read(doorbell::SLEEPING) != 0
}

/// Asks for an interrupt. `drain` takes what has fired before; whether there is something to do already,
/// by a look that comes after the asking.
pub(crate) fn arm(page: &impl Page, drain: impl FnOnce(), is_ready: impl FnOnce() -> bool) -> bool {
    // What fired before the look is seen by the look.
    drain();
    page.write(doorbell::ARM, 1);
    // Pairs with the card's fence between a completion and its look at ARM.
    page.fence(Ordering::SeqCst);
    is_ready()
}

/// An atomic word: std's, or the model checker's.
pub(crate) trait Word {
    fn load(&self, order: Ordering) -> u32;
    fn swap(&self, value: u32, order: Ordering) -> u32;
    fn fence(order: Ordering);
}

impl Word for AtomicU32 {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        Self::load(self, order)
    }

    #[inline]
    fn swap(&self, value: u32, order: Ordering) -> u32 {
        Self::swap(self, value, order)
    }

    #[inline]
    fn fence(order: Ordering) {
        fence(order);
    }
}

/// Whether a thread lies down until it is roused by whoever has something for it.
#[derive(Debug, Default)]
pub(crate) struct Doze<W = AtomicU32>(W);

impl<W: Word> Doze<W> {
    /// After something was left for the thread, and a full fence: whether its bell must be rung.
    #[inline]
    pub(crate) fn must_rouse(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0 && self.0.swap(0, Ordering::Relaxed) != 0
    }

    /// By the thread: whether it lies down now, unless there is something for it.
    pub(crate) fn lies_down(&self, has_work: impl FnOnce() -> bool) -> bool {
        // Exchanged, not stored: that always comes after what others wrote.
        self.0.swap(1, Ordering::Relaxed);
        // Pairs with the fence between what is left for the thread and the look at this word.
        W::fence(Ordering::SeqCst);
        if has_work() {
            self.0.swap(0, Ordering::Relaxed);
        }
        self.0.load(Ordering::Relaxed) != 0
    }
}

#[cfg(test)]
impl<W> From<W> for Doze<W> {
    fn from(word: W) -> Self {
        Self(word)
    }
}
