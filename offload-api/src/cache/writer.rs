// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cache's one writer.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use super::atomic::{AtomicU64, Ordering};
use super::layout::{self, CacheEntry, LAYOUT, MAGIC, RECORD_WORDS, SLOT_WORDS, header, slot};
use super::shm::SharedWords;
use super::{CacheError, seqlock};
use crate::sa::{Direction, Grant, Spi};

/// Index word of a removed SA: the search goes on behind it.
const TOMBSTONE: u64 = u64::MAX;

/// Writes the cache; shared by the threads of one process.
#[derive(Debug)]
pub struct CacheWriter {
    memory: SharedWords,
    capacity: u32,
    index_len: usize,
    control: Mutex<Control>,
}

#[derive(Debug)]
struct Control {
    free: Vec<u32>,
}

/// A slot of a live SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheSlot {
    index: u32,
    generation: u64,
}

impl CacheWriter {
    /// A new, empty cache.
    ///
    /// # Errors
    /// [`CacheError::Memory`].
    pub fn create(name: &str, capacity: u32) -> Result<Self, CacheError> {
        let index_len = layout::index_len(capacity.max(1));
        let words = layout::slot_start(index_len, capacity as usize);
        let memory = SharedWords::create(name, words)?;
        let this = Self {
            memory,
            capacity,
            index_len,
            control: Mutex::new(Control {
                free: (0..capacity).rev().collect(),
            }),
        };
        let set = |at: usize, value: u64| {
            if let Some(word) = this.memory.words().get(at) {
                word.store(value, Ordering::Relaxed);
            }
        };
        set(header::LAYOUT, LAYOUT);
        set(header::CAPACITY, capacity.into());
        set(header::INDEX_LEN, index_len as u64);
        this.claim();
        // Last: who sees the magic sees the rest.
        if let Some(word) = this.memory.words().get(header::MAGIC) {
            word.store(MAGIC, Ordering::Release);
        }
        Ok(this)
    }

    /// Takes over a cache whose writer is gone, with everything in it.
    ///
    /// # Errors
    /// It is no cache of this build, it is not sealed, or its writer lives.
    pub fn take_over(fd: OwnedFd) -> Result<Self, CacheError> {
        let memory = SharedWords::open(fd, true)?;
        let (capacity, index_len) = super::reader::check_header(memory.words())?;
        let word = |at: usize| {
            memory
                .words()
                .get(at)
                .map_or(0, |w| w.load(Ordering::Acquire))
        };
        let pid = word(header::WRITER_PID) as u32;
        if pid != std::process::id() && process_start(pid) == Some(word(header::WRITER_START)) {
            return Err(CacheError::WriterAlive { pid });
        }
        let mut this = Self {
            memory,
            capacity,
            index_len,
            control: Mutex::new(Control { free: Vec::new() }),
        };
        let free = (0..capacity)
            .rev()
            .filter(|&n| this.record(n).is_none_or(|(_, e)| e.is_none()));
        let free = free.collect();
        this.control = Mutex::new(Control { free });
        this.claim();
        Ok(this)
    }

