// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A live SA's record is never lost to a writer that dies while it changes it: what it is to become
//! is written down before.

use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::SlotRecord;
use super::layout::{DATA_WORDS, JOURNAL};
use super::seqlock::Word;

/// Says what a slot's record is going to be.
pub(super) fn begin(words: &[AtomicU64], slot: u32, data: &[u64; DATA_WORDS]) {
    let Some((place, body)) = split(words) else {
        return;
    };
    for (word, value) in body.iter().zip(data) {
        Word::store(word, *value, Ordering::Relaxed);
    }
    Word::store(place, u64::from(slot) + 1, Ordering::Release);
}

/// The record is in place.
pub(super) fn end(words: &[AtomicU64]) {
    if let Some((place, _)) = split(words)
        && place.load(Ordering::Relaxed) != 0
    {
        Word::store(place, 0, Ordering::Release);
    }
}

/// What was to be put in a slot when the writer died.
pub(super) fn pending(words: &[AtomicU64], slot: u32) -> Option<SlotRecord> {
    let (place, body) = split(words)?;
    (place.load(Ordering::Acquire) == u64::from(slot) + 1).then_some(())?;
    let mut data = [0; DATA_WORDS];
    for (value, word) in data.iter_mut().zip(body) {
        *value = word.load(Ordering::Relaxed);
    }
    SlotRecord::decode(&data, slot).filter(|record| record.entry.is_some())
}

fn split(words: &[AtomicU64]) -> Option<(&AtomicU64, &[AtomicU64])> {
    words.get(JOURNAL)?.split_first()
}
