// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an engine's own tests send, and through which SA.

use crate::sa::{Direction, KeyMaterial, SaParams, Spi, Suite};

/// An SA in tunnel mode with AES-GCM and a fixed key: both ends of an SPI have the same.
///
/// # Panics
/// No SA has this SPI (RFC 4303 §2.1).
pub fn tunnel(spi: u32, direction: Direction) -> SaParams {
    let suite = Suite::AES_128_GCM;
    SaParams::tunnel(
        Spi::new(spi).unwrap(),
        direction,
        suite,
        KeyMaterial::from_keymat(suite, &[7; 20], &[]).unwrap(),
    )
}

/// An IPv4 packet with so many octets of `fill` behind its header.
pub fn inner_packet(len: usize, fill: u8) -> Vec<u8> {
    let total = (20 + len as u16).to_be_bytes();
    let mut packet = vec![
        0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
    ];
    packet.resize(20 + len, fill);
    packet
}
