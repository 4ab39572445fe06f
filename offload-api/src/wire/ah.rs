// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The Authentication Header (RFC 4302 §2).

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IP protocol number of AH.
pub const PROTOCOL: u8 = 51;

/// The fixed part; the ICV and its padding follow.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Protocol of what follows.
    pub next_header: u8,
    /// Length of the whole header in words of 32 bits, minus 2.
    pub payload_len: u8,
    /// Zero.
    pub reserved: U16,
    /// Security parameters index.
    pub spi: U32,
    /// Low 32 bits of the sequence number.
    pub sequence: U32,
}

impl Header {
    /// Octets of the fixed part.
    pub const LEN: usize = size_of::<Self>();

    /// The header at the front of a packet.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        Self::read_from_prefix(packet)
            .ok()
            .map(|(header, _)| header)
    }

    /// Octets of the whole header by its own word.
    pub fn whole_len(&self) -> usize {
        (usize::from(self.payload_len) + 2) * 4
    }
}
