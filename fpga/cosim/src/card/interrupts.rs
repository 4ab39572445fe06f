// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interrupts: the MSI-X table, what makes a vector fire, and the messages that come of it
//! (`ipa_msix.sv`).

use super::front::{ARM, HEAD, TABLE};
use super::{HostMemory, QUEUES, RtlCard, Stuck};

/// Vectors that it has: 0 for the management, 1 + q for queue pair q.
pub const VECTORS: usize = QUEUES as usize + 1;

/// An interrupt, as it comes to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its vector.
    pub vector: u16,
    /// Where it is written, by the table.
    pub address: u64,
    /// What is.
    pub data: u32,
}

impl RtlCard {
    /// Reads a word of BAR 4.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn read_table(&mut self, offset: u64, memory: &mut dyn HostMemory) -> Result<u32, Stuck> {
        self.read(TABLE | offset, memory)
    }

    /// Writes those octets of a word of BAR 4 whose bit is set in `strobe`.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn write_table(
        &mut self,
        offset: u64,
        value: u32,
        strobe: u8,
        memory: &mut dyn HostMemory,
    ) -> Result<(), Stuck> {
        self.write(TABLE | offset, value, strobe, memory)
    }

    /// Masks all vectors, or ends that.
    pub fn set_all_masked(&mut self, masked: bool) {
        self.model.put(self.ports.msix_mask, masked.into());
    }

    /// The management's part of what makes a vector fire: entries that it has written, and whether the
    /// host wants to be told of them, or is only if it waits to be told anyhow.
    pub fn raise(&mut self, vector: usize, entries: u32, wants: bool, memory: &mut dyn HostMemory) {
        let ports = &self.ports;
        self.model.put(ports.raise_vector, vector as u64);
        let count = entries.min(u16::MAX.into());
        self.model.put(ports.raise_count, count.into());
        self.model.put(ports.raise_wants, wants.into());
        self.pulse(self.ports.raise_valid, memory);
    }

    /// The host asks for an interrupt of a queue, having consumed so many completions.
    pub fn arm(&mut self, queue: u16, head: u32, memory: &mut dyn HostMemory) {
        let page = u64::from(queue) << 12;
        self.write_bell(page | HEAD, head, memory);
        self.write_bell(page | ARM, 1, memory);
    }

    /// Lets all messages out that may be sent now.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn let_messages_out(&mut self, memory: &mut dyn HostMemory) -> Result<(), Stuck> {
        // Each vector has had its turn when nothing was offered for so long.
        let mut quiet = 0;
        self.until(memory, |card| {
            let offers = card.model.high(card.ports.msi_valid);
            quiet = if offers { 0 } else { quiet + 1 };
            quiet > VECTORS + 2
        })
    }

    /// Messages that were sent.
    pub fn take_message(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    /// Whether one is offered that the host has not taken.
    pub fn offers_message(&self) -> bool {
        self.model.high(self.ports.msi_valid)
    }

    /// Bits of the vectors that wait for their moderation.
    pub fn held(&self) -> u32 {
        self.model.value(self.ports.held) as u32
    }
}
