// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The physical function, as far as its virtual function hears of it: what it answers to messages.

use qat_regs::Generation;
use qat_regs::pfvf::{self, kind, octet, reset, service};

/// What the device can do: a version of the block, its length, services, and, from version 2 on, more.
const CAPABILITIES: [u8; 10] = [2, 8, 0, 0, 0, 0, 0x01, 0, 0, 0];

/// What the ring pairs of a Gen2 function do: two of both kinds of cryptography, none, compression.
const SERVICES_GEN2: u32 = service::BOTH | service::BOTH << 3 | service::COMPRESSION << 9;

/// An answer's type and data, and a ring pair that it resets.
pub(super) struct Answer {
    pub(super) said: Option<(u32, u32)>,
    pub(super) resets: Option<u32>,
}

/// Answers a message to a function with so many ring pairs that can be reset alone.
pub(super) fn answer(generation: Generation, said: Option<(u32, u32)>, pairs: u32) -> Answer {
    let none = Answer {
        said: None,
        resets: None,
    };
    let Some((kind, data)) = said else {
        return none;
    };
    let say = |kind, data| Answer {
        said: Some((kind, data)),
        resets: None,
    };
    let services = match generation {
        Generation::Gen2 => SERVICES_GEN2,
        _ => (0..pairs).fold(0, |map, pair| map | service::SYMMETRIC << (3 * pair)),
    };
    match kind {
        kind::VERSION_REQUEST => say(kind::VERSION, pfvf::VERSION | pfvf::COMPATIBLE << 8),
        kind::SMALL_BLOCK => say(kind::BLOCK_ANSWER, block(data, services)),
        kind::RING_PAIR_RESET if data < pairs => Answer {
            resets: Some(data),
            ..say(kind::RING_PAIR_RESET, reset::DONE)
        },
        kind::RING_PAIR_RESET => say(kind::RING_PAIR_RESET, reset::NO_SUCH_PAIR),
        // Starting and stopping are notices.
        _ => none,
    }
}

fn block(data: u32, services: u32) -> u32 {
    let (block, asked) = pfvf::asked(data);
    let [low, high, ..] = services.to_le_bytes();
    let services = [1, 2, low, high];
    let octets: &[u8] = match block {
        pfvf::BLOCK_CAPABILITIES => &CAPABILITIES,
        pfvf::BLOCK_RING_SERVICES => &services,
        _ => return pfvf::block_answer(octet::ERROR, 0),
    };
    match asked {
        None => pfvf::block_answer(octet::CRC, crc8(octets)),
        Some(number) => match octets.get(number as usize) {
            Some(value) => pfvf::block_answer(octet::DATA, *value),
            None => pfvf::block_answer(octet::ERROR, 0),
        },
    }
}

/// CRC-8 by the polynomial x^8 + x^2 + x + 1, from all ones.
fn crc8(octets: &[u8]) -> u8 {
    octets.iter().fold(0xff, |crc, octet| {
        (0..8).fold(crc ^ octet, |crc, _| {
            (crc << 1) ^ if crc & 0x80 == 0 { 0 } else { 0x07 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(word: u32) -> Answer {
        answer(Generation::Gen4, pfvf::parse(word), 4)
    }

    fn said(word: u32) -> u32 {
        let (kind, data) = asked(word).said.unwrap();
        pfvf::word(kind, data)
    }

    #[test]
    fn the_ring_map_says_symmetric_for_each_pair_and_nothing_beyond() {
        // The words that DPDK writes when it probes.
        assert_eq!(said(0x2327) >> 10 & 0xff, 0xdb);
        assert_eq!(said(0x3327) >> 10 & 0xff, 0x06);
        let beyond = pfvf::word(kind::SMALL_BLOCK, pfvf::small_block(3, 4));
        assert_eq!(pfvf::parse(said(beyond)), Some((kind::BLOCK_ANSWER, 2)));
    }

    #[test]
    fn a_ring_pair_that_is_not_there_is_not_reset() {
        assert_eq!(asked(0x343).resets, Some(3));
        let beyond = asked(0x443);
        assert_eq!(beyond.resets, None);
        assert_eq!(
            beyond.said,
            Some((kind::RING_PAIR_RESET, reset::NO_SUCH_PAIR))
        );
    }
}
