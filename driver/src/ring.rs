// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rings of fixed-size entries in DMA memory. Entries cross the boundary as copies only.

use std::sync::Arc;

use fpga_regs::descriptor::PHASE;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::dma::{DmaArena, DmaSlice, Entries};

/// A ring that the host writes.
pub(crate) struct SubmissionRing<T> {
    entries: Entries<T>,
}

/// A ring that the device writes, with a phase bit in each entry's last octet.
pub(crate) struct CompletionRing<T> {
    entries: Entries<T>,
}

impl<T: IntoBytes + Immutable> SubmissionRing<T> {
    /// A ring over a slice, unless that is too small.
    pub(crate) fn new(arena: &Arc<DmaArena>, slice: DmaSlice, depth: u32) -> Option<Self> {
        let entries = arena.entries(slice, depth)?;
        Some(Self { entries })
    }

    pub(crate) fn iova(&self) -> u64 {
        self.entries.iova()
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
        Some(Self { entries })
    }

    pub(crate) fn iova(&self) -> u64 {
        self.entries.iova()
    }

    /// Whether the entry of a position has been written; what is read after this is at least as new.
    #[inline]
    pub(crate) fn is_ready(&self, position: u32) -> bool {
        let phase = (self.entries.last_word(position) >> 56) as u8 & PHASE;
        let first_round = position & self.entries.depth() == 0;
        (phase != 0) == first_round
    }

    /// The entry of a position, copied once, if it has been written.
    #[inline]
    pub(crate) fn read(&self, position: u32) -> Option<T> {
        self.is_ready(position).then(|| self.entries.read(position))
    }
}