    fn claim(&self) {
        let pid = std::process::id();
        let words = self.memory.words();
        let set = |at: usize, value: u64| {
            if let Some(word) = words.get(at) {
                word.store(value, Ordering::Release);
            }
        };
        set(header::WRITER_START, process_start(pid).unwrap_or(0));
        set(header::WRITER_PID, pid.into());
        if let Some(word) = words.get(header::EPOCH) {
            word.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The memory, for passing it to a reader.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    /// Slots.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Tells readers that the writer lives.
    pub fn beat(&self) {
        if let Some(word) = self.memory.words().get(header::HEARTBEAT) {
            word.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds an SA whose numbers up to `granted` count as used (0 for a new one).
    ///
    /// # Errors
    /// [`CacheError::Full`].
    pub fn insert(&self, entry: &CacheEntry, granted: u64) -> Result<CacheSlot, CacheError> {
        let full = || CacheError::Full {
            capacity: self.capacity,
        };
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let index = control.free.pop().ok_or_else(full)?;
        let words = self.slot(index).ok_or_else(full)?;
        let generation = self
            .record(index)
            .map_or(0, |(generation, _)| generation)
            .wrapping_add(1);
        // The grant first: an SA that is seen has its numbers recorded.
        store(words, slot::GRANTED, granted);
        for counter in [slot::PACKETS, slot::BYTES, slot::SEQUENCE] {
            store(words, counter, 0);
        }
        self.write(words, &layout::encode(generation, Some(entry)));
        self.index_insert(entry, index);
        Ok(CacheSlot { index, generation })
    }

    /// Removes an SA.
    ///
    /// # Errors
    /// [`CacheError::Stale`].
    pub fn remove(&self, at: CacheSlot) -> Result<(), CacheError> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let (words, entry) = self.live(at)?;
        self.index_remove(&entry, at.index);
        self.write(words, &layout::encode(at.generation, None));
        control.free.push(at.index);
        Ok(())
    }

    /// Changes what is known of an SA.
    ///
    /// # Errors
    /// [`CacheError::Stale`].
    pub fn update(
        &self,
        at: CacheSlot,
        change: impl FnOnce(&mut CacheEntry),
    ) -> Result<(), CacheError> {
        let _control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let (words, mut entry) = self.live(at)?;
        let (spi, direction) = (entry.spi, entry.direction);
        change(&mut entry);
        // The index knows it by these.
        (entry.spi, entry.direction) = (spi, direction);
        self.write(words, &layout::encode(at.generation, Some(&entry)));
        Ok(())
    }

    /// Reserves the next block of sequence numbers of an outbound SA, recorded before this returns:
    /// even a crash right after it loses the block and never repeats a number.
    ///
    /// # Errors
    /// [`CacheError::Stale`] or [`CacheError::SequenceExhausted`].
    pub fn reserve(&self, at: CacheSlot, count: u64) -> Result<Grant, CacheError> {
        let _control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let (words, entry) = self.live(at)?;
        let exhausted = CacheError::SequenceExhausted {
            spi: entry.spi.value(),
        };
        let granted = words.get(slot::GRANTED).ok_or(CacheError::Stale)?;
        let end = if entry.esn {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        };
        let before = granted.load(Ordering::Acquire);
        let Some(first) = before
            .checked_add(1)
            .filter(|first| *first <= end && count != 0)
        else {
            return Err(exhausted);
        };
        let last = before.saturating_add(count).min(end);
        granted.store(last, Ordering::Release);
        Ok(Grant { first, last })
    }

    /// Records an SA's counters.
    pub fn count(&self, at: CacheSlot, packets: u64, bytes: u64, sequence: u64) {
        if let Ok((words, _)) = self.live(at) {
            store(words, slot::PACKETS, packets);
            store(words, slot::BYTES, bytes);
            store(words, slot::SEQUENCE, sequence);
        }
    }

    /// The live slot of an SA, for a taker-over.
    pub fn find(&self, spi: Spi, direction: Direction) -> Option<CacheSlot> {
        let _control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let words = self.memory.words();
        let index = super::reader::search(words, self.index_len, self.capacity, spi, direction)?;
        let (generation, _) = self.record(index)?;
        Some(CacheSlot { index, generation })
    }

    fn slot(&self, index: u32) -> Option<&[AtomicU64]> {
        let start = layout::slot_start(self.index_len, index as usize);
        self.memory.words().get(start..start + SLOT_WORDS)
    }

    fn record(&self, index: u32) -> Option<(u64, Option<CacheEntry>)> {
        let words = self.slot(index)?;
        // The writer alone reads here: an odd version is its dead predecessor's, and the record is
        // then taken as free; its grant word stays.
        let version = words.get(slot::VERSION)?.load(Ordering::Acquire);
        let mut values = [0; RECORD_WORDS];
        for (value, word) in values.iter_mut().zip(words.get(slot::RECORD..)?) {
            *value = word.load(Ordering::Relaxed);
        }
        let (generation, entry) = layout::decode(&values);
        Some((generation, entry.filter(|_| version.is_multiple_of(2))))
    }

    fn live(&self, at: CacheSlot) -> Result<(&[AtomicU64], CacheEntry), CacheError> {
        match self.record(at.index) {
            Some((generation, Some(entry))) if generation == at.generation => {
                Ok((self.slot(at.index).ok_or(CacheError::Stale)?, entry))
            }
            _ => Err(CacheError::Stale),
        }
    }

    fn write(&self, words: &[AtomicU64], values: &[u64; RECORD_WORDS]) {
        if let (Some(version), Some(record)) = (words.get(slot::VERSION), words.get(slot::RECORD..))
        {
            seqlock::write(version, record, values);
        }
    }

    fn index_insert(&self, entry: &CacheEntry, slot_index: u32) {
        let start = layout::index_start(entry.spi, entry.direction, self.index_len);
        for step in 0..self.index_len {
            let at = header::LEN + ((start + step) & (self.index_len - 1));
            if let Some(word) = self.memory.words().get(at)
                && matches!(word.load(Ordering::Relaxed), 0 | TOMBSTONE)
            {
                word.store(u64::from(slot_index) + 1, Ordering::Release);
                return;
            }
        }
    }

    fn index_remove(&self, entry: &CacheEntry, slot_index: u32) {
        let start = layout::index_start(entry.spi, entry.direction, self.index_len);
        for step in 0..self.index_len {
            let at = header::LEN + ((start + step) & (self.index_len - 1));
            let Some(word) = self.memory.words().get(at) else {
                return;
            };
            match word.load(Ordering::Relaxed) {
                0 => return,
                found if found == u64::from(slot_index) + 1 => {
                    word.store(TOMBSTONE, Ordering::Release);
                    return;
                }
                _ => {}
            }
        }
    }
}

fn store(words: &[AtomicU64], at: usize, value: u64) {
    if let Some(word) = words.get(at) {
        word.store(value, Ordering::Release);
    }
}

/// When a process started, in clock ticks since boot: tells a process from a later one with its pid.
fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; field 22 counts from behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::os::fd::AsFd;

    use super::super::{CacheReader, CacheState};
    use super::*;
    use crate::event::Engine;

    fn entry(spi: u32, direction: Direction) -> CacheEntry {
        CacheEntry {
            spi: Spi::new(spi).unwrap(),
            direction,
            destination: IpAddr::from([192, 0, 2, 1]),
            engine: Engine::Device,
            esn: false,
            suite: (1, 0),
            owner: 5,
        }
    }

    fn share(writer: &CacheWriter) -> OwnedFd {
        writer.fd().as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn a_reader_finds_what_was_written() {
        let writer = CacheWriter::create("test", 8).unwrap();
        let reader = CacheReader::open(share(&writer)).unwrap();
        let at = writer
            .insert(&entry(0x1000, Direction::Outbound), 0)
            .unwrap();
        writer.reserve(at, 100).unwrap();
        writer.count(at, 3, 300, 3);
        writer.update(at, |e| e.engine = Engine::Software).unwrap();
        let record = reader
            .find(Spi::new(0x1000).unwrap(), Direction::Outbound)
            .unwrap();
        assert_eq!(
            (record.granted, record.packets, record.bytes),
            (100, 3, 300)
        );
        assert_eq!(record.entry.engine, Engine::Software);
        assert_eq!(record.entry.destination, IpAddr::from([192, 0, 2, 1]));
        assert!(
            reader
                .find(Spi::new(0x1000).unwrap(), Direction::Inbound)
                .is_none()
        );
        writer.remove(at).unwrap();
        assert!(
            reader
                .find(Spi::new(0x1000).unwrap(), Direction::Outbound)
                .is_none()
        );
        assert_eq!(reader.state(0), Some(CacheState::Empty));
        assert!(matches!(writer.reserve(at, 1), Err(CacheError::Stale)));
    }

    #[test]
    fn a_full_cache_refuses_and_evicts_nobody() {
        let writer = CacheWriter::create("test", 2).unwrap();
        for spi in [300, 301] {
            writer.insert(&entry(spi, Direction::Inbound), 0).unwrap();
        }
        let refused = writer.insert(&entry(302, Direction::Inbound), 0);
        assert!(matches!(refused, Err(CacheError::Full { capacity: 2 })));
        assert_eq!(
            CacheReader::open(share(&writer)).unwrap().records().count(),
            2
        );
    }

    #[test]
    fn numbers_are_never_reserved_twice_even_by_a_taker_over() {
        let first = CacheWriter::create("test", 4).unwrap();
        let at = first
            .insert(&entry(0x4000, Direction::Outbound), 0)
            .unwrap();
        assert_eq!(
            first.reserve(at, 65536).unwrap(),
            Grant {
                first: 1,
                last: 65536
            }
        );
        let fd = share(&first);
        drop(first);
        let second = CacheWriter::take_over(fd).unwrap();
        let at = second
            .find(Spi::new(0x4000).unwrap(), Direction::Outbound)
            .unwrap();
        assert_eq!(
            second.reserve(at, 10).unwrap(),
            Grant {
                first: 65537,
                last: 65546
            }
        );
    }

    #[test]
    fn the_32_bit_sequence_space_ends_without_wrapping() {
        let writer = CacheWriter::create("test", 1).unwrap();
        let at = writer
            .insert(&entry(999, Direction::Outbound), 0xffff_fff0)
            .unwrap();
        let last = writer.reserve(at, 65536).unwrap();
        assert_eq!(
            last,
            Grant {
                first: 0xffff_fff1,
                last: 0xffff_ffff
            }
        );
        assert!(matches!(
            writer.reserve(at, 1),
            Err(CacheError::SequenceExhausted { .. })
        ));
    }

    #[test]
    fn slots_are_reused_with_a_new_generation() {
        let writer = CacheWriter::create("test", 1).unwrap();
        for round in 0..100u32 {
            let at = writer
                .insert(&entry(1000 + round, Direction::Inbound), 0)
                .unwrap();
            writer.remove(at).unwrap();
            assert!(writer.update(at, |_| {}).is_err());
        }
    }

    #[test]
    fn a_cache_of_garbage_is_refused_and_never_read_out_of_bounds() {
        let writer = CacheWriter::create("test", 4).unwrap();
        for spi in 300..304 {
            writer.insert(&entry(spi, Direction::Inbound), 0).unwrap();
        }
        let reader = CacheReader::open(share(&writer)).unwrap();
        // Every word, one after another, set to hostile values.
        for at in 0..writer.memory.words().len() {
            let word = &writer.memory.words()[at];
            let good = word.load(Ordering::Relaxed);
            for bad in [0, 1, u64::MAX, u64::MAX / 2, 1 << 40] {
                word.store(bad, Ordering::Relaxed);
                let _ = CacheReader::open(share(&writer));
                let _ = reader.records().count();
                let _ = reader.find(Spi::new(301).unwrap(), Direction::Inbound);
            }
            word.store(good, Ordering::Relaxed);
        }
        assert_eq!(reader.records().count(), 4);
        let unsealed = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::empty()).unwrap();
        rustix::fs::ftruncate(&unsealed, 4096).unwrap();
        assert!(CacheReader::open(unsealed).is_err());
    }
}
