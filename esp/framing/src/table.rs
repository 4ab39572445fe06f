// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An engine's SAs, by slots with generations.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use offload_api::error::{InstallError, SaError};
use offload_api::event::Event;
use offload_api::replay::full_number;
use offload_api::sa::{Amend, SaHandle, SaParams, SaUsage};

use spin::mutex::{SpinMutex, SpinMutexGuard};
use spin::relax::Yield;

use crate::sa::{SaNotice, SaState};

/// An SA's moving part, locked. A lock is held for some packets' headers and never while anything
/// waits, and each packet of another SA takes one: so it spins (and gives way to others), since
/// unlocking is a mere store then.
pub struct StateGuard<'entry> {
    state: SpinMutexGuard<'entry, SaState>,
    edge: &'entry Edge,
}

impl Deref for StateGuard<'_> {
    type Target = SaState;

    #[inline]
    fn deref(&self) -> &SaState {
        &self.state
    }
}

impl DerefMut for StateGuard<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut SaState {
        &mut self.state
    }
}

impl Drop for StateGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.edge.set(&self.state);
    }
}

/// Where an SA's window ends, told without its lock as the last holder left it.
struct Edge {
    /// The window's size; constant.
    size: u32,
    esn: bool,
    /// The highest number accepted, or [`NOWHERE`].
    top: AtomicU64,
}

/// Of an SA with limits: each packet is held against them, under the lock.
const NOWHERE: u64 = u64::MAX;

impl Edge {
    fn new(state: &SaState, esn: bool) -> Self {
        let edge = Self {
            size: state.window().size(),
            esn,
            top: AtomicU64::new(NOWHERE),
        };
        edge.set(state);
        edge
    }

    #[inline]
    fn set(&self, state: &SaState) {
        let top = if state.is_limited() {
            NOWHERE
        } else {
            state.window().top()
        };
        // A hint: what is accepted is decided under the lock.
        self.top.store(top, Ordering::Relaxed);
    }
}

/// Slots whose SAs are looked at for limits by time at once, at least; more where a table has so many that
/// it would take more than [`LOOKS`] to come round.
const LOOK: usize = 512;
/// See [`LOOK`].
const LOOKS: usize = 8;

/// SAs with generations. `T` is what the engine keeps of an SA beside its moving part.
pub struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    capacity: u32,
    /// Generation of a slot that was never used.
    first: u32,
    /// The slot that [`expire`](Self::expire) goes on with.
    looked: AtomicUsize,
}

struct Slot<T> {
    generation: u32,
    /// By itself, so that a table that grows moves none, and free slots take no room.
    entry: Option<Box<Entry<T>>>,
}

