// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An Intel QAT virtual function in software: lookaside cryptography behind rings, without SAs.
//!
//! [`Vf`] is the function without a bus. [`SimulatedQat`] puts it on vfio-user; the tests put it under
//! DPDK's own driver, which is what it is measured by.

mod backend;
mod cipher;
mod gcm;
mod hash;
mod job;
mod pf;
mod running;
mod vf;

pub use qat_regs::Generation;
pub use running::{QatConfig, SimulatedQat};
pub use vf::{Counters, Served, Vf};

use std::sync::atomic::Ordering;

use crate::dma::DmaMap;
use crate::handshake::Memory;

/// The host's memory as the function reaches it. Each access succeeds as a whole or says that it
/// did not.
pub trait HostMemory {
    /// Copies memory in.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;

    /// Copies memory out.
    fn write(&self, address: u64, from: &[u8]) -> bool;

    /// Stores eight aligned octets at once, after everything written before.
    fn publish(&self, address: u64, value: u64) -> bool;
}

impl HostMemory for DmaMap {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        Self::read(self, address, into).is_ok()
    }

    fn write(&self, address: u64, from: &[u8]) -> bool {
        Self::write(self, address, from).is_ok()
    }

    fn publish(&self, address: u64, value: u64) -> bool {
        self.store(address, value, Ordering::Release).is_ok()
    }
}
