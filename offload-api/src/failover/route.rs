// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where an SA's operations go, and how many are on their way there: one atomic word, so that both
//! are always seen together.

use std::sync::atomic::{AtomicU64, Ordering};

/// Who takes an SA's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Place {
    /// Nobody: a named level of offload has lost its device.
    Nowhere = 0,
    /// The device.
    Device = 1,
    /// Software.
    Software = 2,
    /// Nobody for a moment: the SA is between two engines.
    Gate = 3,
}

/// A stay of the SA in one place. Each move begins a new one; the number wraps after 2^30.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stay {
    pub(super) place: Place,
    pub(super) number: u32,
    /// Operations on their way.
    pub(super) count: u32,
}

/// Place (2 bits), number of the stay (30), operations on their way (32).
#[derive(Debug)]
pub(super) struct Route(AtomicU64);

const NUMBER_MASK: u32 = (1 << 30) - 1;

impl Route {
    pub(super) fn new(place: Place) -> Self {
        Self(AtomicU64::new(encode(Stay {
            place,
            number: 0,
            count: 0,
        })))
    }

    pub(super) fn load(&self) -> Stay {
        decode(self.0.load(Ordering::Acquire))
    }

    /// Takes one more operation on its way, where the SA is in an engine; else tells where it is.
    pub(super) fn acquire(&self) -> Result<Stay, Place> {
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            let mut stay = decode(word);
            if !matches!(stay.place, Place::Device | Place::Software) {
                return Err(stay.place);
            }
            stay.count = stay.count.saturating_add(1);
            match self.0.compare_exchange_weak(
                word,
                encode(stay),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Ok(stay),
                Err(found) => word = found,
            }
        }
    }

    /// An operation of a stay has come home; tells how many are still out, if the SA is still there.
    pub(super) fn release(&self, number: u32) -> Option<u32> {
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            let mut stay = decode(word);
            if stay.number != number {
                return None;
            }
            stay.count = stay.count.saturating_sub(1);
            match self.0.compare_exchange_weak(
                word,
                encode(stay),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(stay.count),
                Err(found) => word = found,
            }
        }
    }

    /// Begins a new stay in `to`, if the SA is in `from` and, when `idle`, nothing is on its way.
    pub(super) fn shift(&self, from: Place, idle: bool, to: Place) -> bool {
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            let stay = decode(word);
            if stay.place != from || (idle && stay.count != 0) {
                return false;
            }
            let next = Stay {
                place: to,
                number: stay.number.wrapping_add(1) & NUMBER_MASK,
                count: 0,
            };
            match self.0.compare_exchange_weak(
                word,
                encode(next),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return true,
                Err(found) => word = found,
            }
        }
    }
}

fn encode(stay: Stay) -> u64 {
    (stay.place as u64) << 62 | u64::from(stay.number & NUMBER_MASK) << 32 | u64::from(stay.count)
}

fn decode(word: u64) -> Stay {
    Stay {
        place: match word >> 62 {
            0 => Place::Nowhere,
            1 => Place::Device,
            2 => Place::Software,
            _ => Place::Gate,
        },
        number: (word >> 32) as u32 & NUMBER_MASK,
        count: word as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_waits_for_what_is_on_its_way_and_a_loss_does_not() {
        let route = Route::new(Place::Software);
        let first = route.acquire().unwrap();
        assert!(!route.shift(Place::Software, true, Place::Gate));
        assert_eq!(route.release(first.number), Some(0));
        assert!(route.shift(Place::Software, true, Place::Gate));
        assert_eq!(route.acquire(), Err(Place::Gate));
        assert!(route.shift(Place::Gate, false, Place::Device));

        let second = route.acquire().unwrap();
        assert!(route.shift(Place::Device, false, Place::Software));
        let third = route.acquire().unwrap();
        assert_eq!((third.place, third.count), (Place::Software, 1));
        // What comes home from the lost device does not count against software.
        assert_eq!(route.release(second.number), None);
        assert_eq!(route.release(third.number), Some(0));
    }
}
