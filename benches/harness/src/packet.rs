// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The SAs and packets of benchmarks.

use offload_api::frame::Frame;
use offload_api::queue::Op;
use offload_api::sa::{
    Direction, Grant, KeyMaterial, Mode, Numbering, SaHandle, SaParams, Spi, Suite,
};
use offload_api::wire::esp::Header;
use offload_api::wire::ip::PROTOCOL_IPV4;

use crate::case::Level;

/// Octets of an IPv4 header: the least that a packet has.
pub const LEAST: usize = 20;

/// The benchmarks' SA of this number, in tunnel mode without outer headers: each has its own SPI and
/// keys. Outbound it has every sequence number. Inbound it has no window and no extended numbers, so that
/// packets may come again: an extended number is taken for the next one like it (RFC 4303 §A2.2).
///
/// # Panics
/// Never: the keys have the suite's lengths, and the SPI is not reserved.
#[allow(clippy::expect_used)]
pub fn sa(direction: Direction, suite: Suite, number: u32) -> SaParams {
    let octets = |len: usize, first: u32| -> Vec<u8> {
        let each = 0..len as u32;
        each.map(|n| n.wrapping_add(first) as u8).collect()
    };
    let key = octets(suite.cipher_key_len() + suite.salt_len(), number);
    let integrity_key = octets(suite.integrity_key_len(), number.wrapping_add(100));
    let numbering = match direction {
        Direction::Outbound => Some(Grant {
            first: 1,
            last: u64::MAX,
        }),
        Direction::Inbound => None,
    };
    SaParams {
        numbering: Numbering::Granted(numbering),
        esn: direction == Direction::Outbound,
        replay_window: 0,
        ..SaParams::tunnel(
            Spi::new(0x1000 + (number & 0x0fff_ffff)).expect("not zero"),
            direction,
            suite,
            KeyMaterial::from_keymat(suite, &key, &integrity_key).expect("lengths are the suite's"),
        )
    }
}

/// As [`sa`], of which so much is the engine's.
pub fn sa_at(level: Level, direction: Direction, suite: Suite, number: u32) -> SaParams {
    let sa = sa(direction, suite, number);
    match (level, direction) {
        (Level::Packet, _) => sa,
        (Level::Crypto, Direction::Inbound) => SaParams {
            mode: Mode::Crypto,
            ..sa
        },
        (Level::Crypto, Direction::Outbound) => SaParams {
            mode: Mode::Crypto,
            esn: false,
            numbering: Numbering::Explicit,
            ..sa
        },
    }
}

/// ESP header, IV, and so many octets to be enciphered: an IPv4 packet that takes no padding, and its
/// trailer (RFC 4303 §2.4).
pub fn framed(sa: &SaParams, len: usize) -> Vec<u8> {
    let mut octets = sa.spi.value().to_be_bytes().to_vec();
    octets.resize(Header::LEN + sa.suite.iv_len(), 1);
    octets.extend(inner(len.saturating_sub(2)));
    octets.extend([0, PROTOCOL_IPV4]);
    octets
}

/// An IPv4 packet of `len` octets, [`LEAST`] at least.
pub fn inner(len: usize) -> Vec<u8> {
    let len = len.clamp(LEAST, usize::from(u16::MAX));
    let mut packet = vec![0x5a; len];
    let [high, low] = (len as u16).to_be_bytes();
    packet[..LEAST].copy_from_slice(&[
        0x45, 0, high, low, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
    ]);
    packet
}

/// An operation without a number of its own.
#[inline]
pub fn op(sa: SaHandle, frame: Frame) -> Op {
    Op::new(sa, frame, 0)
}
