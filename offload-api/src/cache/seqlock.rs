// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A record of several words that one writer changes and readers see whole or not at all.
//!
//! The first word is the version: odd while the writer is at it. Data words are atomic, so a reader
//! that comes in between reads old or new words, never undefined ones, and then sees that the
//! version has moved.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// An atomic word: std's, or the model checker's.
pub(super) trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    fn fence(order: Ordering);
}

impl Word for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }

    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
        #[cfg(all(test, not(loom)))]
        super::tests::steps::passed();
    }

    fn fence(order: Ordering) {
        fence(order);
    }
}

/// Why a record could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Torn {
    /// The writer was in the middle of it, or has died there.
    Writing,
    /// It changed during the read.
    Changed,
}

/// Writes a record; one writer at a time. A version that a dead writer left odd is passed over.
pub(super) fn write<W: Word>(record: &[W], data: &[u64]) {
    let Some((version, body)) = record.split_first() else {
        return;
    };
    let before = version.load(Ordering::Relaxed);
    let writing = if before & 1 == 0 {
        before.wrapping_add(1)
    } else {
        before.wrapping_add(2)
    };
    version.store(writing, Ordering::Relaxed);
    // Pairs with the reader's fence: who sees any word below sees the odd version or a later one.
    W::fence(Ordering::Release);
    for (word, value) in body.iter().zip(data) {
        word.store(*value, Ordering::Relaxed);
    }
    version.store(writing.wrapping_add(1), Ordering::Release);
}

/// Reads a record into `data`, and whatever lies behind it as it was meanwhile.
pub(super) fn read<W: Word>(record: &[W], data: &mut [u64]) -> Result<(), Torn> {
    let Some((version, body)) = record.split_first() else {
        return Err(Torn::Changed);
    };
    let before = version.load(Ordering::Acquire);
    if before & 1 != 0 {
        return Err(Torn::Writing);
    }
    for (word, value) in body.iter().zip(data) {
        *value = word.load(Ordering::Relaxed);
    }
    // Pairs with the writer's fence.
    W::fence(Ordering::Acquire);
    if version.load(Ordering::Relaxed) == before {
        Ok(())
    } else {
        Err(Torn::Changed)
    }
}
