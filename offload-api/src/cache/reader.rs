// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reading the cache, from any process.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::entry::{CacheEntry, CacheSlot, SaKey, SaState, SlotRecord, placement, usage};
use super::error::{ConnectError, OpenError, ReadError};
use super::index::{Index, Unsettled};
use super::layout::{
    DATA_WORDS, EVENTS_WRITTEN, GRANTED_END, GRANTED_END_INVERSE, Geometry, HEARTBEAT,
    INDEX_VERSION, LAST_USE, LIVE, PLACEMENT, RECORD_WORDS, SLOT_WORDS, USAGE, USAGE_WORDS, WRITER,
};
use super::process::WriterIdentity;
use super::publish;
use super::ring::{self, CacheEvent};
use super::seqlock::{self, Torn};
use super::shm;
use crate::event::Engine;
use crate::sa::{Direction, SaUsage, Spi};

/// How often a read is tried again at once while the writer is at the entry, which takes it tens of
/// nanoseconds.
const SPINS: u32 = 128;
/// How long a reader waits for a writer that the system keeps from finishing; a hung one keeps one
/// entry at most.
const WAIT: Duration = Duration::from_millis(100);
const NAP: Duration = Duration::from_micros(50);

/// A read-only view of a cache.
#[derive(Debug)]
pub struct CacheReader {
    file: shm::File,
    map: shm::Map,
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
    /// When the writer last saw that it had carried packets, in nanoseconds since boot; 0 is never.
    pub last_use: u64,
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
            file,
        })
    }

    /// Opens the cache that is published at a path (see [`Publisher`](super::Publisher)), or whose
    /// memory is there (`/proc/PID/fd/N`), without a word to its writer.
    ///
    /// # Errors
    /// There is none, or not for this user.
    pub fn open_path(path: &Path) -> Result<Self, ConnectError> {
        Ok(Self::open(publish::open(path)?)?)
    }

    #[cfg(test)]
    pub(super) fn geometry(&self) -> Geometry {
        self.file.geometry()
    }

    /// SAs that fit.
    pub fn capacity(&self) -> u32 {
        self.file.geometry().capacity
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
        let identity = (0..SPINS).find_map(|_| {
            let record = self.map.words().get(WRITER)?;
            WriterIdentity::load(record)
        });
        match identity {
            None => WriterStatus::None,
            Some(identity) if identity.pid == 0 => WriterStatus::None,
            Some(identity) if identity.is_alive() => {
                WriterStatus::Alive(identity, self.heartbeat())
            }
            Some(identity) => WriterStatus::Dead(identity),
        }
    }

    /// When the writer last said that it lives, in nanoseconds since boot.
    pub fn heartbeat(&self) -> u64 {
        self.word(HEARTBEAT)
    }

    /// Reads the SA in a slot.
    ///
    /// # Errors
    /// There is none, or it is being changed, abandoned or damaged.
    pub fn slot(&self, index: u32) -> Result<CacheRecord, ReadError> {
        let words = slot_words(self.map.words(), self.file.geometry(), index)?;
        for _ in 0..SPINS {
            match read_slot(words, index) {
                Err(ReadError::Busy) => std::hint::spin_loop(),
                result => return result,
            }
        }
        let begin = Instant::now();
        loop {
            match read_slot(words, index) {
                Err(ReadError::Busy) if matches!(self.writer(), WriterStatus::Dead(_)) => {
                    return Err(ReadError::Abandoned);
                }
                Err(ReadError::Busy) if begin.elapsed() < WAIT => std::thread::sleep(NAP),
                result => return result,
            }
        }
    }

    /// Reads the SA that a slot was given for.
    ///
    /// # Errors
    /// As [`slot`](Self::slot), and the slot is stale: it holds another SA or none.
    pub fn record(&self, slot: CacheSlot) -> Result<CacheRecord, ReadError> {
        match self.slot(slot.index) {
            Ok(record) if record.slot != slot => Err(ReadError::Stale),
            Err(ReadError::NotFound) => Err(ReadError::Stale),
            result => result,
        }
    }

    /// Finds an SA. An inbound one's SPI says which, whatever its destination. An outbound one's SPI
    /// was the peer's choice, so two can share one: without a `destination` every SA is looked at
    /// until one fits.
    ///
    /// # Errors
    /// There is none, or what there is can't be read.
    pub fn find(
        &self,
        spi: Spi,
        direction: Direction,
        destination: Option<IpAddr>,
    ) -> Result<CacheRecord, ReadError> {
        let mut worst = ReadError::NotFound;
        let mut look = |slot: u32| match self.slot(slot) {
            Ok(record) => (record.entry.spi == spi
                && record.entry.direction == direction
                && destination.is_none_or(|wanted| wanted == record.entry.destination))
            .then_some(record),
            Err(ReadError::NotFound) => None,
            Err(error) => {
                worst = error;
                None
            }
        };
        let found = match (direction, destination) {
            (Direction::Outbound, None) => Ok(self.used_slots().find_map(&mut look)),
            _ => {
                let destination = destination.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
                let key = SaKey::new(spi, direction, destination);
                let hash = key.hash(self.file.geometry().seed);
                index(self.map.words(), self.file.geometry()).find(hash, &mut look)
            }
        };
        match found {
            Ok(Some(record)) => Ok(record),
            Ok(None) => Err(worst),
            Err(Unsettled) => Err(ReadError::Busy),
        }
    }

    /// Every SA that can be read, and how many slots can't.
    pub fn records(&self) -> (Vec<CacheRecord>, u32) {
        let mut records = Vec::new();
        let mut unreadable = 0;
        for index in self.used_slots() {
            match self.slot(index) {
                Ok(record) => records.push(record),
                Err(ReadError::NotFound) => {}
                Err(_) => unreadable += 1,
            }
        }
        (records, unreadable)
    }

    fn used_slots(&self) -> impl Iterator<Item = u32> {
        used_slots(&self.file)
    }

    /// The last events, oldest first.
    pub fn events(&self) -> Vec<CacheEvent> {
        let ring = self.map.words().get(self.file.geometry().ring());
        ring::last(ring.unwrap_or_default(), self.word(EVENTS_WRITTEN)).collect()
    }

    fn word(&self, index: usize) -> u64 {
        self.map
            .words()
            .get(index)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }
}

