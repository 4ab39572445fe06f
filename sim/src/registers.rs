// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What BAR 0 reads as, and what writing it does where that has no action of its own. A card in RTL has
//! registers of its own (`crate::rtl`).

use fpga_regs::context::suite_bit;
use fpga_regs::port::PortRole;
use fpga_regs::registers::{
    ABI_VERSION, CardFeatures, CardStatus, Control, FatalCause, MAGIC_VALUE, admin_queue, control,
    event_queue, identity, interrupt, key_mailbox, statistics,
};
use offload_api::replay::WINDOW_MAX;
use offload_api::sa::{Cipher, Suite};

use crate::card::{Core, MAX_DEPTH, MAX_PACKET};
use crate::gather::MAX_GATHER;
use crate::rtl;

/// What a write to a register asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Queues started or stopped, a reset, keys zeroised, memory forgotten.
    pub(crate) control: Option<Control>,
    /// Commands submitted so far.
    pub(crate) admin_tail: Option<u32>,
    /// To wake up.
    pub(crate) wake: bool,
}

impl Core {
    /// Reads a register; a 64-bit one's low half latches its high one.
    pub(crate) fn read_register(&mut self, offset: u64) -> u32 {
        if offset % 8 == 4 && self.wide(offset - 4).is_some() {
            return self.latch;
        }
        if let Some(value) = self.wide(offset) {
            self.latch = (value >> 32) as u32;
            return value as u32;
        }
        match offset {
            identity::MAGIC => MAGIC_VALUE,
            identity::VERSION => ABI_VERSION,
            identity::FEATURES => self.features().bits(),
            identity::PORTS => self.ports(),
            identity::MAX_RULES => self.max_rules(),
            identity::MAX_SAS => self.sas.capacity(),
            identity::MAX_QUEUES => self.queues.len() as u32,
            identity::MAX_DEPTH => MAX_DEPTH,
            identity::MAX_PACKET => self.max_packet(),
            identity::MAX_GATHER => MAX_GATHER as u32,
            identity::MAX_WINDOW => WINDOW_MAX,
            identity::VECTORS => self.irqs.count(),
            identity::FUNCTION => self.number.into(),
            identity::FUNCTIONS => self.of.into(),
            control::CONTROL => self.control.bits(),
            control::STATUS => self.status().bits(),
            control::ERROR_CAUSE => self.fatal as u32,
            control::ERRORS_LOGGED => self.errors.noted,
            admin_queue::DEPTH => self.admin.depth,
            event_queue::DEPTH => self.events.depth,
            event_queue::DROPPED => self.events_dropped,
            key_mailbox::STATUS => self.mailbox.state() as u32,
            _ => moderated_vector(offset).map_or(0, |vector| self.irqs.moderation(vector)),
        }
    }

    fn wide(&self, offset: u64) -> Option<u64> {
        Some(match offset {
            identity::BUILD => u64::from_le_bytes(*b"sim 0.1\0"),
            identity::SUITES => Suite::all()
                .filter(|suite| self.carries(*suite))
                .fold(0, |bits, suite| {
                    bits | 1 << suite_bit(suite.cipher() as u8, suite.integrity() as u8)
                }),
            identity::TIME => self.time(),
            control::ERROR_INFO => self.fatal_info,
            admin_queue::SUBMISSION_BASE => self.admin.submissions,
            admin_queue::COMPLETION_BASE => self.admin.completions,
            event_queue::BASE => self.events.completions,
            statistics::SEALED => self.counters.sealed,
            statistics::SEALED_BYTES => self.counters.sealed_bytes,
            statistics::OPENED => self.counters.opened,
            statistics::OPENED_BYTES => self.counters.opened_bytes,
            statistics::ERRORS => self.counters.errors,
            statistics::DMA_FAULTS => self.counters.dma_faults,
            statistics::SAS => self.sas.live().into(),
            statistics::BAD_DESCRIPTORS => self.counters.bad_descriptors,
            statistics::INTERRUPTS => self.irqs.fired,
            _ => return None,
        })
    }

    /// Ports of its own: none, or all.
    pub(crate) fn ports(&self) -> u32 {
        match self.inline {
            Some(_) => PortRole::ALL.len() as u32,
            None => 0,
        }
    }

    fn max_rules(&self) -> u32 {
        let inline = self.inline.as_ref();
        inline.map_or(0, |inline| inline.rules.capacity() as u32)
    }

    /// Largest packet, sealed or not.
    pub(crate) fn max_packet(&self) -> u32 {
        match self.rtl {
            Some(_) => rtl::MAX_PACKET,
            None => MAX_PACKET,
        }
    }

    /// Whether the data path has a suite.
    pub(crate) fn carries(&self, suite: Suite) -> bool {
        self.rtl.is_none() || matches!(suite.cipher(), Cipher::Aes128Gcm | Cipher::Aes256Gcm)
    }

    fn features(&self) -> CardFeatures {
        let mut features = CardFeatures::all();
        features.set(CardFeatures::FAULT_INJECTION, !self.faults.is_empty());
        features.set(CardFeatures::INLINE, self.inline.is_some());
        features.set(CardFeatures::SLEEPS, !self.polls);
        features.set(CardFeatures::NULL_CRYPTO, self.null_crypto);
        features
    }

    fn status(&self) -> CardStatus {
        if self.fatal != FatalCause::None {
            CardStatus::FATAL
        } else if self.control.contains(Control::ENABLE) {
            CardStatus::READY
        } else {
            CardStatus::empty()
        }
    }

    /// Writes a register; what that asks for is the caller's to do.
    pub(crate) fn write_register(&mut self, offset: u64, value: u32) -> Asked {
        match offset {
            control::CONTROL => Asked {
                control: Some(Control::from_bits_truncate(value)),
                ..Asked::default()
            },
            control::WAKE => Asked {
                wake: true,
                ..Asked::default()
            },
            admin_queue::TAIL => Asked {
                admin_tail: Some(value),
                ..Asked::default()
            },
            _ => {
                self.set_register(offset, value);
                Asked::default()
            }
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        // Rings are set up before the card is enabled, never under its feet.
        let idle = !self.control.contains(Control::ENABLE);
        let halves = [
            (admin_queue::SUBMISSION_BASE, &mut self.admin.submissions),
            (admin_queue::COMPLETION_BASE, &mut self.admin.completions),
            (event_queue::BASE, &mut self.events.completions),
        ];
        for (register, field) in halves {
            if idle && offset == register {
                *field = (*field & !0xffff_ffff) | u64::from(value);
            } else if idle && offset == register + 4 {
                *field = (*field & 0xffff_ffff) | u64::from(value) << 32;
            }
        }
        match offset {
            admin_queue::DEPTH if idle => self.admin.depth = value,
            event_queue::DEPTH if idle => self.events.depth = value,
            event_queue::HEAD => self.events_head = value & 0xffff,
            key_mailbox::KEY..=key_mailbox::COMMAND => self.mailbox.write(offset, value),
            _ => {
                if let Some(vector) = moderated_vector(offset) {
                    self.irqs.set_moderation(vector, value);
                }
            }
        }
    }
}

pub(crate) fn moderated_vector(offset: u64) -> Option<usize> {
    let vector = offset.checked_sub(interrupt::MODERATION)? / 4;
    (offset.is_multiple_of(4) && vector < interrupt::VECTORS).then_some(vector as usize)
}
