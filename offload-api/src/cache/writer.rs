// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Writing the cache: one writer, which keeps its own truth and only publishes it here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::entry::{CacheEntry, CacheSlot, SaState, SlotRecord, placement_word, usage_words};
use super::error::{ClaimError, CreateError, InsertError, ReserveError};
use super::index::Index;
use super::journal;
use super::layout::{
    EVENTS_WRITTEN, GRANTED_END, GRANTED_END_INVERSE, Geometry, HEARTBEAT, LAST_USE, LIVE,
    PLACEMENT, USAGE, WRITER,
};
use super::process::{WriterIdentity, since_boot};
use super::reader::{index, read_record, record_words, slot_words, used_slots};
use super::recovery::{Recovery, recover_slot};
use super::ring::{self, CacheEvent, CacheEventKind};
use super::seqlock::{self, Word};
use super::{Cache, shm};
use crate::event::Engine;
use crate::sa::{Direction, Grant, OuterHeaders, SaUsage, Spi};

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
    /// Places in the index that removed SAs take.
    tombstones: usize,
    events: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    generation: u32,
    /// Of a live SA.
    spi: Option<Spi>,
    numbers: Numbers,
    hash: u64,
    granted_end: u64,
}

/// An SA's sequence space.
#[derive(Clone, Copy, Debug, Default)]
enum Numbers {
    /// Inbound: the peer's.
    #[default]
    None,
    Short,
    Extended,
}

impl Numbers {
    fn of(entry: &CacheEntry) -> Self {
        match (entry.direction, entry.esn) {
            (Direction::Inbound, _) => Self::None,
            (Direction::Outbound, false) => Self::Short,
            (Direction::Outbound, true) => Self::Extended,
        }
    }

    /// The last one.
    fn end(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Short => Some(u64::from(u32::MAX)),
            Self::Extended => Some(u64::MAX),
        }
    }
}

impl Slot {
    fn event(&self, index: u32) -> Option<(u32, Spi)> {
        Some((index, self.spi?))
    }
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
        let truth = Truth::recover(map.words(), file, &mut recovery);
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
        journal::end(writer.map.words());
        // A cache that nobody has written has an empty index, which takes no memory yet.
        if writer.recovery.previous.is_some() || truth.live != 0 {
            writer.lay_index(&mut truth);
        }
        writer.put(LIVE, u64::from(truth.live));
        writer.note(&mut truth, CacheEventKind::Claimed, None, epoch);
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
        let hash = entry.key().hash(self.geometry.seed);
        *slot = Slot {
            generation: slot.generation,
            spi: Some(entry.spi),
            numbers: Numbers::of(entry),
            hash,
            granted_end: used_up_to,
        };
        let generation = slot.generation;

