// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a device that was not reset still carries: how a restarted host finds its SAs again.

use std::time::Duration;

use crate::sa::{
    Direction, Lifetimes, Mode, Numbering, OuterHeaders, SaHandle, SaParams, SaUsage, Spi, Suite,
};

/// An SA as its device tells it, without its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedSa {
    /// Its handle in the device.
    pub sa: SaHandle,
    /// The host's own name for it, as it was installed; 0 for none.
    pub cookie: u64,
    /// Security parameters index.
    pub spi: Spi,
    /// Which way.
    pub direction: Direction,
    /// Tunnel or transport.
    pub mode: Mode,
    /// Algorithms; nothing where the device names some that this host does not know.
    pub suite: Option<Suite>,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Each operation brings its number along.
    pub explicit: bool,
    /// Anti-replay window in packets.
    pub replay_window: u32,
    /// Outer headers.
    pub outer: Option<OuterHeaders>,
    /// Limits, counted from its installation in the device.
    pub lifetimes: Lifetimes,
    /// What it has done since.
    pub usage: SaUsage,
    /// Since its installation in the device.
    pub age: Duration,
    /// Outbound: the number that it would use next.
    pub next: u64,
    /// Outbound: the last number of its grant; less than `next` when it has run dry.
    pub granted: u64,
    /// It takes no new operations: somebody was about to retire it.
    pub draining: bool,
}

impl CarriedSa {
    /// Numbers left of its grant.
    pub fn left(&self) -> u64 {
        self.granted.saturating_add(1).saturating_sub(self.next)
    }

    /// What it was installed with, but for the keys, which nobody can read back: only good for knowing
    /// what it is.
    pub fn params(&self, suite: Suite) -> SaParams {
        SaParams {
            spi: self.spi,
            direction: self.direction,
            mode: self.mode,
            suite,
            keys: crate::sa::KeyMaterial {
                cipher: Default::default(),
                salt: Default::default(),
                integrity: Default::default(),
            },
            esn: self.esn,
            replay_window: self.replay_window,
            replay_state: None,
            numbering: if self.explicit {
                Numbering::Explicit
            } else {
                Numbering::Granted(None)
            },
            outer: self.outer,
            lifetimes: self.lifetimes,
            tfc_padding: false,
            selectors: Vec::new(),
        }
    }
}
