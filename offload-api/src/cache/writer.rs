// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Writing the cache: one writer, which keeps its own truth and only publishes it here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::time::{ClockId, clock_gettime};

use super::entry::{
    CacheEntry, CacheEventKind, CacheSlot, SaState, SlotRecord, placement_word, usage_words,
};
use super::error::{ClaimError, CreateError, InsertError, ReserveError};
use super::layout::{
    EVENTS_WRITTEN, GRANTED_END, GRANTED_END_INVERSE, Geometry, HEARTBEAT, INDEX_VERSION, LIVE,
    PLACEMENT, RECORD_WORDS, TOMBSTONE, USAGE, WRITER,
};
use super::process::WriterIdentity;
use super::reader::{index_slot, index_word, probe_sequence, slot_words};
use super::recovery::{Recovery, recover_slot};
use super::seqlock::{self, Word};
use super::{Cache, shm};
use crate::event::Engine;
use crate::sa::{Grant, SaUsage};

/// The one process's view that changes the cache. Dropping it gives the place free and leaves the
/// content.
#[derive(Debug)]
pub struct CacheWriter {
    map: shm::Map,
    file: Arc<shm::File>,
    geometry: Geometry,
    identity: WriterIdentity,
    recovery: Recovery,
    truth: Mutex<Truth>,
    _lock: shm::Lock,
}

/// What the writer believes, whatever others write to the memory.
#[derive(Debug)]
struct Truth {
    slots: Vec<Slot>,
    free: Vec<u32>,
    live: u32,
    tombstones: usize,
    events: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    generation: u32,
    /// Of a live SA.
    hash: Option<u64>,
    /// Last number of the sequence space; none for an inbound SA.
    sequence_end: Option<u64>,
    granted_end: u64,
}

impl CacheWriter {
    /// Makes a cache and becomes its writer.
    ///
    /// # Errors
    /// As [`Cache::create`] and [`Cache::writer`].
    pub fn create(name: &str, capacity: u32) -> Result<Self, CreateError> {
        Ok(Cache::create(name, capacity)?.writer()?)
    }

    /// Becomes the writer of a cache whose writer is gone, with everything in it.
    ///
    /// # Errors
    /// As [`Cache::open`] and [`Cache::writer`].
    pub fn take_over(fd: OwnedFd) -> Result<Self, ClaimError> {
        Cache::open(fd)?.writer()
    }

    pub(super) fn claim(file: &Arc<shm::File>) -> Result<Self, ClaimError> {
        let map = file.map_writable()?;
        let record = map.words().get(WRITER).unwrap_or_default();
        let previous = WriterIdentity::load(record).filter(|writer| writer.pid != 0);
        let lock = file.lock()?.ok_or(ClaimError::Taken { writer: previous })?;
        let epoch = previous.map_or(0, |writer| writer.epoch).wrapping_add(1);
        let identity = WriterIdentity::own(epoch)?;
        identity.store(record);

        let geometry = file.geometry();
        let mut recovery = Recovery {
            previous,
            ..Recovery::default()
        };
        let truth = Truth::recover(map.words(), geometry, &mut recovery);
        let writer = Self {
            map,
            file: file.clone(),
            geometry,
            identity,
            recovery,
            truth: Mutex::new(truth),
            _lock: lock,
        };
        let mut truth = writer.truth();
        writer.rebuild_index(&mut truth);
        writer.put(LIVE, u64::from(truth.live));
        writer.note(&mut truth, CacheEventKind::Claimed, 0, epoch);
        drop(truth);
        writer.beat();
        Ok(writer)
    }

    /// What an earlier writer left.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The memory, for a keeper: with it goes the right to write.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// A descriptor for readers in other processes.
    ///
    /// # Errors
    /// The system gives none.
    pub fn read_only_fd(&self) -> std::io::Result<OwnedFd> {
        self.file.reopen_read_only()
    }

    /// Who writes.
    pub fn identity(&self) -> WriterIdentity {
        self.identity
    }

    /// SAs that fit.
    pub fn capacity(&self) -> u32 {
        self.geometry.capacity
    }

