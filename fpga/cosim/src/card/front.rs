// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card as the host sees it: registers, doorbell pages and MSI-X table behind AXI4-Lite
//! (`ipa_front.sv`), and what management and registers tell each other.

use bitflags::bitflags;
use fpga_regs::registers::doorbell;

use super::{HostMemory, RtlCard, Stuck};

/// What registers say that only the management knows (`face_t`). Counters are those of its own work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Face {
    /// Nanoseconds since power-on.
    pub now: u64,
    /// Detail of the first fatal error.
    pub error_info: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Accesses that failed.
    pub dma_faults: u64,
    /// Commands that made no sense.
    pub bad_descriptors: u64,
    /// SAs active now.
    pub sas: u32,
    /// Events that found no room.
    pub events_dropped: u32,
    /// Errors noted.
    pub errors_logged: u32,
    /// Counts up while the management lives.
    pub heartbeat: u32,
    /// A code of `fpga_regs::registers::FatalCause`.
    pub error_cause: u32,
    /// SAs that it holds.
    pub max_sas: u32,
    /// Queue pairs that it has.
    pub max_queues: u32,
    /// It may sleep.
    pub sleeps: bool,
    /// Ports that lead anywhere: none, or three.
    pub ports: u32,
}

impl Face {
    pub(super) fn octets(&self) -> [u8; 76] {
        let words = [
            self.now,
            self.error_info,
            self.errors,
            self.dma_faults,
            self.bad_descriptors,
        ];
        let halves = [
            self.sas,
            self.events_dropped,
            self.errors_logged,
            self.heartbeat,
            self.error_cause,
            self.max_sas,
            self.max_queues,
            self.sleeps.into(),
            self.ports,
        ];
        let mut octets = [0; 76];
        let (front, back) = octets.split_at_mut(40);
        for (place, word) in front.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        for (place, half) in back.chunks_exact_mut(4).zip(halves) {
            place.copy_from_slice(&half.to_le_bytes());
        }
        octets
    }
}

/// What the host has set (`settings_t`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// IOVA of the admin queue's submission ring.
    pub admin_submissions: u64,
    /// Of its completion ring.
    pub admin_completions: u64,
    /// Of the event ring.
    pub events_base: u64,
    /// Entries of the admin queue.
    pub admin_depth: u32,
    /// Commands submitted so far, modulo 2^16.
    pub admin_tail: u32,
    /// Entries of the event ring.
    pub events_depth: u32,
    /// Events consumed so far, modulo 2^16.
    pub events_head: u32,
    /// Queues and events run.
    pub enable: bool,
}

impl Settings {
    fn read(octets: &[u8; 44]) -> Self {
        let half = |at: usize| {
            let mut half = [0; 4];
            half.copy_from_slice(&octets[at..at + 4]);
            u32::from_le_bytes(half)
        };
        let word = |at| u64::from(half(at)) | u64::from(half(at + 4)) << 32;
        Self {
            admin_submissions: word(0),
            admin_completions: word(8),
            events_base: word(16),
            admin_depth: half(24),
            admin_tail: half(28),
            events_depth: half(32),
            events_head: half(36),
            enable: half(40) & 1 != 0,
        }
    }
}

bitflags! {
    /// What the host has asked the management for by writing a register (`asked_t`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Asked: u8 {
        /// A reset.
        const RESET = 1 << 0;
        /// Keys zeroised.
        const ZEROISE = 1 << 1;
        /// The driver's memory forgotten.
        const DETACH = 1 << 2;
        /// To wake up.
        const WAKE = 1 << 3;
        /// To look at the admin queue.
        const ADMIN_TAIL = 1 << 4;
    }
}

/// Where the BARs lie behind the port, each of so many octets.
const BAR: u64 = 1 << 18;
pub(super) const BELLS: u64 = BAR;
pub(super) const TABLE: u64 = 2 * BAR;

