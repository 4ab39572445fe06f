// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was done for packets, for the queue pair's counts.

use offload_api::device::Counters;

/// A queue pair's, or of a part of a burst.
#[derive(Default)]
pub(crate) struct Totals {
    sealed: u64,
    sealed_bytes: u64,
    opened: u64,
    opened_bytes: u64,
    pub(crate) errors: u64,
}

impl Totals {
    #[inline]
    pub(crate) fn add(&mut self, inbound: bool, octets: usize) {
        self.add_run(inbound, 1, octets as u64);
    }

    #[inline]
    pub(crate) fn add_run(&mut self, inbound: bool, packets: u64, octets: u64) {
        if inbound {
            self.opened += packets;
            self.opened_bytes += octets;
        } else {
            self.sealed += packets;
            self.sealed_bytes += octets;
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.sealed += other.sealed;
        self.sealed_bytes += other.sealed_bytes;
        self.opened += other.opened;
        self.opened_bytes += other.opened_bytes;
        self.errors += other.errors;
    }

    pub(crate) fn add_to(&self, counters: &mut Counters) {
        counters.sealed += self.sealed;
        counters.sealed_bytes += self.sealed_bytes;
        counters.opened += self.opened;
        counters.opened_bytes += self.opened_bytes;
        counters.errors += self.errors;
    }
}