/// The index.
pub(super) fn index(words: &[AtomicU64], geometry: Geometry) -> Index<'_, AtomicU64> {
    let areas = geometry
        .areas()
        .map(|area| words.get(area).unwrap_or_default());
    Index::new(words.get(INDEX_VERSION), areas)
}

/// The slots that may hold an SA, each once.
pub(super) fn used_slots(file: &shm::File) -> impl Iterator<Item = u32> + use<> {
    let geometry = file.geometry();
    let used = file.used().into_iter();
    let mut next = 0;
    used.flat_map(move |words| {
        let slots = geometry.slots_in(&words);
        let start = slots.start.max(next);
        next = slots.end.max(next);
        start..slots.end
    })
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
    let mut data = [0; DATA_WORDS];
    match seqlock::read(record_words(words), &mut data) {
        Ok(()) => SlotRecord::decode(&data, index).ok_or(ReadError::Corrupt),
        Err(Torn::Writing | Torn::Changed) => Err(ReadError::Busy),
    }
}

/// The words of a slot's record.
pub(super) fn record_words(slot: &[AtomicU64]) -> &[AtomicU64] {
    slot.get(..RECORD_WORDS).unwrap_or_default()
}

/// The last number handed out, of the slot that these words are the data of. It is stored twice, the
/// second time inverted: a flipped bit or a death between the two stores makes them differ, and then
/// the larger is the one that can't lead to a number being used again.
pub(super) fn granted_end(data: &[u64; SLOT_WORDS - 1]) -> u64 {
    data[GRANTED_END - 1].max(!data[GRANTED_END_INVERSE - 1])
}

/// All of a slot but its version.
pub(super) fn slot_data(words: &[AtomicU64]) -> [u64; SLOT_WORDS - 1] {
    let mut data = [0; SLOT_WORDS - 1];
    for (value, word) in data.iter_mut().zip(words.iter().skip(1)) {
        *value = word.load(Ordering::Acquire);
    }
    data
}

/// What stands beside the record belongs to its SA while the record's version stays, so all is read
/// as one; and at once, so that the memory is waited for once.
fn read_slot(words: &[AtomicU64], index: u32) -> Result<CacheRecord, ReadError> {
    let mut data = [0; SLOT_WORDS - 1];
    if let Err(Torn::Writing | Torn::Changed) = seqlock::read(words, &mut data) {
        return Err(ReadError::Busy);
    }
    let record = data
        .first_chunk()
        .and_then(|record| SlotRecord::decode(record, index))
        .ok_or(ReadError::Corrupt)?;
    let entry = record.entry.ok_or(ReadError::NotFound)?;
    let placed = placement(data[PLACEMENT - 1]);
    let mut counts = [0; USAGE_WORDS];
    counts.copy_from_slice(&data[USAGE - 1..LAST_USE - 1]);
    Ok(CacheRecord {
        slot: CacheSlot {
            index,
            generation: record.generation,
        },
        granted: match entry.direction {
            Direction::Outbound => granted_end(&data),
            Direction::Inbound => 0,
        },
        entry,
        engine: placed.map(|(engine, _)| engine),
        state: placed.map(|(_, state)| state),
        usage: usage(counts),
        last_use: data[LAST_USE - 1],
    })
}
