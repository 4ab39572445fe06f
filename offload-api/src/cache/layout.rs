// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where everything lies in the memory, in words of 64 bits.
//!
//! ```text
//! line 0       magic, version, layout hash, capacity, index words, index seed, words, checksum
//! line 1       writer record: version, pid, start time, boot id (2), epoch, checksum
//! line 2       index version: its lowest bit names the area in use; readers look at it all the time
//! line 3       heartbeat; events written; live SAs
//! lines 4, 5   journal: slot + 1, and the record that is being put in place of its own
//! ring         RING entries of 4 words: number, time, kind and SA, value
//! index        two areas, each a power of two of at least 2 words an SA: tag (32), slot + 1 (32)
//! slots        32 words each: record (lines 0 and 1), grant and placement (line 2), usage (line 3)
//! ```
//!
//! Slots are never split over two pages, and a page that holds no used slot takes no memory: whoever
//! looks at all of them asks the kernel which pages there are.

use std::ops::Range;

/// `IPSA` and `cach` in ASCII.
pub(super) const MAGIC: u64 = 0x4950_5341_6361_6368;
pub(super) const VERSION: u64 = 3;
pub(super) const CAPACITY_MAX: u32 = 1 << 24;

pub(super) const LINE: usize = 8;
pub(super) const HEADER: Range<usize> = 0..LINE;
pub(super) const WRITER: Range<usize> = LINE..2 * LINE;
pub(super) const INDEX_VERSION: usize = 2 * LINE;
pub(super) const HEARTBEAT: usize = 3 * LINE;
pub(super) const EVENTS_WRITTEN: usize = HEARTBEAT + 1;
pub(super) const LIVE: usize = HEARTBEAT + 2;
pub(super) const JOURNAL: Range<usize> = 4 * LINE..4 * LINE + RECORD_WORDS;
const RING_START: usize = 8 * LINE;
/// The model checker can't hold more.
pub(super) const RING: usize = if cfg!(loom) { 2 } else { 4096 };
pub(super) const EVENT_WORDS: usize = 4;
const INDEX_START: usize = RING_START + RING * EVENT_WORDS;
/// So that slots start at a multiple of their size.
const INDEX_MIN: usize = 2 * LINE;

pub(super) const SLOT_WORDS: usize = 4 * LINE;
/// The seqlocked part of a slot: its version and [`DATA_WORDS`] more.
pub(super) const RECORD_WORDS: usize = 1 + DATA_WORDS;
pub(super) const DATA_WORDS: usize = 15;
pub(super) const NAME_WORDS: usize = 5;
/// Offsets in a slot.
pub(super) const GRANTED_END: usize = RECORD_WORDS;
pub(super) const GRANTED_END_INVERSE: usize = GRANTED_END + 1;
pub(super) const PLACEMENT: usize = GRANTED_END + 2;
pub(super) const USAGE: usize = 3 * LINE;
pub(super) const USAGE_WORDS: usize = 6;
pub(super) const LAST_USE: usize = USAGE + USAGE_WORDS;

/// Changes with every change of the above.
pub(super) const LAYOUT_HASH: u64 = digest(&[
    VERSION,
    INDEX_VERSION as u64,
    HEARTBEAT as u64,
    JOURNAL.start as u64,
    RING as u64,
    EVENT_WORDS as u64,
    SLOT_WORDS as u64,
    RECORD_WORDS as u64,
    NAME_WORDS as u64,
    PLACEMENT as u64,
    USAGE as u64,
    USAGE_WORDS as u64,
]);

/// Sizes that follow from the capacity, and the index's seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) capacity: u32,
    /// Words of each area, a power of two.
    pub(super) index: usize,
    /// Peers choose the SPIs that we send to: it keeps them from choosing where in the index.
    pub(super) seed: u64,
}

impl Geometry {
    pub(super) fn new(capacity: u32, seed: u64) -> Option<Self> {
        (1..=CAPACITY_MAX).contains(&capacity).then(|| Self {
            capacity,
            index: (capacity as usize * 2).next_power_of_two().max(INDEX_MIN),
            seed,
        })
    }

    /// Words in all.
    pub(super) fn words(self) -> usize {
        self.slots_start() + self.capacity as usize * SLOT_WORDS
    }

    fn slots_start(self) -> usize {
        INDEX_START + 2 * self.index
    }

    /// The index's two areas.
    pub(super) fn areas(self) -> [Range<usize>; 2] {
        let middle = INDEX_START + self.index;
        [INDEX_START..middle, middle..self.slots_start()]
    }

    pub(super) fn ring(self) -> Range<usize> {
        RING_START..INDEX_START
    }

    /// The words of a slot; none outside of the table.
    pub(super) fn slot(self, index: u32) -> Option<Range<usize>> {
        (index < self.capacity).then(|| {
            let start = self.slots_start() + index as usize * SLOT_WORDS;
            start..start + SLOT_WORDS
        })
    }

    /// The slots that lie, if only in part, in these words.
    pub(super) fn slots_in(self, words: &Range<usize>) -> Range<u32> {
        let slot = |word: usize, round: usize| {
            let slot = (word.saturating_sub(self.slots_start()) + round) / SLOT_WORDS;
            u32::try_from(slot).map_or(self.capacity, |slot| slot.min(self.capacity))
        };
        slot(words.start, 0)..slot(words.end, SLOT_WORDS - 1)
    }

    /// The header line.
    pub(super) fn header(self) -> [u64; LINE] {
        let mut header = [
            MAGIC,
            VERSION,
            LAYOUT_HASH,
            u64::from(self.capacity),
            self.index as u64,
            self.seed,
            self.words() as u64,
            0,
        ];
        header[LINE - 1] = digest(&header[..LINE - 1]);
        header
    }
}

/// A checksum of words, good against accidents: a change of one word always changes it, since each
/// step can be undone. It is no defence against an attacker, who could write anything anyway.
pub(super) const fn digest(words: &[u64]) -> u64 {
    let mut digest: u64 = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    while i < words.len() {
        digest = (digest ^ words[i]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        digest ^= digest >> 29;
        i += 1;
    }
    digest
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn slots_lie_within_pages_and_are_found_by_their_words() {
        for capacity in [1, 2, 7, 1000, CAPACITY_MAX] {
            let geometry = Geometry::new(capacity, 1).unwrap();
            let page = 4096 / size_of::<u64>();
            let last = geometry.slot(capacity - 1).unwrap();
            for slot in [geometry.slot(0).unwrap(), last.clone()] {
                assert_eq!(slot.start / page, (slot.end - 1) / page, "{capacity}");
            }
            assert_eq!(last.end, geometry.words());
            assert_eq!(geometry.slot(capacity), None);
            assert_eq!(geometry.slots_in(&(0..geometry.words())), 0..capacity);
            assert_eq!(geometry.slots_in(&last), capacity - 1..capacity);
            assert!(geometry.slots_in(&(0..geometry.areas()[1].end)).is_empty());
        }
        assert_eq!(Geometry::new(CAPACITY_MAX + 1, 1), None);
    }

    #[test]
    fn a_changed_word_changes_the_digest() {
        let words: [u64; 4] = [1, 2, 3, 4];
        for place in 0..words.len() * 64 {
            let mut changed = words;
            changed[place / 64] ^= 1 << (place % 64);
            assert_ne!(digest(&changed), digest(&words));
        }
    }
}
