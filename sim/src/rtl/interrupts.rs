// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interrupts, which the RTL has: what makes them, and the messages that come of it.

use std::time::Duration;

use fpga_cosim::card::{RtlCard, Stuck, VECTORS};
use fpga_regs::registers::FatalCause;

use super::engine::{Engine, Memory};
use crate::card::{Card, Core};
use crate::handshake::{self, Pages};

/// When each vector fired last, by the card's time: only to know how long the simulation may sleep.
pub(super) type Fired = [Option<u64>; VECTORS];

/// Octets of a word of the table.
const WORD: usize = 4;

impl Core {
    /// Something for the RTL that may make interrupts, which are delivered.
    fn with_interrupts<T>(
        &mut self,
        work: impl FnOnce(&mut RtlCard, &mut Memory<'_>) -> Result<T, Stuck>,
    ) -> Option<T> {
        let now = self.time();
        let engine = self.rtl.as_mut()?;
        let mut memory = Memory(&self.dma);
        engine.card.set_time(now);
        let done = work(&mut engine.card, &mut memory).and_then(|value| {
            engine.card.let_messages_out(&mut memory)?;
            Ok(value)
        });
        self.deliver(now);
        match done {
            Ok(value) => Some(value),
            Err(Stuck) => {
                self.fail(FatalCause::Configuration, u64::MAX);
                None
            }
        }
    }

    /// Hands messages on that were sent, whichever clock sent them.
    pub(super) fn deliver(&mut self, now: u64) {
        let Self {
            rtl: Some(engine),
            irqs,
            queues,
            ..
        } = self
        else {
            return;
        };
        while let Some(message) = engine.card.take_message() {
            let vector = usize::from(message.vector);
            irqs.deliver(vector);
            if let Some(last) = engine.fired.get_mut(vector) {
                *last = Some(now);
            }
            let queue = vector
                .checked_sub(1)
                .and_then(|queue| queues.get_mut(queue));
            if let Some(Some(queue)) = queue {
                queue.interrupts += 1;
            }
        }
    }

    /// Entries that the management has written for a vector.
    pub(crate) fn rtl_raise(&mut self, vector: usize, entries: u32) {
        self.with_interrupts(|card, memory| {
            card.raise(vector, entries, true, memory);
            Ok(())
        });
    }

    /// After completions: forwards what the host has asked for meanwhile in its doorbell pages, as a bus
    /// would. The look comes after the completions, so none is missed by both.
    pub(super) fn rtl_forward_arms(&mut self, card: &Card, completed: u32) {
        let queues = (0..card.doorbells.queues()).filter(|queue| completed >> queue & 1 != 0);
        for queue in queues {
            if handshake::take_arm(&card.doorbells, queue) {
                let head = handshake::head(&card.doorbells, queue);
                self.with_interrupts(|rtl, memory| {
                    rtl.arm(queue, head, memory);
                    Ok(())
                });
            }
        }
        self.rtl_fire_due();
    }

    /// Lets the clock run where an interrupt is held back, or is not taken yet.
    pub(super) fn rtl_fire_due(&mut self) {
        let card = self.rtl.as_ref().map(|engine| &engine.card);
        if card.is_some_and(|card| card.held() != 0 || card.offers_message()) {
            self.with_interrupts(|_, _| Ok(()));
        }
    }

    /// How long until [`rtl_fire_due`](Self::rtl_fire_due) has something to do.
    pub(crate) fn rtl_next_due(&self) -> Option<Duration> {
        let engine = self.rtl.as_ref()?;
        let held = engine.card.held();
        let now = self.time();
        let due = engine.card.moderation().into_iter().zip(engine.fired);
        let due = due
            .enumerate()
            .filter(|(vector, _)| held >> vector & 1 != 0);
        due.map(|(_, (moderation, last))| {
            let interval = u64::from(moderation & 0xffff) * 1000;
            let due = last.map_or(0, |last| last.saturating_add(interval));
            Duration::from_nanos(due.saturating_sub(now))
        })
        .min()
    }

    /// Unmasks a vector that is wired and masks one that is not, as whoever wires it does. What is
    /// pending comes while nobody is wired.
    pub(crate) fn rtl_wire(&mut self, vector: usize, wired: bool) {
        const CONTROL: u64 = 12;
        if vector < VECTORS {
            self.irqs.wire(vector, None);
            self.with_interrupts(|card, memory| {
                let at = 16 * vector as u64 + CONTROL;
                card.write_table(at, u32::from(!wired), 0xf, memory)
            });
        }
    }

    /// Masks all vectors, or ends that.
    pub(crate) fn rtl_set_all_masked(&mut self, masked: bool) {
        self.with_interrupts(|card, _| {
            card.set_all_masked(masked);
            Ok(())
        });
    }

    /// Reads octets of the MSI-X table; whether there is an RTL that has it.
    pub(crate) fn rtl_read_table(&mut self, offset: u64, data: &mut [u8]) -> bool {
        if self.rtl.is_none() {
            return false;
        }
        for (octet, at) in data.iter_mut().zip(offset..) {
            let (word, lane) = (at & !(WORD as u64 - 1), at as usize % WORD);
            let value = self.with_interrupts(|card, memory| card.read_table(word, memory));
            let octets = value.unwrap_or(u32::MAX).to_le_bytes();
            *octet = octets.get(lane).copied().unwrap_or_default();
        }
        true
    }

    /// Writes octets of the MSI-X table, likewise.
    pub(crate) fn rtl_write_table(&mut self, offset: u64, data: &[u8]) -> bool {
        if self.rtl.is_none() {
            return false;
        }
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let lane = at as usize % WORD;
            let (now, later) = rest.split_at(rest.len().min(WORD - lane));
            let (mut value, mut strobe) = (0, 0);
            for (octet, lane) in now.iter().zip(lane..) {
                value |= u32::from(*octet) << (8 * lane);
                strobe |= 1 << lane;
            }
            self.with_interrupts(|card, memory| {
                card.write_table(at & !(WORD as u64 - 1), value, strobe, memory)
            });
            at += now.len() as u64;
            rest = later;
        }
        true
    }
}

