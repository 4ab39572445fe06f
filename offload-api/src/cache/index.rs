// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From a key's hash to the slots that may hold it: open addressing in shared words.
//!
//! It is only a way to find what the slots hold, so what a reader finds by it is checked there. It
//! is laid in two areas, of which the version's lowest bit names the one in use: a new index is laid
//! in the other while readers go on, and one store changes them over.

use std::sync::atomic::Ordering;

use super::seqlock::Word;

/// An index word that a removed SA left behind.
const TOMBSTONE: u64 = u64::MAX;
/// How often a look is tried again because the index has been laid anew meanwhile, which takes far
/// longer than a look.
const TRIES: usize = if cfg!(loom) { 2 } else { 8 };

/// A view of the index, for its writer or a reader.
#[derive(Debug)]
pub(super) struct Index<'a, W> {
    version: Option<&'a W>,
    areas: [&'a [W]; 2],
}

/// Every area that was looked at had gone out of use meanwhile.
#[derive(Debug)]
pub(super) struct Unsettled;

impl<'a, W: Word> Index<'a, W> {
    pub(super) fn new(version: Option<&'a W>, areas: [&'a [W]; 2]) -> Self {
        Self { version, areas }
    }

    fn version(&self, order: Ordering) -> u64 {
        self.version.map_or(0, |word| word.load(order))
    }

    fn area(&self, version: u64) -> &'a [W] {
        let [even, odd] = self.areas;
        if version & 1 == 0 { even } else { odd }
    }

    /// Has `look` see the slots that may hold the key, until it is content with one.
    pub(super) fn find<T>(
        &self,
        hash: u64,
        mut look: impl FnMut(u32) -> Option<T>,
    ) -> Result<Option<T>, Unsettled> {
        for _ in 0..TRIES {
            let version = self.version(Ordering::Acquire);
            for word in probe_sequence(self.area(version), hash) {
                let value = word.load(Ordering::Acquire);
                if value == 0 {
                    break;
                }
                if let Some(found) = slot_of(value, hash).and_then(&mut look) {
                    return Ok(Some(found));
                }
            }
            // An area that has gone out of use may be being cleared.
            W::fence(Ordering::Acquire);
            if self.version(Ordering::Relaxed) == version {
                return Ok(None);
            }
        }
        Err(Unsettled)
    }

    /// Enters a slot: whether it took a removed one's place; none when there is no room.
    pub(super) fn insert(&self, hash: u64, slot: u32) -> Option<bool> {
        let area = self.area(self.version(Ordering::Relaxed));
        let (word, value) = probe_sequence(area, hash)
            .map(|word| (word, word.load(Ordering::Relaxed)))
            .find(|(_, value)| matches!(*value, 0 | TOMBSTONE))?;
        word.store(word_of(hash, slot), Ordering::Release);
        Some(value == TOMBSTONE)
    }

    /// Removes a slot: by how much the number of places that removed ones take has changed.
    pub(super) fn remove(&self, hash: u64, slot: u32) -> isize {
        let area = self.area(self.version(Ordering::Relaxed));
        let Some(mask) = area.len().checked_sub(1) else {
            return 0;
        };
        let home = hash as usize & mask;
        let places = (0..area.len()).map(|step| home.wrapping_add(step) & mask);
        let load = |place: usize| {
            let word = area.get(place & mask);
            word.map_or(TOMBSTONE, |word| word.load(Ordering::Relaxed))
        };
        let store = |place: usize, value: u64| {
            if let Some(word) = area.get(place & mask) {
                word.store(value, Ordering::Release);
            }
        };
        let Some(mut place) = places
            .into_iter()
            .find(|place| slot_of(load(*place), hash) == Some(slot))
        else {
            return 0;
        };
        if load(place.wrapping_add(1)) != 0 {
            store(place, TOMBSTONE);
            return 1;
        }
        // Nobody's way leads on from here, so nothing need be left, nor right before it.
        let mut change = 0;
        store(place, 0);
        for _ in 0..mask {
            place = place.wrapping_sub(1) & mask;
            if load(place) != TOMBSTONE {
                break;
            }
            store(place, 0);
            change -= 1;
        }
        change
    }

    /// Which area is out of use.
    pub(super) fn idle(&self) -> usize {
        usize::from(self.version(Ordering::Relaxed) & 1 == 0)
    }

    /// Clears the area that is out of use. Who sees it cleared also sees that it went out of use.
    pub(super) fn clear_idle(&self) {
        W::fence(Ordering::Release);
        for word in self.areas.get(self.idle()).copied().unwrap_or_default() {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Lays the index anew in the area that is out of use, which must be clear, and changes over.
    pub(super) fn rebuild(&self, entries: impl Iterator<Item = (u64, u32)>) {
        let next = self.version(Ordering::Relaxed).wrapping_add(1);
        let area = self.area(next);
        W::fence(Ordering::Release);
        for (hash, slot) in entries {
            let free = probe_sequence(area, hash).find(|word| word.load(Ordering::Relaxed) == 0);
            if let Some(word) = free {
                word.store(word_of(hash, slot), Ordering::Relaxed);
            }
        }
        if let Some(word) = self.version {
            word.store(next, Ordering::Release);
        }
    }
}

/// The words that a key may be in, in order, each once.
fn probe_sequence<W>(area: &[W], hash: u64) -> impl Iterator<Item = &W> {
    let start = hash as usize & area.len().wrapping_sub(1);
    let (before, after) = area.split_at(start.min(area.len()));
    after.iter().chain(before)
}

/// An index word for a slot, which is less than 2^24, so that it is neither empty nor a tombstone.
fn word_of(hash: u64, slot: u32) -> u64 {
    (hash >> 32 << 32) | (u64::from(slot) + 1)
}

/// The slot that an index word points to, if its tag fits the key.
fn slot_of(word: u64, hash: u64) -> Option<u32> {
    (word != TOMBSTONE && word >> 32 == hash >> 32)
        .then_some(word as u32)?
        .checked_sub(1)
}