    /// SAs in it.
    pub fn len(&self) -> u32 {
        self.truth().live
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Enters an SA. An outbound one's numbers start after `used_up_to`.
    ///
    /// # Errors
    /// The table is full; no live SA ever makes room for another.
    pub fn insert(
        &self,
        entry: &CacheEntry,
        engine: Engine,
        used_up_to: u64,
    ) -> Result<CacheSlot, InsertError> {
        let mut truth = self.truth();
        let full = InsertError::Full {
            capacity: self.geometry.capacity,
        };
        let index = truth
            .take_free(self.geometry.capacity)
            .ok_or(full.clone())?;
        let (Ok(words), Some(slot)) = (self.slot(index), truth.slots.get_mut(index as usize))
        else {
            return Err(full);
        };
        slot.hash = Some(entry.key_hash());
        slot.sequence_end = entry.sequence_end();
        slot.granted_end = used_up_to;
        let generation = slot.generation;

        // The slot is free, so nobody takes these words for the new SA's before its record stands.
        put(words, GRANTED_END, used_up_to);
        put(words, GRANTED_END_INVERSE, !used_up_to);
        put(words, PLACEMENT, placement_word(engine, SaState::Mature));
        put_usage(words, &SaUsage::default());
        let record = SlotRecord {
            generation,
            entry: Some(entry.clone()),
        };
        seqlock::write(
            words.get(..RECORD_WORDS).unwrap_or_default(),
            &record.encode(index),
        );
        self.index_insert(&mut truth, entry.key_hash(), index);
        truth.live += 1;
        self.put(LIVE, u64::from(truth.live));
        self.note(
            &mut truth,
            CacheEventKind::Inserted,
            index,
            u64::from(entry.spi.value()),
        );
        Ok(CacheSlot { index, generation })
    }

    /// Removes an SA; false when the slot is stale.
    pub fn remove(&self, slot: CacheSlot) -> bool {
        let mut truth = self.truth();
        let Some(live) = truth.live_mut(slot) else {
            return false;
        };
        let hash = live.hash.take();
        let generation = live.generation.wrapping_add(1);
        live.generation = generation;
        let record = SlotRecord {
            generation,
            entry: None,
        };
        if let Ok(words) = self.slot(slot.index) {
            seqlock::write(
                words.get(..RECORD_WORDS).unwrap_or_default(),
                &record.encode(slot.index),
            );
        }
        if let Some(hash) = hash {
            self.index_remove(&mut truth, hash, slot.index);
        }
        truth.free.push(slot.index);
        truth.live = truth.live.saturating_sub(1);
        self.put(LIVE, u64::from(truth.live));
        self.note(&mut truth, CacheEventKind::Removed, slot.index, 0);
        true
    }

    /// Reserves the next `count` sequence numbers of an outbound SA, or what is left of them. When
    /// this returns, the memory says that they are handed out: whoever takes over, after a death at
    /// any moment, starts behind them.
    ///
    /// # Errors
    /// The slot is stale, the SA has no numbers to reserve, or they are used up.
    pub fn reserve(&self, slot: CacheSlot, count: u64) -> Result<Grant, ReserveError> {
        let mut truth = self.truth();
        let live = truth.live_mut(slot).ok_or(ReserveError::Stale)?;
        let end = live.sequence_end.ok_or(ReserveError::NotApplicable)?;
        let further = count.checked_sub(1).ok_or(ReserveError::NotApplicable)?;
        let first = live
            .granted_end
            .checked_add(1)
            .filter(|first| *first <= end)
            .ok_or(ReserveError::Exhausted { end })?;
        let last = first.saturating_add(further).min(end);
        let words = self.slot(slot.index).map_err(|_| ReserveError::Stale)?;
        put(words, GRANTED_END, last);
        put(words, GRANTED_END_INVERSE, !last);
        // No use of the grant, a doorbell above all, may be seen before its record.
        fence(Ordering::SeqCst);
        live.granted_end = last;
        self.note(&mut truth, CacheEventKind::Granted, slot.index, last);
        Ok(Grant { first, last })
    }

    /// The last number handed out of an outbound SA.
    pub fn granted_end(&self, slot: CacheSlot) -> Option<u64> {
        self.truth().live_mut(slot).map(|live| live.granted_end)
    }

    /// Notes who carries an SA and how it is.
    pub fn place(&self, slot: CacheSlot, engine: Engine, state: SaState) {
        let mut truth = self.truth();
        if truth.live_mut(slot).is_some()
            && let Ok(words) = self.slot(slot.index)
        {
            put(words, PLACEMENT, placement_word(engine, state));
            let value = placement_word(engine, state);
            self.note(&mut truth, CacheEventKind::Moved, slot.index, value);
        }
    }

    /// Notes what an SA has done.
    pub fn record_usage(&self, slot: CacheSlot, usage: &SaUsage) {
        if self.truth().live_mut(slot).is_some()
            && let Ok(words) = self.slot(slot.index)
        {
            put_usage(words, usage);
        }
    }

    /// Notes an event that is about no SA.
    pub fn note_event(&self, kind: CacheEventKind, value: u64) {
        self.note(&mut self.truth(), kind, u32::MAX, value);
    }

    /// Says that the writer is alive.
    pub fn beat(&self) {
        self.put(HEARTBEAT, since_boot());
    }

    fn truth(&self) -> MutexGuard<'_, Truth> {
        // Every holder publishes first and believes last, or leaves a slot unused.
        self.truth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, index: u32) -> Result<&[AtomicU64], super::error::ReadError> {
        slot_words(self.map.words(), self.geometry, index)
    }

    fn put(&self, index: usize, value: u64) {
        put(self.map.words(), index, value);
    }

