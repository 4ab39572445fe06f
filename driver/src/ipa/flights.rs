// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Operations that the card has: what a completion must name to bring one home.

use fpga_regs::descriptor::Completion;
use offload_api::frame::{DeviceFrame, Frame};
use offload_api::queue::{Done, Op, Status};
use offload_api::sa::SaHandle;

/// Operations in flight by slot.
pub struct Flights {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Gather lists that are free.
    lists: Vec<u16>,
    /// A mutant, to prove that the models notice: completions are taken by their slot alone.
    #[cfg(test)]
    pub(crate) no_generations: bool,
}

#[derive(Default)]
struct Slot {
    /// Times the slot was used.
    generation: u32,
    flight: Option<Flight>,
}

/// An operation that the card has.
struct Flight {
    frame: DeviceFrame,
    cookie: u64,
    sa: SaHandle,
    /// The gather list that tells of its frames.
    list: Option<u16>,
}

/// Where an operation flies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its slot.
    pub slot: u32,
    /// Times the slot was used.
    pub generation: u32,
    /// Its gather list, where its packet lies in several frames.
    pub list: Option<u16>,
}

/// What a completion was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// Its operation is home.
    Home,
    /// Its operation is home, aborted: the rest of it made no sense.
    Bogus,
    /// The card should not have sent it: it names no operation.
    Nobody,
}

impl Flights {
    /// Room for so many, of which so many may lie in several frames.
    pub fn new(depth: u32, lists: u16) -> Self {
        Self {
            slots: (0..depth).map(|_| Slot::default()).collect(),
            free: (0..depth).rev().collect(),
            lists: (0..lists).rev().collect(),
            #[cfg(test)]
            no_generations: false,
        }
    }

    /// How many of these operations there is room for.
    #[inline]
    pub fn takes(&self, ops: &[Op]) -> usize {
        let count = ops.len().min(self.room());
        if self.lists.len() >= count {
            return count;
        }
        let mut lists = self.lists.len();
        let fits = |op: &&Op| {
            !op.frame.is_chained() || lists.checked_sub(1).map(|left| lists = left).is_some()
        };
        ops.iter().take(count).take_while(fits).count()
    }

    /// Slots that are free.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Operations in flight.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes an operation in, unless all slots (or lists, where it needs one) are in use: then the
    /// frame comes back.
    ///
    /// # Errors
    /// The frame.
    #[inline]
    pub fn begin(&mut self, frame: Frame, cookie: u64, sa: SaHandle) -> Result<Place, Frame> {
        match self.reserve(frame.is_chained()) {
            Some(place) => {
                self.fill(place, frame, cookie, sa);
                Ok(place)
            }
            None => Err(frame),
        }
    }

    /// A place for an operation, with a list where it needs one: [`fill`](Self::fill) it.
    #[inline(always)]
    pub(super) fn reserve(&mut self, needs_list: bool) -> Option<Place> {
        if needs_list && self.lists.is_empty() {
            return None;
        }
        let number = self.free.pop()?;
        let slot = self.slots.get(number as usize)?;
        Some(Place {
            slot: number,
            generation: slot.generation,
            list: if needs_list { self.lists.pop() } else { None },
        })
    }

    /// Takes an operation in at the place that was [reserved](Self::reserve) for it.
    #[inline(always)]
    pub(super) fn fill(&mut self, place: Place, frame: Frame, cookie: u64, sa: SaHandle) {
        // Free slots are the table's own.
        if let Some(slot) = self.slots.get_mut(place.slot as usize) {
            slot.flight = Some(Flight {
                frame: frame.into_device(),
                cookie,
                sa,
                list: place.list,
            });
        }
    }

