// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card whose data path and registers are the verilated RTL (`fpga/rtl/ipa_card.sv`). What a
//! management processor would do on a card (admin and event queue, the SA table's upkeep, interrupts) is
//! done by the same code as in the functional model; descriptors and packets only the RTL touches.

#[cfg(not(feature = "rtl"))]
mod absent;
#[cfg(feature = "rtl")]
mod engine;
#[cfg(feature = "rtl")]
mod front;
#[cfg(feature = "rtl")]
mod interrupts;
#[cfg(feature = "rtl")]
mod ports;
#[cfg(feature = "rtl")]
mod sas;

#[cfg(not(feature = "rtl"))]
pub(crate) use absent::{Engine, round};
#[cfg(feature = "rtl")]
pub(crate) use engine::{Engine, round};
#[cfg(feature = "rtl")]
pub(crate) use ports::Frames;

/// How the bus of a card in RTL behaves, in clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusTiming {
    /// Clocks from a request to its answer.
    pub latency: u32,
    /// Further clocks at random, which mix the answers' order.
    pub jitter: u32,
    /// Of 256 clocks, how many the host is not ready, or has no answer to give.
    pub hesitation: u8,
    /// Of 65,536 reads, how many are never answered.
    pub silence: u16,
    /// A read that is not answered within two to three times 2 to this power clocks fails; 8 at least.
    pub patience: u8,
    /// What randomness starts from.
    pub seed: u64,
}

impl Default for BusTiming {
    /// A bus that answers soon, so that the simulation is as quick as can be.
    fn default() -> Self {
        Self {
            latency: 4,
            jitter: 0,
            hesitation: 0,
            silence: 0,
            patience: 20,
            seed: 1,
        }
    }
}

/// Largest packet, sealed or not.
pub(crate) const MAX_PACKET: u32 = 16384;
/// Largest replay window.
pub(crate) const MAX_WINDOW: u32 = 1024;
/// SAs that it holds.
pub(crate) const MAX_SAS: u32 = 4096;
#[cfg(feature = "rtl")]
const _: () = assert!(MAX_SAS == fpga_cosim::card::SAS);
/// Rules that it holds.
pub(crate) const MAX_RULES: usize = 256;
/// Queue pairs that it has.
pub(crate) const MAX_QUEUES: u16 = 8;

/// Splitmix64.
#[cfg(all(test, feature = "rtl"))]
pub(crate) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
