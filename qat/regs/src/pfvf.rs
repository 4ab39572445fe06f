// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages between a Gen4 virtual function and its physical function: a word each way, in the
//! miscellaneous BAR.
//!
//! Bit 0 says that the word waits to be read (its reader clears it), bit 1 where it comes from, bits
//! 2 to 7 have its type, the rest its data.

/// What the physical function says.
pub const FROM_PF: u64 = 0x1008;
/// What the virtual function says.
pub const TO_PF: u64 = 0x100c;

/// The word waits to be read.
pub const WAITS: u32 = 1 << 0;
/// The word is of these rules, not of older ones.
pub const ORIGIN: u32 = 1 << 1;

/// Types of messages.
pub mod kind {
    /// The answer to a version request: version in the low eight bits of data, then the verdict.
    pub const VERSION: u32 = 2;
    /// One octet of a block.
    pub const BLOCK_ANSWER: u32 = 3;
    /// The virtual function starts.
    pub const START: u32 = 3;
    /// The virtual function stops.
    pub const STOP: u32 = 4;
    /// Which version of these rules the virtual function knows.
    pub const VERSION_REQUEST: u32 = 6;
    /// Asks for an octet of a small block: the block in the low four bits of data, then the octet.
    pub const SMALL_BLOCK: u32 = 9;
    /// Resets a ring pair, by its number; and the answer, by a verdict.
    pub const RING_PAIR_RESET: u32 = 0x10;
}

/// The version of these rules that both sides here speak.
pub const VERSION: u32 = 5;
/// A version's verdict: both sides can go on.
pub const COMPATIBLE: u32 = 1;
/// A version's verdict: they can't.
pub const INCOMPATIBLE: u32 = 2;

/// The block of what the device can do.
pub const BLOCK_CAPABILITIES: u32 = 2;
/// The block of what each ring pair does.
pub const BLOCK_RING_SERVICES: u32 = 3;

/// Verdicts on a ring pair's reset.
pub mod reset {
    /// Done.
    pub const DONE: u32 = 0;
    /// There is no such ring pair.
    pub const NO_SUCH_PAIR: u32 = 2;
}

/// What a block's octet comes as.
pub mod octet {
    /// The octet that was asked for.
    pub const DATA: u32 = 0;
    /// The block's CRC.
    pub const CRC: u32 = 1;
    /// There is none.
    pub const ERROR: u32 = 2;
}

/// The low bit of data that asks for a block's CRC instead of an octet.
const ASKS_CRC: u32 = 1 << 9;

/// Services of a ring pair.
pub mod service {
    /// Symmetric and asymmetric cryptography.
    pub const BOTH: u32 = 1;
    /// Compression.
    pub const COMPRESSION: u32 = 2;
    /// Symmetric cryptography.
    pub const SYMMETRIC: u32 = 3;
}

/// A word to be read.
pub const fn word(kind: u32, data: u32) -> u32 {
    WAITS | ORIGIN | kind << 2 | data << 8
}

/// A word's type and data, if it waits to be read.
pub const fn parse(word: u32) -> Option<(u32, u32)> {
    if word & WAITS == 0 {
        return None;
    }
    Some((word >> 2 & 0x3f, word >> 8))
}

/// Data that asks for an octet of a small block.
pub const fn small_block(block: u32, octet: u32) -> u32 {
    block | octet << 4
}

/// What data asks of a small block: the block, and an octet of it or nothing for its CRC.
pub const fn asked(data: u32) -> (u32, Option<u32>) {
    let octet = if data & ASKS_CRC == 0 {
        Some(data >> 4 & 0x1f)
    } else {
        None
    };
    (data & 0xf, octet)
}

/// Data of a block's answer.
pub const fn block_answer(kind: u32, value: u8) -> u32 {
    kind | (value as u32) << 2
}

/// The octet of a block's answer, if it is one.
pub const fn answered(data: u32) -> Option<u8> {
    if data & 3 == octet::DATA {
        Some((data >> 2) as u8)
    } else {
        None
    }
}

/// The service of a ring pair by the map of all four.
pub const fn service_of(map: u16, pair: u32) -> u32 {
    (map as u32) >> (3 * pair) & 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_that_dpdk_was_seen_to_write() {
        let octet = |n| word(kind::SMALL_BLOCK, small_block(BLOCK_RING_SERVICES, n));
        assert_eq!((octet(2), octet(3)), (0x2327, 0x3327));
        assert_eq!(word(kind::RING_PAIR_RESET, 3), 0x343);
        assert_eq!(parse(0x3327), Some((kind::SMALL_BLOCK, 0x33)));
        assert_eq!(asked(0x33), (BLOCK_RING_SERVICES, Some(3)));
        assert_eq!(parse(0x3326), None);
        let symmetric = (0..4).all(|pair| service_of(0x6db, pair) == service::SYMMETRIC);
        assert!(symmetric);
    }
}
