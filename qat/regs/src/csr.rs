// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Registers of a bundle of rings, 32 bits each.

use crate::Generation;

/// Where a generation has its ring registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Octets from one bundle to the next.
    pub bundle: u64,
    /// Bundles.
    pub bundles: u32,
    /// Rings of a bundle: the first half takes requests, the other gives responses.
    pub rings: u32,
    /// First ring's configuration.
    pub config: u64,
    /// First ring's base address, low half.
    pub base_low: u64,
    /// First ring's base address, high half.
    pub base_high: u64,
    /// Bits that a base address is shifted right in its registers.
    pub base_shift: u32,
}

impl Layout {
    /// The layout of a generation.
    pub const fn of(generation: Generation) -> Self {
        match generation {
            Generation::Gen2 => Self {
                bundle: 0x1000,
                bundles: 1,
                rings: 16,
                config: 0x000,
                base_low: 0x040,
                base_high: 0x080,
                base_shift: 6,
            },
            Generation::Gen4 | Generation::Virtual => Self {
                bundle: 0x2000,
                bundles: 4,
                rings: 2,
                config: 0x1000,
                base_low: 0x1040,
                base_high: 0x1080,
                base_shift: 0,
            },
        }
    }

    /// Request rings of a bundle that do symmetric cryptography whatever anybody says.
    pub const fn symmetric(generation: Generation) -> &'static [u32] {
        match generation {
            Generation::Gen2 => &[2, 3],
            Generation::Gen4 | Generation::Virtual => &[0],
        }
    }

    /// The ring that gives the responses to the requests of this one.
    pub const fn response_ring(&self, request: u32) -> u32 {
        request + self.rings / 2
    }

    /// Octets of the BAR, as small as it may be.
    pub const fn bar_size(&self) -> u64 {
        self.bundle * self.bundles as u64
    }
}

/// A ring's head: octets from its base up to where its reader is.
pub const HEAD: u64 = 0x0c0;
/// A ring's tail: octets from its base up to where its writer is. Writing that of a request ring is
/// the doorbell.
pub const TAIL: u64 = 0x100;
/// One bit a ring: empty.
pub const EMPTY_STATUS: u64 = 0x14c;
/// One bit a ring: an interrupt is due. Written, ones clear.
pub const INTERRUPT_FLAG: u64 = 0x170;
/// What makes a ring's interrupt.
pub const INTERRUPT_SOURCE: u64 = 0x174;
/// As [`INTERRUPT_SOURCE`], of the rings from the eighth on.
pub const INTERRUPT_SOURCE_UPPER: u64 = 0x178;
/// One bit a ring: its interrupts are on.
pub const INTERRUPT_ENABLE: u64 = 0x17c;
/// Coalescing: bit 31 is on, the low bits are its timer.
pub const INTERRUPT_TIMER: u64 = 0x180;
/// Written, clears the flags and sets [`INTERRUPT_ENABLE`].
pub const INTERRUPT_FLAG_AND_ENABLE: u64 = 0x184;
/// One bit a request ring: the arbiter serves it.
pub const ARBITER: u64 = 0x19c;

/// Coalescing is on.
pub const TIMER_ON: u32 = 1 << 31;
/// The shortest coalescing time.
pub const TIMER_LEAST: u32 = 0x1ff;
/// Interrupts by responses that wait, for both rings of a Gen4 bundle.
pub const SOURCE_GEN4: u32 = 0x44;
/// Interrupts by responses that wait, for eight rings of a Gen2 bundle.
pub const SOURCE_GEN2: u32 = 0x4444_4444;

/// The least and the largest size codes that a driver may use for a ring.
pub const SIZE_CODES: std::ops::RangeInclusive<u32> = 1..=16;
const SIZE_MASK: u32 = 0x1f;
/// A response ring is nearly full from 512 octets of room on.
const RESPONSE_WATERMARKS: u32 = 8 << 10;

/// Octets of a ring with this configuration, unless its size makes no sense.
pub fn ring_octets(config: u32) -> Option<u64> {
    let code = config & SIZE_MASK;
    SIZE_CODES.contains(&code).then(|| 64 << code)
}

/// The configuration of a request ring of so many octets, a power of two.
pub fn request_config(octets: u64) -> u32 {
    (octets / 64).trailing_zeros()
}

/// The configuration of a response ring of so many octets, a power of two.
pub fn response_config(octets: u64) -> u32 {
    RESPONSE_WATERMARKS | request_config(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_that_dpdk_was_seen_to_write() {
        // 2048 descriptors: 128 octets of request, 32 of response each.
        assert_eq!(request_config(2048 * 128), 0x0c);
        assert_eq!(response_config(2048 * 32), 0x200a);
        assert_eq!(request_config(256 * 128), 0x09);
        assert_eq!(response_config(256 * 32), 0x2007);
        assert_eq!(ring_octets(0x200a), Some(2048 * 32));
        assert_eq!((ring_octets(0), ring_octets(17)), (None, None));
    }
}
