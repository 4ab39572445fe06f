// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A function's SA table. Functions share none: an SA of another one has no name here.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use esp::sa::{SaNotice, SaState};
use esp::transform::Transform;
use offload_api::sa::Direction;

/// SAs by index, each with its generation.
pub(crate) struct SaTable {
    slots: Vec<(u32, Option<CardSa>)>,
    free: Vec<u32>,
    /// Inbound SAs: index and generation.
    by_spi: HashMap<u32, (u32, u32)>,
    capacity: u32,
    live: u32,
}

pub(crate) struct CardSa {
    pub(crate) transform: Transform,
    pub(crate) state: SaState,
    /// The host's own name for it.
    pub(crate) cookie: u64,
    pub(crate) replay_window: u32,
    pub(crate) esn: bool,
    pub(crate) explicit: bool,
    /// When it drains: each queue's position from which on it refuses.
    pub(crate) drain: Option<Box<[u32]>>,
}

impl CardSa {
    /// Whether it drains and a descriptor came after that was asked for.
    pub(crate) fn refuses(&self, queue: u16, position: u32) -> bool {
        let mark = self
            .drain
            .as_ref()
            .map(|marks| marks.get(usize::from(queue)));
        match mark {
            None => false,
            Some(Some(mark)) => position.wrapping_sub(*mark) as i32 >= 0,
            Some(None) => true,
        }
    }
}

impl SaTable {
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_spi: HashMap::new(),
            capacity,
            live: 0,
        }
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(crate) fn live(&self) -> u32 {
        self.live
    }

    pub(crate) fn insert(&mut self, sa: CardSa) -> Option<(u32, u32)> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if (self.slots.len() as u64) < u64::from(self.capacity) => {
                self.slots.push((1, None));
                (self.slots.len() - 1) as u32
            }
            None => return None,
        };
        let (generation, slot) = self.slots.get_mut(index as usize)?;
        let place = (index, *generation);
        if sa.transform.direction() == Direction::Inbound {
            self.by_spi.insert(sa.transform.spi().value(), place);
        }
        *slot = Some(sa);
        self.live += 1;
        Some(place)
    }

    pub(crate) fn find(&mut self, index: u32, generation: u32) -> Option<&mut CardSa> {
        let (current, slot) = self.slots.get_mut(index as usize)?;
        slot.as_mut().filter(|_| *current == generation)
    }

    /// An SA out of its place, which is kept for it: [`put_back`](Self::put_back).
    #[cfg(feature = "rtl")]
    pub(crate) fn take(&mut self, index: u32, generation: u32) -> Option<CardSa> {
        let (current, slot) = self.slots.get_mut(index as usize)?;
        if *current == generation {
            slot.take()
        } else {
            None
        }
    }

    /// Back where it was.
    #[cfg(feature = "rtl")]
    pub(crate) fn put_back(&mut self, index: u32, sa: CardSa) {
        if let Some((_, slot)) = self.slots.get_mut(index as usize) {
            *slot = Some(sa);
        }
    }

    /// The inbound SA of an SPI.
    pub(crate) fn by_spi(&self, spi: u32) -> Option<(u32, u32)> {
        self.by_spi.get(&spi).copied()
    }

    /// Where packets of outbound SAs go, on the wire.
    pub(crate) fn outer_destinations(&self) -> HashSet<IpAddr> {
        let sas = self.slots.iter().filter_map(|(_, sa)| sa.as_ref());
        let sas = sas.filter(|sa| sa.transform.direction() == Direction::Outbound);
        sas.filter_map(|sa| Some(sa.transform.outer()?.destination))
            .collect()
    }

    /// The first SA at or after an index, with index and generation.
    pub(crate) fn next(&self, from: u32) -> Option<(u32, u32, &CardSa)> {
        let slots = self.slots.iter().enumerate().skip(from as usize);
        slots
            .filter_map(|(index, (generation, sa))| Some((index as u32, *generation, sa.as_ref()?)))
            .next()
    }

    /// Keys are zeroised as the SA drops.
    pub(crate) fn remove(&mut self, index: u32, generation: u32) -> Option<CardSa> {
        let (current, slot) = self.slots.get_mut(index as usize)?;
        if *current != generation {
            return None;
        }
        let sa = slot.take()?;
        *current = next_generation(*current);
        self.free.push(index);
        self.live -= 1;
        let spi = sa.transform.spi().value();
        if self.by_spi.get(&spi) == Some(&(index, generation)) {
            self.by_spi.remove(&spi);
        }
        Some(sa)
    }

    pub(crate) fn clear(&mut self) {
        for (index, (generation, slot)) in self.slots.iter_mut().enumerate() {
            if slot.take().is_some() {
                *generation = next_generation(*generation);
                self.free.push(index as u32);
            }
        }
        self.by_spi.clear();
        self.live = 0;
    }

    pub(crate) fn notices(&mut self, now: Instant, out: &mut Vec<(u32, u32, SaNotice)>) {
        for (index, (generation, slot)) in self.slots.iter_mut().enumerate() {
            if let Some(sa) = slot {
                sa.state.check_time(now);
                sa.state
                    .take_notices(|notice| out.push((index as u32, *generation, notice)));
            }
        }
    }
}

/// 0 is no generation: events of no SA carry it.
fn next_generation(generation: u32) -> u32 {
    generation.wrapping_add(1).max(1)
}