    /// Takes one completion in and appends the operation that it ends. Everything in it is the card's
    /// word, and checked.
    #[inline]
    pub fn accept(&mut self, completion: &Completion, done: &mut Vec<Done>) -> Landing {
        let number = completion.slot.get();
        let Some(slot) = self.slots.get_mut(number as usize) else {
            return Landing::Nobody;
        };
        let is_another = slot.generation != completion.slot_generation.get();
        #[cfg(test)]
        let is_another = is_another && !self.no_generations;
        if is_another {
            return Landing::Nobody;
        }
        let Some(Flight {
            frame,
            cookie,
            sa,
            list,
        }) = slot.flight.take()
        else {
            return Landing::Nobody;
        };
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(number);
        if let Some(list) = list {
            self.lists.push(list);
        }
        let (offset, len) = (completion.offset.get(), completion.len.get());
        // The card itself has no word for "aborted".
        let status = Status::from_code(completion.status).unwrap_or(Status::Aborted);
        // The card is done with it, whatever went wrong.
        let mut home = Done::new(sa, frame.reclaim(), cookie);
        home.complete(status, completion.sequence.get(), completion.next_header);
        done.push(home);
        // Changed where it lies now: to move what was just changed in part is slow.
        let Some(done) = done.last_mut() else {
            return Landing::Nobody;
        };
        if status.is_ok() && done.frame.place(offset, len) {
            return Landing::Home;
        }
        done.frame.clear();
        if status.is_ok() {
            done.status = Status::Aborted;
        }
        match done.status {
            Status::Aborted => Landing::Bogus,
            _ => Landing::Home,
        }
    }

    /// Brings everything home from a card that has let go, as aborted; quarantines it otherwise.
    pub fn bring_home(&mut self, done: &mut Vec<Done>, let_go: bool) -> u64 {
        let mut count = 0;
        for (slot, number) in self.slots.iter_mut().zip(0..) {
            let Some(Flight {
                frame,
                cookie,
                sa,
                list,
            }) = slot.flight.take()
            else {
                continue;
            };
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(number);
            self.lists.extend(list);
            count += 1;
            if let_go {
                let op = Op::new(sa, frame.reclaim(), cookie);
                done.push(op.refused(Status::Aborted));
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use offload_api::frame::{FramePool, FramePoolConfig};
    use proptest::prelude::*;
    use zerocopy::FromBytes;

    use super::*;

    const SA: SaHandle = SaHandle {
        index: 0,
        generation: 0,
    };

    proptest! {
        #[test]
        fn garbage_completions_break_nothing_and_lose_no_frame(
            octets in prop::collection::vec(prop::array::uniform32(any::<u8>()), 1..200),
            sane in prop::collection::vec((0u32..10, 0u32..3), 1..200),
        ) {
            let pool = FramePool::new(FramePoolConfig { slots: 10, ..Default::default() }).unwrap();
            let mut flights = Flights::new(8, 2);
            let mut home = 0;
            for (octets, (slot, generation)) in octets.iter().zip(sane.iter().cycle()) {
                while let Some(mut frame) = pool.alloc() {
                    // Two of them in two frames each.
                    if !flights.lists.is_empty() && let Some(second) = pool.alloc() {
                        frame.append(second).unwrap();
                    }
                    prop_assert!(flights.begin(frame, 1, SA).is_ok());
                }
                let mut completion = Completion::read_from_bytes(octets).unwrap();
                let mut done = Vec::new();
                flights.accept(&completion, &mut done);
                prop_assert!(done.len() <= 1);
                done.clear();
                completion.slot = (*slot).into();
                completion.slot_generation = (*generation).into();
                let landing = flights.accept(&completion, &mut done);
                prop_assert_eq!(landing == Landing::Nobody, done.is_empty());
                for done in &done {
                    prop_assert!(done.frame.packet_len() <= 4096);
                    prop_assert!(done.status.is_ok() || done.frame.packet_len() == 0);
                    home += 1;
                }
            }
            let mut done = Vec::new();
            flights.bring_home(&mut done, true);
            prop_assert!(home > 0 || !done.is_empty());
            drop(done);
            prop_assert_eq!(pool.available(), 10);
            prop_assert_eq!((flights.room(), flights.lists.len()), (8, 2));
        }
    }
}
