// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Registers, which the RTL has: what they say of the management's work, and what it does when they are
//! written.

use fpga_cosim::card::{Asked as AskedFor, Counters, Face};
use fpga_regs::registers::{
    Control, FatalCause, MailboxCommand, MailboxState, control, event_queue, key_mailbox,
};

use super::engine::Memory;
use crate::card::{CardCounters, Core};
use crate::registers::{Asked, moderated_vector};

/// What the management has counted, beside the data path.
fn beside(all: &CardCounters, data_path: &Counters) -> [u64; 3] {
    [
        all.errors.saturating_sub(data_path.errors),
        all.dma_faults.saturating_sub(data_path.dma_faults),
        all.bad_descriptors
            .saturating_sub(data_path.bad_descriptors),
    ]
}

impl Core {
    fn face(&self, counted: &Counters, heartbeat: u32) -> Face {
        let [errors, dma_faults, bad_descriptors] = beside(&self.counters, counted);
        Face {
            now: self.time(),
            error_info: self.fatal_info,
            errors,
            dma_faults,
            bad_descriptors,
            sas: self.sas.live(),
            events_dropped: self.events_dropped,
            errors_logged: self.errors.noted,
            heartbeat,
            error_cause: self.fatal as u32,
            max_sas: self.sas.capacity(),
            max_queues: self.queues.len() as u32,
            sleeps: !self.polls,
            ports: self.ports(),
        }
    }

    /// Reads a register of a card in RTL.
    pub(crate) fn rtl_read_register(&mut self, offset: u64, heartbeat: u32) -> Option<u32> {
        let face = self.face(&self.rtl.as_ref()?.seen, heartbeat);
        let engine = self.rtl.as_mut()?;
        engine.card.set_face(&face);
        let read = engine.card.read_register(offset, &mut Memory(&self.dma));
        let Ok(value) = read else {
            self.fail(FatalCause::Configuration, u64::MAX);
            return Some(u32::MAX);
        };
        Some(value)
    }

    /// What the mailbox of a card in RTL holds.
    pub(crate) fn rtl_mailbox(&mut self) -> MailboxState {
        let state = self.rtl_read_register(key_mailbox::STATUS, 0);
        state
            .and_then(MailboxState::from_code)
            .unwrap_or(MailboxState::Empty)
    }

    /// Zeroises the mailbox of a card in RTL.
    pub(crate) fn rtl_clear_mailbox(&mut self) {
        self.rtl_write_register(key_mailbox::COMMAND, MailboxCommand::CLEAR.bits());
    }

    /// Writes a register of a card in RTL, and takes over what that has set.
    pub(crate) fn rtl_write_register(&mut self, offset: u64, value: u32) -> Option<Asked> {
        let engine = self.rtl.as_mut()?;
        let written = engine
            .card
            .write_register(offset, value, &mut Memory(&self.dma));
        let Ok(asked) = written else {
            self.fail(FatalCause::Configuration, u64::MAX);
            return Some(Asked::default());
        };
        let set = engine.card.settings();
        if moderated_vector(offset).is_some() {
            for (vector, value) in engine.card.moderation().into_iter().enumerate() {
                self.irqs.set_moderation(vector, value);
            }
        }
        (self.admin.submissions, self.admin.completions) =
            (set.admin_submissions, set.admin_completions);
        (self.admin.depth, self.events.depth) = (set.admin_depth, set.events_depth);
        self.events.completions = set.events_base;
        if offset == event_queue::HEAD {
            self.events_head = set.events_head;
        }
        let control = (offset == control::CONTROL).then(|| {
            let mut control = Control::empty();
            control.set(Control::ENABLE, set.enable);
            control.set(Control::RESET, asked.contains(AskedFor::RESET));
            control.set(Control::ZEROISE, asked.contains(AskedFor::ZEROISE));
            control.set(Control::DETACH, asked.contains(AskedFor::DETACH));
            control
        });
        Some(Asked {
            control,
            admin_tail: asked
                .contains(AskedFor::ADMIN_TAIL)
                .then_some(set.admin_tail),
            wake: asked.contains(AskedFor::WAKE),
        })
    }
}