/// An installed SA.
// Another core may work on what lies beside it in memory. What packets change is in the middle, behind more than a cache
// line of what they only read, and before as much that changes with refused packets alone. To begin it where a line
// begins would cost as much again as a third of it: thousands of SAs are small things apart.
#[repr(C)]
pub struct Entry<T> {
    /// What does not change from packet to packet.
    pub transform: T,
    edge: Edge,
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
            looked: AtomicUsize::new(0),
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
        let state = SaState::new(sa, now);
        let entry = Entry {
            transform,
            edge: Edge::new(&state, sa.esn),
            state: SpinMutex::new(state),
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

    /// Reports limits by time of SAs that carry no traffic, and refused packets: of up to 512 slots, or an
    /// eighth of a larger table, and goes on with the next part when it is called again.
    pub fn expire(&self, now: Instant, events: &mut Vec<Event>) {
        let most = LOOK.max(self.slots.len().div_ceil(LOOKS));
        let from = self.looked.load(Ordering::Relaxed);
        let from = if from < self.slots.len() { from } else { 0 };
        self.looked.store(from + most, Ordering::Relaxed);
        for (index, slot) in self.slots.iter().enumerate().skip(from).take(most) {
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
        StateGuard {
            state: self.state.lock(),
            edge: &self.edge,
        }
    }

    /// Whether it had limits when its lock was last released.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.edge.top.load(Ordering::Relaxed) == NOWHERE
    }

    /// The full number of an inbound packet that lies right of the window, of an SA without limits:
    /// [`SaState::check_inbound`] would say so, too. Nothing where it must be asked. Without the lock,
    /// so that most packets take it once, when their windows move.
    #[inline]
    pub fn ahead(&self, low: u32) -> Option<u64> {
        let Edge { size, esn, ref top } = self.edge;
        let top = top.load(Ordering::Relaxed);
        let sequence = full_number(top, size, low, esn);
        // A window of nothing refuses nothing but number 0.
        let fresh = sequence > top || size == 0 && sequence != 0;
        (fresh && top != NOWHERE).then_some(sequence)
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

#[cfg(test)]
mod tests {
    use offload_api::sa::{Direction, KeyMaterial, Lifetimes, Limits, Numbering, Spi, Suite};
    use proptest::prelude::*;

    use super::*;

    fn inbound(esn: bool, replay_window: u32, lifetimes: Lifetimes) -> SaParams {
        let suite = Suite::AES_128_GCM;
        SaParams {
            esn,
            replay_window,
            lifetimes,
            numbering: Numbering::Granted(None),
            ..SaParams::tunnel(
                Spi::new(0x1000).unwrap(),
                Direction::Inbound,
                suite,
                KeyMaterial::from_keymat(suite, &[7; 20], &[]).unwrap(),
            )
        }
    }

    /// Numbers around the edges of windows and of the 32-bit space.
    fn numbers() -> impl Strategy<Value = Vec<u32>> {
        let number = (0..3u32, 0..200u32).prop_map(|(part, n)| match part {
            0 => n,
            1 => (u32::MAX - 99).wrapping_add(n),
            _ => 1 << 31 | n,
        });
        proptest::collection::vec(number, 1..200)
    }

    /// However many SAs there are, each one's limit is told within eight looks, and once.
    #[test]
    fn every_limit_by_time_is_told_within_eight_looks() {
        for count in [1, LOOK, LOOK + 1, 3 * LOOK, 20 * LOOK] {
            let now = Instant::now();
            let mut table = Table::new(count as u32);
            let soft = Limits {
                time: Some(std::time::Duration::from_secs(1)),
                ..Limits::default()
            };
            let lifetimes = Lifetimes {
                soft,
                ..Lifetimes::default()
            };
            for _ in 0..count {
                table
                    .insert((), &inbound(false, 64, lifetimes), now)
                    .unwrap();
            }
            let later = now + std::time::Duration::from_secs(2);
            let mut told = Vec::new();
            for all in [count, count] {
                (0..LOOKS).for_each(|_| table.expire(later, &mut told));
                assert_eq!(told.len(), all);
            }
            let of = |event: &Event| match event {
                Event::SoftExpired { sa, .. } => sa.index,
                other => panic!("{other:?}"),
            };
            let distinct: std::collections::BTreeSet<_> = told.iter().map(of).collect();
            assert_eq!(distinct.len(), count);
        }
    }

    proptest! {
        #[test]
        fn what_is_told_without_the_lock_is_what_the_window_says(
            esn: bool, window in prop::sample::select(vec![0, 32, 64, 128]), numbers in numbers(),
        ) {
            let now = Instant::now();
            let mut table = Table::new(1);
            let sa = table.insert((), &inbound(esn, window, Lifetimes::default()), now).unwrap();
            let entry = table.entry(sa).unwrap();
            for low in numbers {
                let (told, top) = (entry.ahead(low), entry.state().window().top());
                let mut state = entry.state();
                match state.check_inbound(low, now) {
                    Ok(sequence) => {
                        prop_assert!(told == Some(sequence) || told.is_none() && sequence <= top);
                        state.accept_inbound(sequence).unwrap();
                    }
                    Err(_) => prop_assert_eq!(told, None),
                }
            }
        }
    }

    #[test]
    fn packets_of_an_sa_with_limits_are_never_told_without_the_lock() {
        let now = Instant::now();
        let limits = |packets| Limits {
            packets,
            ..Limits::default()
        };
        let lifetimes = |packets| Lifetimes {
            soft: Limits::default(),
            hard: limits(packets),
        };
        let mut table = Table::new(1);
        let sa = table.insert((), &inbound(false, 64, lifetimes(Some(9))), now);
        let entry = table.entry(sa.unwrap()).unwrap();
        assert_eq!(entry.ahead(5), None);
        entry
            .amend(&Amend::Lifetimes(lifetimes(None)), now)
            .unwrap();
        assert_eq!(entry.ahead(5), Some(5));
        entry
            .amend(&Amend::Lifetimes(lifetimes(Some(9))), now)
            .unwrap();
        assert_eq!(entry.ahead(5), None);
    }
}