/// Words of a doorbell page.
pub(super) const TAIL: u64 = doorbell::TAIL;
pub(super) const HEAD: u64 = doorbell::HEAD;
pub(super) const ARM: u64 = doorbell::ARM;

impl RtlCard {
    /// What registers say from now on.
    pub fn set_face(&mut self, face: &Face) {
        self.face = *face;
        self.model.set(self.ports.face, &face.octets());
    }

    /// What time it is: nanoseconds since power-on.
    pub fn set_time(&mut self, now: u64) {
        let face = Face { now, ..self.face };
        self.set_face(&face);
    }

    /// Reads a register of BAR 0.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn read_register(
        &mut self,
        offset: u64,
        memory: &mut dyn HostMemory,
    ) -> Result<u32, Stuck> {
        // The port is narrower than the BAR.
        if offset >= BAR {
            return Ok(0);
        }
        self.read(offset, memory)
    }

    /// Writes a register of BAR 0, and tells what is to be done about it.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn write_register(
        &mut self,
        offset: u64,
        value: u32,
        memory: &mut dyn HostMemory,
    ) -> Result<Asked, Stuck> {
        if offset >= BAR {
            return Ok(Asked::empty());
        }
        self.write(offset, value, 0xf, memory)?;
        Ok(std::mem::replace(&mut self.asked, Asked::empty()))
    }

    /// Writes a word of BAR 2.
    pub(super) fn write_bell(&mut self, offset: u64, value: u32, memory: &mut dyn HostMemory) {
        // A card that doesn't take it is stuck, and whatever waits for its work finds that out.
        let _ = self.write(offset | BELLS, value, 0xf, memory);
    }

    pub(super) fn read(&mut self, address: u64, memory: &mut dyn HostMemory) -> Result<u32, Stuck> {
        self.model.put(self.ports.axil_araddr, address);
        self.model.put(self.ports.axil_arvalid, 1);
        self.model.settle();
        self.until(memory, |card| card.model.high(card.ports.axil_arready))?;
        self.clock(memory);
        self.model.put(self.ports.axil_arvalid, 0);
        self.until(memory, |card| card.model.high(card.ports.axil_rvalid))?;
        let value = self.model.value(self.ports.axil_rdata) as u32;
        // The answer is taken.
        self.clock(memory);
        Ok(value)
    }

    /// Writes those octets of a word whose bit is set in `strobe`.
    pub(super) fn write(
        &mut self,
        address: u64,
        value: u32,
        strobe: u8,
        memory: &mut dyn HostMemory,
    ) -> Result<(), Stuck> {
        self.model.put(self.ports.axil_awaddr, address);
        self.model.put(self.ports.axil_wdata, value.into());
        self.model.put(self.ports.axil_wstrb, strobe.into());
        for valid in [self.ports.axil_awvalid, self.ports.axil_wvalid] {
            self.model.put(valid, 1);
        }
        self.model.settle();
        self.until(memory, |card| card.model.high(card.ports.axil_awready))?;
        self.clock(memory);
        for valid in [self.ports.axil_awvalid, self.ports.axil_wvalid] {
            self.model.put(valid, 0);
        }
        self.until(memory, |card| card.model.high(card.ports.axil_bvalid))?;
        // The answer is taken, and a pulse that comes a clock later seen.
        self.clock(memory);
        self.clock(memory);
        Ok(())
    }

    /// What the host has set.
    pub fn settings(&self) -> Settings {
        let mut octets = [0; 44];
        self.model.copy(self.ports.settings, &mut octets);
        Settings::read(&octets)
    }

    /// Moderation of each vector, as the register says it.
    pub fn moderation(&self) -> [u32; super::QUEUES as usize + 1] {
        let mut octets = [0; 4 * (super::QUEUES as usize + 1)];
        self.model.copy(self.ports.moderation, &mut octets);
        let mut values = [0; super::QUEUES as usize + 1];
        for (value, octets) in values.iter_mut().zip(octets.as_chunks().0) {
            *value = u32::from_le_bytes(*octets);
        }
        values
    }
}
