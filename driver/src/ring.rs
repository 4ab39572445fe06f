// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rings of fixed-size entries in DMA memory. Entries cross the boundary as copies only.

use std::marker::PhantomData;
use std::sync::Arc;

use fpga_regs::descriptor::PHASE;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::dma::{DmaArena, DmaSlice};

/// A ring that the host writes.
pub(crate) struct SubmissionRing<T> {
    arena: Arc<DmaArena>,
    slice: DmaSlice,
    depth: u32,
    entry: PhantomData<fn(T)>,
}

/// A ring that the device writes, with a phase bit in each entry's last octet.
pub(crate) struct CompletionRing<T> {
    arena: Arc<DmaArena>,
    slice: DmaSlice,
    depth: u32,
    entry: PhantomData<fn() -> T>,
}

impl<T: IntoBytes + Immutable> SubmissionRing<T> {
    pub(crate) fn new(arena: Arc<DmaArena>, slice: DmaSlice, depth: u32) -> Self {
        Self {
            arena,
            slice,
            depth,
            entry: PhantomData,
        }
    }

    pub(crate) fn iova(&self) -> u64 {
        self.arena.iova_of(self.slice)
    }

    /// Writes the entry of a position that counts up for ever.
    pub(crate) fn write(&self, position: u32, entry: &T) {
        let slot = u64::from(position % self.depth);
        self.arena
            .write(self.slice, slot * size_of::<T>() as u64, entry.as_bytes());
    }
}

impl<T: FromBytes + IntoBytes> CompletionRing<T> {
    pub(crate) fn new(arena: Arc<DmaArena>, slice: DmaSlice, depth: u32) -> Self {
        // A slice may have served before.
        let zeros = vec![0; size_of::<T>()];
        for slot in 0..u64::from(depth) {
            arena.write(slice, slot * size_of::<T>() as u64, &zeros);
        }
        Self {
            arena,
            slice,
            depth,
            entry: PhantomData,
        }
    }

    pub(crate) fn iova(&self) -> u64 {
        self.arena.iova_of(self.slice)
    }

    /// Whether the entry of a position has been written.
    pub(crate) fn is_ready(&self, position: u32) -> bool {
        let phase = (self.last_word(position) >> 56) as u8 & PHASE;
        let expected = if (position / self.depth).is_multiple_of(2) {
            PHASE
        } else {
            0
        };
        phase == expected
    }

    /// The entry of a position, copied once, if it has been written.
    pub(crate) fn read(&self, position: u32) -> Option<T> {
        if !self.is_ready(position) {
            return None;
        }
        let slot = u64::from(position % self.depth);
        let mut entry = T::new_zeroed();
        self.arena.read(
            self.slice,
            slot * size_of::<T>() as u64,
            entry.as_mut_bytes(),
        );
        Some(entry)
    }

    /// The last eight octets; what is read after this is at least as new as them.
    fn last_word(&self, position: u32) -> u64 {
        let slot = u64::from(position % self.depth);
        let at = (slot + 1) * size_of::<T>() as u64 - size_of::<u64>() as u64;
        self.arena.load_acquire(self.slice, at)
    }
}
