// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The engine's SAs. A card keeps its own in the same way: see [`Entry`].

use std::sync::Mutex;
use std::time::Instant;

use offload_api::error::{DeviceError, InstallError, SaError};
use offload_api::event::Event;
use offload_api::sa::{Amend, OuterHeaders, SaHandle, SaParams, SaUsage};

use super::lock;
use crate::sa::{SaNotice, SaState};
use crate::transform::Transform;

/// Slots with generations.
pub(crate) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    capacity: u32,
}

struct Slot {
    generation: u32,
    entry: Option<Entry>,
}

/// An installed SA.
pub(crate) struct Entry {
    pub(crate) transform: Transform,
    pub(crate) state: Mutex<SaState>,
}

impl Table {
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            capacity,
        }
    }

    pub(crate) fn insert(&mut self, sa: &SaParams, now: Instant) -> Result<SaHandle, InstallError> {
        let transform = Transform::new(sa).map_err(|error| DeviceError::Host {
            what: "setting up the cipher",
            error: error.to_string(),
        })?;
        let entry = Entry {
            transform,
            state: Mutex::new(SaState::new(sa, now)),
        };
        let index = match self.free.pop() {
            Some(index) => index,
            None if (self.slots.len() as u64) < u64::from(self.capacity) => {
                self.slots.push(Slot {
                    generation: 0,
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
        slot.entry = Some(entry);
        Ok(SaHandle {
            index,
            generation: slot.generation,
        })
    }

    pub(crate) fn entry(&self, sa: SaHandle) -> Result<&Entry, SaError> {
        self.slots
            .get(sa.index as usize)
            .filter(|slot| slot.generation == sa.generation)
            .and_then(|slot| slot.entry.as_ref())
            .ok_or(SaError::Stale)
    }

    pub(crate) fn entry_mut(&mut self, sa: SaHandle) -> Result<&mut Entry, SaError> {
        self.slots
            .get_mut(sa.index as usize)
            .filter(|slot| slot.generation == sa.generation)
            .and_then(|slot| slot.entry.as_mut())
            .ok_or(SaError::Stale)
    }

    pub(crate) fn remove(&mut self, sa: SaHandle) -> Result<SaUsage, SaError> {
        let usage = self.entry(sa)?.usage();
        if let Some(slot) = self.slots.get_mut(sa.index as usize) {
            slot.entry = None;
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(sa.index);
        }
        Ok(usage)
    }

    pub(crate) fn clear(&mut self) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.entry.take().is_some() {
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(index as u32);
            }
        }
    }

    /// Reports limits by time of SAs that carry no traffic.
    pub(crate) fn expire(&self, now: Instant, events: &mut Vec<Event>) {
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(entry) = &slot.entry {
                let handle = SaHandle {
                    index: index as u32,
                    generation: slot.generation,
                };
                let mut state = lock(&entry.state);
                state.check_time(now);
                state.take_notices(|notice| events.push(event_of(handle, notice)));
            }
        }
    }
}

impl Entry {
    pub(crate) fn usage(&self) -> SaUsage {
        lock(&self.state).usage()
    }

    pub(crate) fn amend(&self, change: &Amend, now: Instant) -> Result<(), SaError> {
        lock(&self.state).amend(change, now)
    }

    pub(crate) fn set_outer(&mut self, outer: OuterHeaders) {
        self.transform.set_outer(outer);
    }
}

/// A notice of an SA as the contract's event.
pub(crate) fn event_of(sa: SaHandle, notice: SaNotice) -> Event {
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
