// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ESP header (RFC 4303 §2).

use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IP protocol number of ESP.
pub const PROTOCOL: u8 = 50;
/// Next header of a dummy packet (RFC 4303 §2.6).
pub const NEXT_HEADER_DUMMY: u8 = 59;

/// SPI and the low half of the sequence number.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Security parameters index.
    pub spi: U32,
    /// Low 32 bits of the sequence number.
    pub sequence: U32,
}

impl Header {
    /// Octets.
    pub const LEN: usize = size_of::<Self>();

    /// The header at the front of a packet.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        Self::read_from_prefix(packet)
            .ok()
            .map(|(header, _)| header)
    }
}
