// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Built without feature `rtl`: there is no such engine.

use std::time::Duration;

use fpga_regs::registers::MailboxState;
use offload_api::sa::SaParams;

use super::BusTiming;
use crate::card::{Card, Core, Reset, Ring};
use crate::dma::DmaMap;
use crate::registers::Asked;

/// Nothing of this kind exists.
#[derive(Debug)]
pub(crate) enum Engine {}

impl Engine {
    pub(crate) fn new(_: BusTiming) -> Option<Self> {
        None
    }

    pub(crate) fn reset(&mut self, _: &DmaMap, _: Reset) {
        match *self {}
    }
}

impl Core {
    pub(crate) fn rtl_read_register(&mut self, _: u64, _: u32) -> Option<u32> {
        None
    }

    pub(crate) fn rtl_write_register(&mut self, _: u64, _: u32) -> Option<Asked> {
        None
    }

    pub(crate) fn rtl_raise(&mut self, _: usize, _: u32) {}

    pub(crate) fn rtl_next_due(&self) -> Option<Duration> {
        None
    }

    pub(crate) fn rtl_wire(&mut self, _: usize, _: bool) {}

    pub(crate) fn rtl_set_all_masked(&mut self, _: bool) {}

    pub(crate) fn rtl_read_table(&mut self, _: u64, _: &mut [u8]) -> bool {
        false
    }

    pub(crate) fn rtl_write_table(&mut self, _: u64, _: &[u8]) -> bool {
        false
    }

    pub(crate) fn rtl_rest(&mut self) {}

    pub(crate) fn rtl_delete_queues(&mut self) {}

    pub(crate) fn rtl_set_queue(&mut self, _: u16, _: Option<(&Ring, u8)>) {}

    pub(crate) fn rtl_look_at_queue(&mut self, _: u16) {}

    pub(crate) fn rtl_add(&mut self, _: (u32, u32), _: &SaParams, _: bool) {}

    pub(crate) fn rtl_mailbox(&mut self) -> MailboxState {
        MailboxState::Empty
    }

    pub(crate) fn rtl_clear_mailbox(&mut self) {}

    pub(crate) fn rtl_remove(&mut self, _: u32) {}

    pub(crate) fn rtl_pull(&mut self, _: (u32, u32), _: bool) {}

    pub(crate) fn rtl_push(&mut self, _: (u32, u32), _: bool) {}

    pub(crate) fn rtl_drain(&mut self, _: &Card) {}

    pub(crate) fn rtl_pull_timed(&mut self) {}

    pub(crate) fn rtl_push_timed(&mut self) {}
}

pub(crate) fn round(_: &Card) -> bool {
    false
}
