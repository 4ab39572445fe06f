// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Taking over what an earlier writer left.

use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::{CacheEntry, CacheSlot, SlotRecord};
use super::error::ReadError;
use super::journal;
use super::layout::Geometry;
use super::process::WriterIdentity;
use super::reader::{granted_end, read_record, record_words, slot_data, slot_words};
use super::seqlock;

/// What a new writer found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The writer before, if there was one.
    pub previous: Option<WriterIdentity>,
    /// SAs that are still there, to be matched with what the card carries.
    pub live: Vec<(CacheSlot, CacheEntry)>,
    /// Entries that the earlier writer left half-written; removed. No number of theirs was ever
    /// handed out, or they were being removed.
    pub abandoned: u32,
    /// Entries that were damaged; removed. The card may still carry their SAs: retire those.
    pub corrupt: u32,
}

/// A slot as recovery leaves it.
pub(super) struct Recovered {
    pub(super) generation: u32,
    pub(super) entry: Option<CacheEntry>,
    pub(super) granted_end: u64,
}

impl Recovered {
    fn free(generation: u32) -> Self {
        Self {
            generation,
            entry: None,
            granted_end: 0,
        }
    }
}

/// Looks at a slot and frees it unless it is whole.
pub(super) fn recover_slot(
    words: &[AtomicU64],
    geometry: Geometry,
    index: u32,
    recovery: &mut Recovery,
) -> Recovered {
    let Ok(slot) = slot_words(words, geometry, index) else {
        return Recovered::free(0);
    };
    let damaged = match read_record(slot, index) {
        Ok(record) => return taken_over(slot, index, record, recovery),
        Err(damaged) => damaged,
    };
    if damaged == ReadError::Busy
        && let Some(record) = journal::pending(words, index)
    {
        seqlock::write(record_words(slot), &record.encode(index));
        return taken_over(slot, index, record, recovery);
    }
    match damaged {
        ReadError::Busy | ReadError::Abandoned => recovery.abandoned += 1,
        _ => recovery.corrupt += 1,
    }
    // Whatever generation it was at, handles of it must be stale now.
    let torn = slot.get(1).map_or(0, |word| word.load(Ordering::Relaxed)) as u32;
    let generation = torn.wrapping_add(1);
    let record = SlotRecord {
        generation,
        entry: None,
    };
    seqlock::write(record_words(slot), &record.encode(index));
    Recovered::free(generation)
}

fn taken_over(
    slot: &[AtomicU64],
    index: u32,
    record: SlotRecord,
    recovery: &mut Recovery,
) -> Recovered {
    let generation = record.generation;
    let Some(entry) = record.entry else {
        return Recovered::free(generation);
    };
    let handle = CacheSlot { index, generation };
    recovery.live.push((handle, entry.clone()));
    let data = slot_data(slot);
    Recovered {
        generation,
        entry: Some(entry),
        granted_end: granted_end(&data),
    }
}
