// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card's side of what it shares with a driver and locks nothing for: completions, the doorbell
//! page, and who sleeps (docs/device-abi.md, "Queue pairs"). Over any memory, so that a model checker
//! runs this very code against a driver's.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use fpga_regs::descriptor::PHASE;
use fpga_regs::registers::doorbell;

/// An atomic word: std's, or a model checker's.
pub trait Word {
    /// Loads it.
    fn load(&self, order: Ordering) -> u32;

    /// Stores into it.
    fn store(&self, value: u32, order: Ordering);

    /// Exchanges it.
    fn swap(&self, value: u32, order: Ordering) -> u32;

    /// Orders accesses of this thread.
    fn fence(order: Ordering);
}

impl Word for AtomicU32 {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        Self::load(self, order)
    }

    #[inline]
    fn store(&self, value: u32, order: Ordering) {
        Self::store(self, value, order);
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

/// Doorbell pages of several queue pairs.
pub trait Pages {
    /// Their words.
    type Word: Word;

    /// How many pages there are.
    fn queues(&self) -> u16;

    /// A word of one of them.
    fn word(&self, queue: u16, register: u64) -> Option<&Self::Word>;
}

/// Submissions so far, by the driver's word.
#[inline]
pub fn tail(pages: &impl Pages, queue: u16) -> u32 {
    pages
        .word(queue, doorbell::TAIL)
        .map_or(0, |word| word.load(Ordering::Acquire))
}

/// Completions consumed so far, by the driver's word.
#[inline]
pub fn head(pages: &impl Pages, queue: u16) -> u32 {
    pages
        .word(queue, doorbell::HEAD)
        .map_or(0, |word| word.load(Ordering::Acquire))
}

/// After completions: whether the driver asks for an interrupt; asking ends with this.
#[inline]
pub fn take_arm<P: Pages>(pages: &P, queue: u16) -> bool {
    // Orders the completion's store before this; pairs with the driver's fence between arming and its
    // last look at the ring. The word is written only where it is set: mostly the driver polls.
    P::Word::fence(Ordering::SeqCst);
    pages.word(queue, doorbell::ARM).is_some_and(|word| {
        word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::AcqRel) != 0
    })
}

/// Sleeps, having told the drivers that they must wake the card, unless there is something to do: by a
/// look that comes after the telling.
pub fn rest<P: Pages>(functions: &[&P], has_work: impl FnOnce() -> bool, sleep: impl FnOnce()) {
    tell_sleeping(functions, true);
    // Pairs with the driver's fence between its doorbell and its look at the word: a doorbell that came
    // before the word was seen is found here, a later one wakes.
    P::Word::fence(Ordering::SeqCst);
    if !has_work() {
        sleep();
    }
    tell_sleeping(functions, false);
}

fn tell_sleeping<P: Pages>(functions: &[&P], sleeping: bool) {
    for pages in functions {
        for queue in 0..pages.queues() {
            if let Some(word) = pages.word(queue, doorbell::SLEEPING) {
                word.store(sleeping.into(), Ordering::Release);
            }
        }
    }
}

/// The driver's memory, as a card reaches it.
pub trait Memory {
    /// Why it could not be reached.
    type Fault;

    /// Copies octets out.
    ///
    /// # Errors
    /// It is not reachable.
    fn write(&self, iova: u64, octets: &[u8]) -> Result<(), Self::Fault>;

    /// Stores eight aligned octets at once.
    ///
    /// # Errors
    /// It is not reachable.
    fn store(&self, iova: u64, value: u64, order: Ordering) -> Result<(), Self::Fault>;
}

/// Phase bit of the entry that comes after so many, in a ring so deep.
pub fn phase(produced: u32, depth: u32) -> u8 {
    if (produced / depth.max(1)).is_multiple_of(2) {
        PHASE
    } else {
        0
    }
}

/// Writes an entry of a ring: everything but its last eight octets, then these with the phase, in one
/// store.
///
/// # Errors
/// The ring is not reachable.
pub fn post<M: Memory>(memory: &M, iova: u64, entry: &[u8]) -> Result<(), M::Fault> {
    let Some((body, last)) = entry.split_last_chunk::<8>() else {
        return Ok(());
    };
    memory.write(iova, body)?;
    let (iova, last) = (iova + body.len() as u64, u64::from_le_bytes(*last));
    memory.store(iova, last, Ordering::Release)
}
