// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where everything lies in the memory, in words of 64 bits.
//!
//! ```text
//! line 0       magic, version, layout hash, capacity, index words, ring entries, words, checksum
//! line 1       writer record: version, pid, start time, boot id (2), epoch, checksum
//! line 2       heartbeat; index version; events written; live SAs
//! ring         RING entries of 4 words: number, time, kind and slot, value
//! index        power of two of at least 2 words an SA: tag (32), slot + 1 (32)
//! slots        24 words each: record (line 0 and 1), grant and placement (line 1), usage (line 2)
//! ```

use std::ops::Range;

/// `IPSA` and `cach` in ASCII.
pub(super) const MAGIC: u64 = 0x4950_5341_6361_6368;
pub(super) const VERSION: u64 = 1;
pub(super) const CAPACITY_MAX: u32 = 1 << 24;

pub(super) const LINE: usize = 8;
pub(super) const HEADER: Range<usize> = 0..LINE;
pub(super) const WRITER: Range<usize> = LINE..2 * LINE;
pub(super) const HEARTBEAT: usize = 2 * LINE;
pub(super) const INDEX_VERSION: usize = HEARTBEAT + 1;
pub(super) const EVENTS_WRITTEN: usize = HEARTBEAT + 2;
pub(super) const LIVE: usize = HEARTBEAT + 3;
const RING_START: usize = 3 * LINE;
pub(super) const RING: usize = 256;
pub(super) const EVENT_WORDS: usize = 4;
const INDEX_START: usize = RING_START + RING * EVENT_WORDS;

pub(super) const SLOT_WORDS: usize = 3 * LINE;
/// The seqlocked part of a slot: its version and [`DATA_WORDS`] more.
pub(super) const RECORD_WORDS: usize = 1 + DATA_WORDS;
pub(super) const DATA_WORDS: usize = 10;
/// Offsets in a slot.
pub(super) const GRANTED_END: usize = RECORD_WORDS;
pub(super) const GRANTED_END_INVERSE: usize = GRANTED_END + 1;
pub(super) const PLACEMENT: usize = GRANTED_END + 2;
pub(super) const USAGE: usize = 2 * LINE;
pub(super) const USAGE_WORDS: usize = 6;

/// An index word that a removed SA left behind.
pub(super) const TOMBSTONE: u64 = u64::MAX;

/// Changes with every change of the above.
pub(super) const LAYOUT_HASH: u64 = fnv(&[
    VERSION,
    RING as u64,
    EVENT_WORDS as u64,
    SLOT_WORDS as u64,
    RECORD_WORDS as u64,
    PLACEMENT as u64,
    USAGE as u64,
    USAGE_WORDS as u64,
]);

/// Sizes that follow from the capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) capacity: u32,
    /// A power of two.
    pub(super) index: usize,
}

impl Geometry {
    pub(super) fn new(capacity: u32) -> Option<Self> {
        (1..=CAPACITY_MAX).contains(&capacity).then(|| Self {
            capacity,
            index: (capacity as usize * 2).next_power_of_two().max(LINE),
        })
    }

    /// Words in all.
    pub(super) fn words(self) -> usize {
        self.slots_start() + self.capacity as usize * SLOT_WORDS
    }

    fn slots_start(self) -> usize {
        INDEX_START + self.index
    }

    pub(super) fn index(self) -> Range<usize> {
        INDEX_START..self.slots_start()
    }

    pub(super) fn event(self, number: u64) -> Range<usize> {
        let start = RING_START + (number % RING as u64) as usize * EVENT_WORDS;
        start..start + EVENT_WORDS
    }

    /// The words of a slot; none outside of the table.
    pub(super) fn slot(self, index: u32) -> Option<Range<usize>> {
        (index < self.capacity).then(|| {
            let start = self.slots_start() + index as usize * SLOT_WORDS;
            start..start + SLOT_WORDS
        })
    }

    /// The header line.
    pub(super) fn header(self) -> [u64; LINE] {
        let mut header = [
            MAGIC,
            VERSION,
            LAYOUT_HASH,
            u64::from(self.capacity),
            self.index as u64,
            RING as u64,
            self.words() as u64,
            0,
        ];
        header[LINE - 1] = fnv(&header[..LINE - 1]);
        header
    }
}

/// FNV-1a over the octets of words (good enough against accidents, no defence against an attacker,
/// who could write anything anyway).
pub(super) const fn fnv(words: &[u64]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    while i < words.len() {
        let octets = words[i].to_le_bytes();
        let mut j = 0;
        while j < 8 {
            hash = (hash ^ octets[j] as u64).wrapping_mul(0x0100_0000_01b3);
            j += 1;
        }
        i += 1;
    }
    hash
}