    fn note(&self, truth: &mut Truth, kind: CacheEventKind, slot: u32, value: u64) {
        let number = truth.events.wrapping_add(1);
        truth.events = number;
        let Some(words) = self.map.words().get(self.geometry.event(number)) else {
            return;
        };
        // The number is 0 while the rest is written; it pairs with the reader's two looks at it.
        if let Some(word) = words.first() {
            Word::store(word, 0, Ordering::Relaxed);
        }
        fence(Ordering::Release);
        put(words, 1, since_boot());
        put(words, 2, (kind as u64) << 32 | u64::from(slot));
        put(words, 3, value);
        put(words, 0, number);
        self.put(EVENTS_WRITTEN, number);
    }

    fn index(&self) -> &[AtomicU64] {
        self.map
            .words()
            .get(self.geometry.index())
            .unwrap_or_default()
    }

    fn index_insert(&self, truth: &mut Truth, hash: u64, slot: u32) {
        let place = probe_sequence(self.index(), hash)
            .map(|word| (word, word.load(Ordering::Relaxed)))
            .find(|(_, value)| matches!(*value, 0 | TOMBSTONE));
        if let Some((word, value)) = place {
            if value == TOMBSTONE {
                truth.tombstones = truth.tombstones.saturating_sub(1);
            }
            Word::store(word, index_word(hash, slot), Ordering::Release);
        } else {
            // Others have filled it up; it is only a way to find what the slots hold.
            self.rebuild_index(truth);
        }
    }

    fn index_remove(&self, truth: &mut Truth, hash: u64, slot: u32) {
        let place = probe_sequence(self.index(), hash)
            .find(|word| index_slot(word.load(Ordering::Relaxed), hash) == Some(slot));
        if let Some(word) = place {
            Word::store(word, TOMBSTONE, Ordering::Release);
            truth.tombstones += 1;
        }
        if truth.tombstones > self.geometry.index / 4 {
            self.rebuild_index(truth);
        }
    }

    /// Lays the index anew from the slots. Readers that miss an SA meanwhile look again.
    fn rebuild_index(&self, truth: &mut Truth) {
        let version = self
            .map
            .words()
            .get(INDEX_VERSION)
            .map_or(0, |word| word.load(Ordering::Relaxed));
        let rebuilding = version | 1;
        self.put(INDEX_VERSION, rebuilding);
        fence(Ordering::Release);
        for word in self.index() {
            if word.load(Ordering::Relaxed) != 0 {
                Word::store(word, 0, Ordering::Relaxed);
            }
        }
        truth.tombstones = 0;
        for (slot, hash) in truth.slots.iter().enumerate() {
            let Some(hash) = hash.hash else { continue };
            let place =
                probe_sequence(self.index(), hash).find(|word| word.load(Ordering::Relaxed) == 0);
            if let Some(word) = place {
                Word::store(word, index_word(hash, slot as u32), Ordering::Release);
            }
        }
        self.put(INDEX_VERSION, rebuilding.wrapping_add(1));
    }
}

impl Truth {
    fn recover(words: &[AtomicU64], geometry: Geometry, recovery: &mut Recovery) -> Self {
        let mut truth = Self {
            slots: Vec::new(),
            free: Vec::new(),
            live: 0,
            tombstones: 0,
            events: words
                .get(EVENTS_WRITTEN)
                .map_or(0, |word| word.load(Ordering::Relaxed)),
        };
        let fresh = Slot {
            generation: 0,
            hash: None,
            sequence_end: None,
            granted_end: 0,
        };
        for index in 0..geometry.capacity {
            let slot = recover_slot(words, geometry, index, recovery);
            if slot.generation == 0 && slot.entry.is_none() {
                // Never used, so it needs no place here before it is.
                continue;
            }
            // Slots below that were never used are free.
            while truth.slots.len() < index as usize {
                truth.free.push(truth.slots.len() as u32);
                truth.slots.push(fresh);
            }
            match &slot.entry {
                Some(_) => truth.live += 1,
                None => truth.free.push(index),
            }
            truth.slots.push(Slot {
                generation: slot.generation,
                hash: slot.entry.as_ref().map(CacheEntry::key_hash),
                sequence_end: slot.entry.as_ref().and_then(CacheEntry::sequence_end),
                granted_end: slot.granted_end,
            });
        }
        truth
    }

    fn take_free(&mut self, capacity: u32) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        let index = u32::try_from(self.slots.len())
            .ok()
            .filter(|index| *index < capacity)?;
        self.slots.push(Slot {
            generation: 0,
            hash: None,
            sequence_end: None,
            granted_end: 0,
        });
        Some(index)
    }

    fn live_mut(&mut self, handle: CacheSlot) -> Option<&mut Slot> {
        self.slots
            .get_mut(handle.index as usize)
            .filter(|slot| slot.hash.is_some() && slot.generation == handle.generation)
    }
}

/// Each word by itself with release order, so that a later one is never seen without it.
fn put(words: &[AtomicU64], index: usize, value: u64) {
    if let Some(word) = words.get(index) {
        Word::store(word, value, Ordering::Release);
    }
}

fn put_usage(words: &[AtomicU64], usage: &SaUsage) {
    for (offset, value) in usage_words(usage).into_iter().enumerate() {
        put(words, USAGE + offset, value);
    }
}

fn since_boot() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    (now.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(now.tv_nsec as u64)
}
