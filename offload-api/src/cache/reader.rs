// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Readers of the cache: other processes, which trust nothing they read.

use std::os::fd::OwnedFd;

use super::atomic::{AtomicU64, Ordering};
use super::layout::{
    self, CacheEntry, CacheState, LAYOUT, MAGIC, RECORD_WORDS, SLOT_WORDS, header, slot,
};
use super::shm::SharedWords;
use super::{CacheError, seqlock};
use crate::sa::{Direction, Spi};

/// Reads the cache.
#[derive(Debug)]
pub struct CacheReader {
    memory: SharedWords,
    capacity: u32,
    index_len: usize,
}

/// An SA as the cache knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheRecord {
    /// What it is.
    pub entry: CacheEntry,
    /// Last sequence number ever granted.
    pub granted: u64,
    /// Packets carried.
    pub packets: u64,
    /// Octets carried.
    pub bytes: u64,
    /// Last sequence number seen.
    pub sequence: u64,
}

impl CacheReader {
    /// Opens a cache by the writer's descriptor.
    ///
    /// # Errors
    /// It is no cache of this build, or not sealed.
    pub fn open(fd: OwnedFd) -> Result<Self, CacheError> {
        let memory = SharedWords::open(fd, false)?;
        let (capacity, index_len) = check_header(memory.words())?;
        Ok(Self {
            memory,
            capacity,
            index_len,
        })
    }

    /// The writer's heartbeat: a number that grows while it lives.
    pub fn heartbeat(&self) -> u64 {
        self.memory
            .words()
            .get(header::HEARTBEAT)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The SA with this SPI.
    pub fn find(&self, spi: Spi, direction: Direction) -> Option<CacheRecord> {
        let words = self.memory.words();
        let index = search(words, self.index_len, self.capacity, spi, direction)?;
        self.record(index)
    }

    /// Every SA.
    pub fn records(&self) -> impl Iterator<Item = CacheRecord> {
        (0..self.capacity).filter_map(|index| self.record(index))
    }

    /// State of a slot, unless it is being written (or was abandoned half-way).
    pub fn state(&self, index: u32) -> Option<CacheState> {
        let words = slot_words(self.memory.words(), self.index_len, index)?;
        let record =
            seqlock::read::<RECORD_WORDS>(words.get(slot::VERSION)?, words.get(slot::RECORD..)?)?;
        Some(
            layout::decode(&record)
                .1
                .map_or(CacheState::Empty, |_| CacheState::Live),
        )
    }

    fn record(&self, index: u32) -> Option<CacheRecord> {
        let words = slot_words(self.memory.words(), self.index_len, index)?;
        let entry = read_entry(words)?;
        let word = |at: usize| words.get(at).map_or(0, |word| word.load(Ordering::Acquire));
        Some(CacheRecord {
            entry,
            granted: word(slot::GRANTED),
            packets: word(slot::PACKETS),
            bytes: word(slot::BYTES),
            sequence: word(slot::SEQUENCE),
        })
    }
}

fn slot_words(words: &[AtomicU64], index_len: usize, index: u32) -> Option<&[AtomicU64]> {
    let start = layout::slot_start(index_len, index as usize);
    words.get(start..start.checked_add(SLOT_WORDS)?)
}

fn read_entry(words: &[AtomicU64]) -> Option<CacheEntry> {
    let record =
        seqlock::read::<RECORD_WORDS>(words.get(slot::VERSION)?, words.get(slot::RECORD..)?)?;
    layout::decode(&record).1
}

/// Capacity and length of the index, if the header is one of ours and the memory holds both.
pub(super) fn check_header(words: &[AtomicU64]) -> Result<(u32, usize), CacheError> {
    let word = |at: usize| words.get(at).map_or(0, |word| word.load(Ordering::Acquire));
    let expect = |what, at, expected| match word(at) {
        found if found == expected => Ok(()),
        found => Err(CacheError::Format {
            what,
            expected,
            found,
        }),
    };
    expect("magic", header::MAGIC, MAGIC)?;
    expect("layout", header::LAYOUT, LAYOUT)?;
    let found = word(header::CAPACITY);
    let room = words.len() as u64;
    let capacity = u32::try_from(found).ok().filter(|_| found <= room);
    let Some(capacity) = capacity else {
        return Err(CacheError::Format {
            what: "capacity",
            expected: room,
            found,
        });
    };
    let index_len = layout::index_len(capacity.max(1));
    expect("index length", header::INDEX_LEN, index_len as u64)?;
    let expected = layout::slot_start(index_len, capacity as usize) as u64;
    if room < expected {
        return Err(CacheError::Format {
            what: "size in words",
            expected,
            found: room,
        });
    }
    Ok((capacity, index_len))
}

/// The slot of an SA, by the index; bounded whatever the index holds.
pub(super) fn search(
    words: &[AtomicU64],
    index_len: usize,
    capacity: u32,
    spi: Spi,
    direction: Direction,
) -> Option<u32> {
    let start = layout::index_start(spi, direction, index_len);
    for step in 0..index_len {
        let at = header::LEN + ((start + step) & (index_len - 1));
        let index = match words.get(at)?.load(Ordering::Acquire) {
            0 => return None,
            found => u32::try_from(found.wrapping_sub(1))
                .ok()
                .filter(|index| *index < capacity),
        };
        let Some(index) = index else { continue };
        if let Some(entry) = slot_words(words, index_len, index).and_then(read_entry)
            && (entry.spi, entry.direction) == (spi, direction)
        {
            return Some(index);
        }
    }
    None
}