impl Engine {
    /// Nothing has fired since a reset.
    pub(super) fn forget_fired(&mut self) {
        self.fired = [None; VECTORS];
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    use fpga_cosim::card::HostTiming;
    use fpga_regs::registers::{MSIX_PENDING, interrupt, statistics};
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::dma::DmaMap;
    use crate::irq::Vectors;
    use crate::rtl::random;

    #[test]
    fn interrupts_are_those_of_the_functional_model() {
        let dma = DmaMap::default();
        let memory = &mut Memory(&dma);
        let mut rtl = RtlCard::new(HostTiming {
            hesitation: 64,
            ..HostTiming::default()
        });
        let mut model = Vectors::new(VECTORS);
        let bells: Vec<OwnedFd> = (0..VECTORS)
            .map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap())
            .collect();
        for (vector, bell) in bells.iter().enumerate() {
            model.wire(vector, Some(bell.try_clone().unwrap()));
            let control = 16 * vector as u64 + 12;
            rtl.write_table(control, 0, 0xf, memory).unwrap();
        }
        let (start, mut now, mut seed) = (Instant::now(), 0u64, 1);
        let mut met = [0u32; VECTORS];
        for step in 0..20_000 {
            let chance = random(&mut seed);
            let (vector, value) = ((chance >> 8) as usize % VECTORS, chance >> 16);
            let at = start + Duration::from_nanos(now);
            rtl.set_time(now);
            match chance % 16 {
                0..6 => {
                    let (entries, wants) = ((value % 5 + 1) as u32, value & 0x100 != 0);
                    rtl.raise(vector, entries, wants, memory);
                    if wants {
                        model.raise(vector, entries, at);
                    } else {
                        model.accumulate(vector, entries, at);
                    }
                }
                6..8 => {
                    let masked = value & 1 != 0;
                    let control = 16 * vector as u64 + 12;
                    rtl.write_table(control, masked.into(), 1, memory).unwrap();
                    model.set_masked(vector, masked, at);
                }
                8 => {
                    let masked = value % 4 == 0;
                    rtl.set_all_masked(masked);
                    model.set_all_masked(masked, at);
                }
                9 => {
                    // Often none, of either kind.
                    let (micros, entries) = (value % 3 * 40, value / 3 % 3 * 4);
                    let value = (micros | entries << 16) as u32;
                    let register = interrupt::MODERATION + 4 * vector as u64;
                    rtl.write_register(register, value, memory).unwrap();
                    model.set_moderation(vector, value);
                }
                10 if step % 64 == 0 => {
                    rtl.reset(memory);
                    model.reset();
                }
                // To the nanosecond: up to the time, and just short of it.
                _ => now += [1, 500, 39_999, 40_000, 79_999, 80_000][value as usize % 6],
            }
            let at = start + Duration::from_nanos(now);
            rtl.set_time(now);
            model.fire_due(at);
            rtl.let_messages_out(memory).unwrap();
            let mut sent = [0u64; VECTORS];
            while let Some(message) = rtl.take_message() {
                sent[usize::from(message.vector)] += 1;
            }
            for ((sent, bell), met) in sent.into_iter().zip(&bells).zip(&mut met) {
                let mut count = [0; 8];
                let fired = rustix::io::read(bell, &mut count);
                let fired = fired.map_or(0, |_| u64::from_ne_bytes(count));
                assert_eq!(sent, fired, "step {step}");
                *met += fired as u32;
            }
            let pending = rtl.read_table(MSIX_PENDING, memory).unwrap();
            assert_eq!(u64::from(pending), model.pending(0), "step {step}");
            assert_eq!(rtl.held() != 0, model.holds_back(), "step {step}");
            let fired = rtl.read_register(statistics::INTERRUPTS, memory).unwrap();
            assert_eq!(u64::from(fired), model.fired, "step {step}");
        }
        assert!(met.iter().all(|fired| *fired > 100), "{met:?}");
    }
}
