// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The last events, for a post-mortem.

use std::sync::atomic::Ordering;

use super::entry::{SaState, placement};
use super::layout::{CAPACITY_MAX, EVENT_WORDS, RING};
use super::seqlock::Word;
use crate::event::Engine;
use crate::sa::Spi;

/// Something that the writer noted for a post-mortem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheEvent {
    /// Which one since the cache was made, from 1.
    pub number: u64,
    /// Nanoseconds since boot.
    pub time: u64,
    /// What.
    pub kind: CacheEventKind,
    /// The SA that it is about: its slot and SPI.
    pub sa: Option<(u32, Spi)>,
    /// A number that belongs to it: the last number of a grant, engine and state, the epoch.
    pub value: u64,
}

impl CacheEvent {
    /// Of [`CacheEventKind::Moved`]: where the SA went, and how it is.
    pub fn placement(&self) -> Option<(Engine, SaState)> {
        let moved = self.kind == CacheEventKind::Moved;
        placement(self.value).filter(|_| moved)
    }
}

/// Kinds of [`CacheEvent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum CacheEventKind {
    /// A writer took its place; the value is its epoch.
    Claimed = 1,
    /// An SA was entered; the value is the last sequence number that was used before.
    Inserted = 2,
    /// An SA was removed.
    Removed = 3,
    /// Numbers were granted; the value is the last one.
    Granted = 4,
    /// An SA is carried by another engine, or has aged.
    Moved = 5,
    /// The device was lost.
    DeviceLost = 6,
    /// The device came back.
    DeviceReturned = 7,
    /// An SA's peer or we moved: it has other outer addresses.
    PathChanged = 8,
}

impl CacheEventKind {
    fn from_code(code: u64) -> Option<Self> {
        [
            Self::Claimed,
            Self::Inserted,
            Self::Removed,
            Self::Granted,
            Self::Moved,
            Self::DeviceLost,
            Self::DeviceReturned,
            Self::PathChanged,
        ]
        .into_iter()
        .find(|kind| *kind as u64 == code)
    }
}

/// Words of the ring that event `number` lies in.
fn place(number: u64) -> std::ops::Range<usize> {
    let start = (number % RING as u64) as usize * EVENT_WORDS;
    start..start + EVENT_WORDS
}

/// Writes an event; one writer at a time.
pub(super) fn write<W: Word>(ring: &[W], event: &CacheEvent) {
    let Some([number, time, what, value]) = ring.get(place(event.number)) else {
        return;
    };
    // The number is 0 while the rest is written; it pairs with the reader's two looks at it.
    number.store(0, Ordering::Relaxed);
    W::fence(Ordering::Release);
    let (slot, spi) = event.sa.map_or((0, 0), |(slot, spi)| (slot, spi.value()));
    let about = u64::from(slot % CAPACITY_MAX) << 32 | u64::from(spi);
    time.store(event.time, Ordering::Relaxed);
    what.store((event.kind as u64) << 56 | about, Ordering::Relaxed);
    value.store(event.value, Ordering::Relaxed);
    number.store(event.number, Ordering::Release);
}

/// The event of this number, if it is still there.
pub(super) fn read<W: Word>(ring: &[W], number: u64) -> Option<CacheEvent> {
    let [first, time, what, value] = ring.get(place(number))? else {
        return None;
    };
    let before = first.load(Ordering::Acquire);
    let [time, what, value] = [time, what, value].map(|word| word.load(Ordering::Relaxed));
    W::fence(Ordering::Acquire);
    let after = first.load(Ordering::Relaxed);
    (number != 0 && before == number && after == number).then_some(())?;
    let slot = (what >> 32) as u32 % CAPACITY_MAX;
    Some(CacheEvent {
        number,
        time,
        kind: CacheEventKind::from_code(what >> 56)?,
        sa: Spi::new(what as u32).map(|spi| (slot, spi)),
        value,
    })
}

/// The last events, oldest first; `written` is how many there have been.
pub(super) fn last<W: Word>(ring: &[W], written: u64) -> impl Iterator<Item = CacheEvent> {
    let first = written.saturating_sub(RING as u64).saturating_add(1);
    (first..=written).filter_map(|number| read(ring, number))
}
