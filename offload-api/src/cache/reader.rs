// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reading the cache, from any process.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::{
    CacheEntry, CacheEvent, CacheEventKind, CacheSlot, SaState, SlotRecord, key_hash, placement,
    usage,
};
use super::error::{OpenError, ReadError};
use super::layout::{
    DATA_WORDS, EVENT_WORDS, EVENTS_WRITTEN, GRANTED_END, GRANTED_END_INVERSE, Geometry, HEARTBEAT,
    INDEX_VERSION, LIVE, PLACEMENT, RECORD_WORDS, RING, TOMBSTONE, USAGE, USAGE_WORDS, WRITER,
};
use super::process::WriterIdentity;
use super::seqlock::{self, Torn};
use super::shm;
use crate::event::Engine;
use crate::sa::{Direction, SaUsage, Spi};

/// How often a read is tried again while the writer is at the entry. A write takes tens of
/// nanoseconds, so this outlasts a preempted writer's time slice only by asking whether it lives.
const TRIES: u32 = 1 << 14;

/// A read-only view of a cache.
#[derive(Debug)]
pub struct CacheReader {
    map: shm::Map,
    geometry: Geometry,
}

/// An SA as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRecord {
    /// Where.
    pub slot: CacheSlot,
    /// What it is.
    pub entry: CacheEntry,
    /// Who carries it, when that is known.
    pub engine: Option<Engine>,
    /// How it is.
    pub state: Option<SaState>,
    /// Outbound: the last sequence number that was handed out; 0 is none.
    pub granted: u64,
    /// What it has done, as of the writer's last note.
    pub usage: SaUsage,
}

/// How the writer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterStatus {
    /// There has been none.
    None,
    /// It runs; with its last heartbeat in nanoseconds since boot.
    Alive(WriterIdentity, u64),
    /// It has ended.
    Dead(WriterIdentity),
}

impl CacheReader {
    /// Opens a cache that another process passed on.
    ///
    /// # Errors
    /// It is no sealed SA cache of this version, or its header is damaged.
    pub fn open(fd: OwnedFd) -> Result<Self, OpenError> {
        let file = shm::File::open(fd)?;
        Ok(Self {
            map: file.map_read_only()?,
            geometry: file.geometry(),
        })
    }

    /// SAs that fit.
    pub fn capacity(&self) -> u32 {
        self.geometry.capacity
    }