        // The slot is free, so nobody takes these words for the new SA's before its record stands.
        put(words, GRANTED_END, used_up_to);
        put(words, GRANTED_END_INVERSE, !used_up_to);
        put(words, PLACEMENT, placement_word(engine, SaState::Mature));
        put_usage(words, &SaUsage::default());
        put(words, LAST_USE, 0);
        let record = SlotRecord {
            generation,
            entry: Some(entry.clone()),
        };
        seqlock::write(record_words(words), &record.encode(index));
        self.index_insert(&mut truth, hash, index);
        truth.live += 1;
        self.put(LIVE, u64::from(truth.live));
        let sa = Some((index, entry.spi));
        self.note(&mut truth, CacheEventKind::Inserted, sa, used_up_to);
        Ok(CacheSlot { index, generation })
    }

    /// Removes an SA; false when the slot is stale.
    pub fn remove(&self, slot: CacheSlot) -> bool {
        let mut truth = self.truth();
        let Some(live) = truth.live_mut(slot) else {
            return false;
        };
        let (sa, hash) = (live.event(slot.index), live.hash);
        let generation = live.generation.wrapping_add(1);
        *live = Slot {
            generation,
            ..Slot::default()
        };
        let record = SlotRecord {
            generation,
            entry: None,
        };
        if let Ok(words) = self.slot(slot.index) {
            seqlock::write(record_words(words), &record.encode(slot.index));
        }
        self.index_remove(&mut truth, hash, slot.index);
        truth.free.push(slot.index);
        truth.live = truth.live.saturating_sub(1);
        self.put(LIVE, u64::from(truth.live));
        self.note(&mut truth, CacheEventKind::Removed, sa, 0);
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
        let end = live.numbers.end().ok_or(ReserveError::NotApplicable)?;
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
        let sa = live.event(slot.index);
        self.note(&mut truth, CacheEventKind::Granted, sa, last);
        Ok(Grant { first, last })
    }

    /// The last number handed out of an outbound SA.
    pub fn granted_end(&self, slot: CacheSlot) -> Option<u64> {
        self.truth().live_mut(slot).map(|live| live.granted_end)
    }

    /// Notes who carries an SA and how it is.
    pub fn place(&self, slot: CacheSlot, engine: Engine, state: SaState) {
        let mut truth = self.truth();
        if let Some(live) = truth.live_mut(slot)
            && let Ok(words) = self.slot(slot.index)
        {
            let sa = live.event(slot.index);
            let value = placement_word(engine, state);
            put(words, PLACEMENT, value);
            self.note(&mut truth, CacheEventKind::Moved, sa, value);
        }
    }

    /// Notes what an SA has done.
    pub fn record_usage(&self, slot: CacheSlot, usage: &SaUsage) {
        let mut truth = self.truth();
        if truth.live_mut(slot).is_some()
            && let Ok(words) = self.slot(slot.index)
        {
            // The one number that is read back: it tells whether there were packets since, and no more.
            let before = words.get(USAGE).map(|word| word.load(Ordering::Relaxed));
            put_usage(words, usage);
            if before != Some(usage.packets) {
                put(words, LAST_USE, since_boot());
            }
        }
    }

    /// Notes that an SA goes elsewhere (RFC 4555, or a NAT's new mapping); false when the slot is
    /// stale or its record is damaged.
    pub fn set_path(&self, slot: CacheSlot, path: &OuterHeaders) -> bool {
        let mut truth = self.truth();
        let Some(live) = truth.live_mut(slot) else {
            return false;
        };
        let Ok(words) = self.slot(slot.index) else {
            return false;
        };
        // The one thing that is read back: only the memory has all of it, and it has a checksum.
        let Ok(mut record) = read_record(words, slot.index) else {
            return false;
        };
        let Some(entry) = &mut record.entry else {
            return false;
        };
        entry.source = path.source;
        entry.destination = path.destination;
        entry.udp = path.udp;
        let (old, new) = (live.hash, entry.key().hash(self.geometry.seed));
        live.hash = new;
        let sa = live.event(slot.index);
        let data = record.encode(slot.index);
        journal::begin(self.map.words(), slot.index, &data);
        seqlock::write(record_words(words), &data);
        journal::end(self.map.words());
        if old != new {
            self.index_insert(&mut truth, new, slot.index);
            self.index_remove(&mut truth, old, slot.index);
        }
        self.note(&mut truth, CacheEventKind::PathChanged, sa, 0);
        true
    }

    /// Notes an event that is about no SA.
    pub fn note_event(&self, kind: CacheEventKind, value: u64) {
        self.note(&mut self.truth(), kind, None, value);
    }

    /// Lays the index anew, which mends one that others have damaged; readers go on meanwhile.
    pub fn rebuild_index(&self) {
        self.lay_index(&mut self.truth());
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

    fn note(&self, truth: &mut Truth, kind: CacheEventKind, sa: Option<(u32, Spi)>, value: u64) {
        let number = truth.events.wrapping_add(1);
        truth.events = number;
        let event = CacheEvent {
            number,
            time: since_boot(),
            kind,
            sa,
            value,
        };
        let ring = self.map.words().get(self.geometry.ring());
        ring::write(ring.unwrap_or_default(), &event);
        self.put(EVENTS_WRITTEN, number);
    }

    fn index(&self) -> Index<'_, AtomicU64> {
        index(self.map.words(), self.geometry)
    }

    fn index_insert(&self, truth: &mut Truth, hash: u64, slot: u32) {
        match self.index().insert(hash, slot) {
            Some(reused) => truth.tombstones -= usize::from(reused && truth.tombstones != 0),
            // Others have filled it up; it is only a way to find what the slots hold.
            None => self.lay_index(truth),
        }
    }

    fn index_remove(&self, truth: &mut Truth, hash: u64, slot: u32) {
        let change = self.index().remove(hash, slot);
        truth.tombstones = truth.tombstones.saturating_add_signed(change);
        if truth.tombstones > self.geometry.index / 4 {
            self.lay_index(truth);
        }
    }

    /// Lays the index anew from the slots, while readers go on in the old one.
    fn lay_index(&self, truth: &mut Truth) {
        let index = self.index();
        let clear = || {
            let idle = self.geometry.areas().into_iter().nth(index.idle());
            // Who sees what comes of this sees that the area had gone out of use.
            fence(Ordering::SeqCst);
            if idle.is_none_or(|idle| self.file.release(&idle).is_err()) {
                index.clear_idle();
            }
        };
        clear();
        let live = truth.slots.iter().zip(0..);
        index.rebuild(live.filter_map(|(slot, at)| slot.spi.map(|_| (slot.hash, at))));
        truth.tombstones = 0;
        clear();
    }
}

impl Truth {
    fn recover(words: &[AtomicU64], file: &shm::File, recovery: &mut Recovery) -> Self {
        let geometry = file.geometry();
        let mut truth = Self {
            slots: Vec::new(),
            free: Vec::new(),
            live: 0,
            tombstones: 0,
            events: words
                .get(EVENTS_WRITTEN)
                .map_or(0, |word| word.load(Ordering::Relaxed)),
        };
        for index in used_slots(file) {
            let slot = recover_slot(words, geometry, index, recovery);
            if slot.generation == 0 && slot.entry.is_none() {
                // Never used, so it needs no place here before it is.
                continue;
            }
            // Slots below that were never used are free.
            while truth.slots.len() < index as usize {
                truth.free.push(truth.slots.len() as u32);
                truth.slots.push(Slot::default());
            }
            let mut found = Slot {
                generation: slot.generation,
                ..Slot::default()
            };
            match &slot.entry {
                Some(entry) => {
                    truth.live += 1;
                    found.spi = Some(entry.spi);
                    found.numbers = Numbers::of(entry);
                    found.hash = entry.key().hash(geometry.seed);
                    found.granted_end = slot.granted_end;
                }
                None => truth.free.push(index),
            }
            truth.slots.push(found);
        }
        recovery.live.shrink_to_fit();
        truth
    }

    fn take_free(&mut self, capacity: u32) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        let index = u32::try_from(self.slots.len())
            .ok()
            .filter(|index| *index < capacity)?;
        self.slots.push(Slot::default());
        Some(index)
    }

    fn live_mut(&mut self, handle: CacheSlot) -> Option<&mut Slot> {
        self.slots
            .get_mut(handle.index as usize)
            .filter(|slot| slot.spi.is_some() && slot.generation == handle.generation)
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
