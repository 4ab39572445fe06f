// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What shares UDP port 4500 (RFC 3948 §2).

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// UDP port of IKE.
pub const IKE_PORT: u16 = 500;
/// UDP port of IKE and ESP after a NAT was detected.
pub const NAT_PORT: u16 = 4500;
/// Precedes IKE on port 4500.
pub const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// The one octet of a keepalive.
pub const KEEPALIVE: u8 = 0xff;

/// What a datagram on port 4500 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'datagram> {
    /// An ESP packet.
    Esp,
    /// An IKE message, without the marker.
    Ike(&'datagram [u8]),
    /// A NAT keepalive.
    Keepalive,
    /// Too short for anything.
    Runt,
}

/// Tells ESP, IKE and keepalives apart.
pub fn classify(datagram: &[u8]) -> Kind<'_> {
    match datagram {
        [KEEPALIVE] => Kind::Keepalive,
        [0, 0, 0, 0, ike @ ..] => Kind::Ike(ike),
        [_, _, _, _, _, _, _, _, _, ..] => Kind::Esp,
        _ => Kind::Runt,
    }
}

/// A UDP header (RFC 768).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    /// Source port.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// Octets with this header.
    pub len: U16,
    /// Zero: none, as RFC 3948 §2.1 wants for ESP over IPv4.
    pub checksum: U16,
}

impl UdpHeader {
    /// Octets.
    pub const LEN: usize = size_of::<Self>();

    /// The header at the front of a packet.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        Self::read_from_prefix(packet)
            .ok()
            .map(|(header, _)| header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_tells_ike_from_esp() {
        assert_eq!(classify(&[0xff]), Kind::Keepalive);
        assert_eq!(classify(&[0, 0, 0, 0, 7]), Kind::Ike(&[7]));
        assert_eq!(classify(&[0, 0, 1, 0, 0, 0, 0, 1, 9]), Kind::Esp);
        assert_eq!(classify(&[1, 2]), Kind::Runt);
        assert_eq!(classify(&[]), Kind::Runt);
    }
}