    /// SAs in it, by the writer's count.
    pub fn len(&self) -> u64 {
        self.word(LIVE)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How the writer is.
    pub fn writer(&self) -> WriterStatus {
        let identity = (0..TRIES).find_map(|_| {
            let record = self.map.words().get(WRITER)?;
            WriterIdentity::load(record)
        });
        match identity {
            None => WriterStatus::None,
            Some(identity) if identity.pid == 0 => WriterStatus::None,
            Some(identity) if identity.is_alive() => {
                WriterStatus::Alive(identity, self.word(HEARTBEAT))
            }
            Some(identity) => WriterStatus::Dead(identity),
        }
    }

    /// Reads the SA in a slot.
    ///
    /// # Errors
    /// There is none, or it is being changed, abandoned or damaged.
    pub fn slot(&self, index: u32) -> Result<CacheRecord, ReadError> {
        let words = slot_words(self.map.words(), self.geometry, index)?;
        let mut tries = 0;
        loop {
            match read_slot(words, index) {
                Err(ReadError::Busy) if tries < TRIES => {
                    tries += 1;
                    std::hint::spin_loop();
                }
                Err(ReadError::Busy) if matches!(self.writer(), WriterStatus::Dead(_)) => {
                    return Err(ReadError::Abandoned);
                }
                result => return result,
            }
        }
    }

    /// Finds the SA with this SPI. Outbound SPIs are the peers' choice, so two SAs can share one: the
    /// first is found, or the one to `destination` where that is given.
    ///
    /// # Errors
    /// There is none, or what there is can't be read.
    pub fn find(
        &self,
        spi: Spi,
        direction: Direction,
        destination: Option<IpAddr>,
    ) -> Result<CacheRecord, ReadError> {
        let hash = key_hash(spi, direction);
        for _ in 0..TRIES {
            let before = self.word(INDEX_VERSION);
            let wanted = |entry: &CacheEntry| {
                entry.spi == spi
                    && entry.direction == direction
                    && destination.is_none_or(|wanted| wanted == entry.destination)
            };
            match self.probe(hash, wanted) {
                Err(ReadError::NotFound) => {}
                result => return result,
            }
            // A rebuild may have moved the SA past the probe.
            std::sync::atomic::fence(Ordering::Acquire);
            if before & 1 == 0 && self.word(INDEX_VERSION) == before {
                return Err(ReadError::NotFound);
            }
            std::hint::spin_loop();
        }
        match self.writer() {
            WriterStatus::Dead(_) => Err(ReadError::Abandoned),
            _ => Err(ReadError::Busy),
        }
    }

    fn probe(
        &self,
        hash: u64,
        wanted: impl Fn(&CacheEntry) -> bool,
    ) -> Result<CacheRecord, ReadError> {
        let index = self.map.words().get(self.geometry.index());
        let mut worst = ReadError::NotFound;
        for word in probe_sequence(index.unwrap_or_default(), hash) {
            let value = word.load(Ordering::Acquire);
            if value == 0 {
                break;
            }
            let Some(slot) = index_slot(value, hash) else {
                continue;
            };
            match self.slot(slot) {
                Ok(record) if wanted(&record.entry) => return Ok(record),
                Ok(_) | Err(ReadError::NotFound) => {}
                Err(error) => worst = error,
            }
        }
        Err(worst)
    }

    /// Every SA that can be read, and how many slots can't.
    pub fn records(&self) -> (Vec<CacheRecord>, u32) {
        let mut records = Vec::new();
        let mut unreadable = 0;
        for index in 0..self.geometry.capacity {
            match self.slot(index) {
                Ok(record) => records.push(record),
                Err(ReadError::NotFound) => {}
                Err(_) => unreadable += 1,
            }
        }
        (records, unreadable)
    }

    /// The last events, oldest first.
    pub fn events(&self) -> Vec<CacheEvent> {
        let written = self.word(EVENTS_WRITTEN);
        let first = written.saturating_sub(RING as u64).saturating_add(1);
        (first..=written)
            .filter_map(|number| self.event(number))
            .collect()
    }

    fn event(&self, number: u64) -> Option<CacheEvent> {
        let words = self.map.words().get(self.geometry.event(number))?;
        let mut data = [0; EVENT_WORDS];
        for (value, word) in data.iter_mut().zip(words) {
            *value = word.load(Ordering::Acquire);
        }
        std::sync::atomic::fence(Ordering::Acquire);
        let again = words.first()?.load(Ordering::Relaxed);
        let [found, time, kind, value] = data;
        (found == number && again == number).then_some(())?;
        Some(CacheEvent {
            number,
            time,
            kind: CacheEventKind::from_code(kind >> 32)?,
            slot: kind as u32,
            value,
        })
    }

    fn word(&self, index: usize) -> u64 {
        self.map
            .words()
            .get(index)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }
}

/// The words of a slot, if there is such a slot.
pub(super) fn slot_words(
    words: &[AtomicU64],
    geometry: Geometry,
    index: u32,
) -> Result<&[AtomicU64], ReadError> {
    geometry
        .slot(index)
        .and_then(|range| words.get(range))
        .ok_or(ReadError::OutOfRange {
            found: index,
            capacity: geometry.capacity,
        })
}

/// The part of a slot that changes only with the SA.
pub(super) fn read_record(words: &[AtomicU64], index: u32) -> Result<SlotRecord, ReadError> {
    let record = words.get(..RECORD_WORDS).unwrap_or_default();
    let mut data = [0; DATA_WORDS];
    match seqlock::read(record, &mut data) {
        Ok(()) => SlotRecord::decode(&data, index).ok_or(ReadError::Corrupt),
        Err(Torn::Writing | Torn::Changed) => Err(ReadError::Busy),
    }
}

/// The last number handed out. It is stored twice, the second time inverted: a flipped bit or a
/// death between the two stores makes them differ, and then the larger is the one that can't lead
/// to a number being used again.
pub(super) fn granted_end(words: &[AtomicU64]) -> u64 {
    let load = |index: usize| words.get(index).map(|word| word.load(Ordering::Acquire));
    let (Some(end), Some(inverse)) = (load(GRANTED_END), load(GRANTED_END_INVERSE)) else {
        return u64::MAX;
    };
    end.max(!inverse)
}

fn read_slot(words: &[AtomicU64], index: u32) -> Result<CacheRecord, ReadError> {
    let record = read_record(words, index)?;
    let entry = record.entry.ok_or(ReadError::NotFound)?;
    let granted = match entry.direction {
        Direction::Outbound => granted_end(words),
        Direction::Inbound => 0,
    };
    let load = |index: usize| {
        words
            .get(index)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    };
    let placed = placement(load(PLACEMENT));
    let mut counts = [0; USAGE_WORDS];
    for (offset, value) in counts.iter_mut().enumerate() {
        *value = load(USAGE + offset);
    }
    // The words above belong to the SA only if the slot still holds it.
    std::sync::atomic::fence(Ordering::Acquire);
    let again = read_record(words, index)?;
    if again.generation != record.generation || again.entry.is_none() {
        return Err(ReadError::Busy);
    }
    Ok(CacheRecord {
        slot: CacheSlot {
            index,
            generation: record.generation,
        },
        entry,
        engine: placed.map(|(engine, _)| engine),
        state: placed.map(|(_, state)| state),
        granted,
        usage: usage(counts),
    })
}

/// The index words that a key may be in, in order, each once.
pub(super) fn probe_sequence(index: &[AtomicU64], hash: u64) -> impl Iterator<Item = &AtomicU64> {
    let start = hash as usize & index.len().wrapping_sub(1);
    let (before, after) = index.split_at(start.min(index.len()));
    after.iter().chain(before)
}

/// An index word for a slot.
pub(super) fn index_word(hash: u64, slot: u32) -> u64 {
    // The slot is less than 2^24, so this is neither empty nor a tombstone.
    (hash >> 32 << 32) | (u64::from(slot) + 1)
}

/// The slot that an index word points to, if its tag fits the key.
pub(super) fn index_slot(word: u64, hash: u64) -> Option<u32> {
    (word != TOMBSTONE && word >> 32 == hash >> 32)
        .then_some(word as u32)?
        .checked_sub(1)
}
