// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rings of fixed-size entries in DMA memory. Entries cross the boundary as copies only.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fpga_regs::descriptor::PHASE;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::dma::{DmaArena, DmaSlice, Entries};
use crate::handshake::Slots;

/// A ring that the host writes.
pub(crate) struct SubmissionRing<T, S = Entries<T>> {
    entries: S,
    entry: PhantomData<fn() -> T>,
}

/// A ring that the device writes, with a phase bit in each entry's last octet.
pub(crate) struct CompletionRing<T, S = Entries<T>> {
    entries: S,
    entry: PhantomData<fn() -> T>,
}

impl<T: FromBytes + IntoBytes + Immutable> SubmissionRing<T> {
    /// A ring over a slice, unless that is too small.
    pub(crate) fn new(arena: &Arc<DmaArena>, slice: DmaSlice, depth: u32) -> Option<Self> {
        Some(Self::over(arena.entries(slice, depth)?))
    }

    pub(crate) fn iova(&self) -> u64 {
        self.entries.iova()
    }

    /// Where the device sees the entry of a position.
    pub(crate) fn iova_of(&self, position: u32) -> u64 {
        self.entries.iova_of(position)
    }
}

impl<T, S: Slots<T>> SubmissionRing<T, S> {
    pub(crate) fn over(entries: S) -> Self {
        let entry = PhantomData;
        Self { entries, entry }
    }

    /// Writes the entry of a position that counts up for ever.
    #[inline]
    pub(crate) fn write(&self, position: u32, entry: T) {
        self.entries.write(position, entry);
    }
}

impl<T: FromBytes + IntoBytes + Immutable> CompletionRing<T> {
    /// A ring over a slice, unless that is too small; zeroed, since the slice may have served before.
    pub(crate) fn new(arena: &Arc<DmaArena>, slice: DmaSlice, depth: u32) -> Option<Self> {
        let entries = arena.entries(slice, depth)?;
        for slot in 0..depth {
            entries.write(slot, T::new_zeroed());
        }
        Some(Self::over(entries))
    }

    pub(crate) fn iova(&self) -> u64 {
        self.entries.iova()
    }
}

impl<T, S: Slots<T>> CompletionRing<T, S> {
    /// Over entries that are zero.
    pub(crate) fn over(entries: S) -> Self {
        let entry = PhantomData;
        Self { entries, entry }
    }

    /// Whether the entry of a position has been written; what is read after this is at least as new.
    #[inline]
    pub(crate) fn is_ready(&self, position: u32) -> bool {
        let phase = (self.entries.last_word(position, Ordering::Acquire) >> 56) as u8 & PHASE;
        let first_round = position & self.entries.depth() == 0;
        (phase != 0) == first_round
    }

    /// The entry of a position, copied once, if it has been written.
    #[inline]
    pub(crate) fn read(&self, position: u32) -> Option<T> {
        self.is_ready(position).then(|| self.entries.read(position))
    }
}
