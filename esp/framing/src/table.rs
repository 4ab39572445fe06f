// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An engine's SAs, by slots with generations.

use std::time::Instant;

use offload_api::error::{InstallError, SaError};
use offload_api::event::Event;
use offload_api::sa::{Amend, SaHandle, SaParams, SaUsage};

use spin::mutex::{SpinMutex, SpinMutexGuard};
use spin::relax::Yield;

use crate::sa::{SaNotice, SaState};

/// An SA's moving part, locked. A lock is held for some packets' headers and never while anything
/// waits, and each packet of another SA takes one: so it spins (and gives way to others), since
/// unlocking is a mere store then.
pub type StateGuard<'entry> = SpinMutexGuard<'entry, SaState>;

/// SAs with generations. `T` is what the engine keeps of an SA beside its moving part.
pub struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    capacity: u32,
    /// Generation of a slot that was never used.
    first: u32,
}

struct Slot<T> {
    generation: u32,
    /// By itself, so that a table that grows moves none, and free slots take no room.
    entry: Option<Box<Entry<T>>>,
}

/// An installed SA.
pub struct Entry<T> {
    /// What does not change from packet to packet.
    pub transform: T,
    state: SpinMutex<SaState, Yield>,
}

impl<T> Table<T> {
    /// An empty table.
    pub fn new(capacity: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            capacity,
            first: 0,
        }
    }

    /// As [`new`](Self::new), for a table that comes after others: its handles' generations start
    /// here, so that an earlier table's handles are stale in it.
    pub fn starting_at(capacity: u32, generation: u32) -> Self {
        Self {
            first: generation,
            ..Self::new(capacity)
        }
    }

    /// Takes an SA in.
    ///
    /// # Errors
    /// [`InstallError::TableFull`].
    pub fn insert(
        &mut self,
        transform: T,
        sa: &SaParams,
        now: Instant,
    ) -> Result<SaHandle, InstallError> {
        let entry = Entry {
            transform,
            state: SpinMutex::new(SaState::new(sa, now)),
        };
        let index = match self.free.pop() {
            Some(index) => index,
            None if (self.slots.len() as u64) < u64::from(self.capacity) => {
                self.slots.push(Slot {
                    generation: self.first,
                    entry: None,
                });
                (self.slots.len() - 1) as u32
            }
            None => {
                return Err(InstallError::TableFull {
                    capacity: self.capacity,
                });
            }
        };
        let full = InstallError::TableFull {
            capacity: self.capacity,
        };
        let slot = self.slots.get_mut(index as usize).ok_or(full)?;
        slot.entry = Some(Box::new(entry));
        Ok(SaHandle {
            index,
            generation: slot.generation,
        })
    }

    /// A live SA.
    ///
    /// # Errors
    /// [`SaError::Stale`].
    #[inline]
    pub fn entry(&self, sa: SaHandle) -> Result<&Entry<T>, SaError> {
        self.slots
            .get(sa.index as usize)
            .filter(|slot| slot.generation == sa.generation)
            .and_then(|slot| slot.entry.as_deref())
            .ok_or(SaError::Stale)
    }

    /// A live SA, to change.
    ///
    /// # Errors
    /// [`SaError::Stale`].
    pub fn entry_mut(&mut self, sa: SaHandle) -> Result<&mut Entry<T>, SaError> {
        self.slots
            .get_mut(sa.index as usize)
            .filter(|slot| slot.generation == sa.generation)
            .and_then(|slot| slot.entry.as_deref_mut())
            .ok_or(SaError::Stale)
    }

    /// Takes an SA out, and tells what it had done.
    ///
    /// # Errors
    /// [`SaError::Stale`].
    pub fn remove(&mut self, sa: SaHandle) -> Result<SaUsage, SaError> {
        let usage = self.entry(sa)?.usage();
        if let Some(slot) = self.slots.get_mut(sa.index as usize) {
            slot.entry = None;
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(sa.index);
        }
        Ok(usage)
    }

    /// Takes all out; their handles are stale.
    pub fn clear(&mut self) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.entry.take().is_some() {
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(index as u32);
            }
        }
    }

    /// Reports limits by time of SAs that carry no traffic.
    pub fn expire(&self, now: Instant, events: &mut Vec<Event>) {
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(entry) = &slot.entry {
                let handle = SaHandle {
                    index: index as u32,
                    generation: slot.generation,
                };
                let mut state = entry.state();
                state.check_time(now);
                state.take_notices(|notice| events.push(event_of(handle, notice)));
            }
        }
    }
}

impl<T> Entry<T> {
    /// Its moving part. A panic elsewhere left it whole.
    #[inline]
    pub fn state(&self) -> StateGuard<'_> {
        self.state.lock()
    }

    /// What it has done.
    pub fn usage(&self) -> SaUsage {
        self.state().usage()
    }

    /// Changes it; see [`SaState::amend`].
    ///
    /// # Errors
    /// [`SaError`].
    pub fn amend(&self, change: &Amend, now: Instant) -> Result<(), SaError> {
        self.state().amend(change, now)
    }
}

/// A notice of an SA as the contract's event.
pub fn event_of(sa: SaHandle, notice: SaNotice) -> Event {
    match notice {
        SaNotice::Soft(limit) => Event::SoftExpired { sa, limit },
        SaNotice::Hard(limit) => Event::HardExpired { sa, limit },
        SaNotice::GrantLow(remaining) => Event::GrantLow { sa, remaining },
        SaNotice::SequenceEnding => Event::SequenceEnding { sa },
        SaNotice::SequenceEnd => Event::SequenceEnd { sa },
        SaNotice::BadIcv(count) => Event::BadIcvBurst { sa, count },
        SaNotice::Replayed(count) => Event::ReplayBurst { sa, count },
    }
}
