// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What IPsec needs to know of an IPv4 or IPv6 packet, and how it writes outer headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Next header of IPv4 in IP.
pub const PROTOCOL_IPV4: u8 = 4;
/// Next header of IPv6 in IP.
pub const PROTOCOL_IPV6: u8 = 41;
/// UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// TCP.
pub const PROTOCOL_TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// IPv6 extension headers that are followed, at most.
const MAX_EXTENSIONS: usize = 8;
const DONT_FRAGMENT: u16 = 0x4000;

/// An IPv4 header without options (RFC 791 §3.1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version and header length in words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Octets with this header.
    pub total_len: U16,
    /// Identification.
    pub id: U16,
    /// Flags and fragment offset.
    pub fragment: U16,
    /// Time to live.
    pub ttl: u8,
    /// Next protocol.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: U16,
    /// Source.
    pub source: [u8; 4],
    /// Destination.
    pub destination: [u8; 4],
}

/// An IPv6 header (RFC 8200 §3).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version, traffic class, flow label.
    pub version_class_flow: U32,
    /// Octets behind this header.
    pub payload_len: U16,
    /// Next header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub source: [u8; 16],
    /// Destination.
    pub destination: [u8; 16],
}

impl Ipv4Header {
    /// Octets without options.
    pub const LEN: usize = size_of::<Self>();
}

impl Ipv6Header {
    /// Octets.
    pub const LEN: usize = size_of::<Self>();
}

/// What a packet says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Upper-layer protocol, behind extension headers.
    pub protocol: u8,
    /// Where the upper layer starts.
    pub header_len: usize,
    /// Where transport mode inserts ESP: behind the headers that routers look at (RFC 4303 §3.1.1).
    pub esp_offset: usize,
    /// Offset of the octet that holds the protocol of what lies at `esp_offset`.
    pub protocol_field: usize,
    /// That protocol.
    pub protected_protocol: u8,
    /// Octets of the packet by its own word.
    pub total_len: usize,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// IPv4's don't-fragment flag (always so in IPv6).
    pub dont_fragment: bool,
    /// Whether it is a fragment.
    pub fragment: bool,
    /// Source and destination port, where the protocol has some and they are there.
    pub ports: Option<(u16, u16)>,
}

/// Why it is no IP packet.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum IpError {
    /// Neither version 4 nor 6.
    #[error("IP version {found}")]
    Version {
        /// What it says.
        found: u8,
    },
    /// It ends within its headers, or before the length that it tells.
    #[error("IP packet of {found} octets, expected at least {expected}")]
    Truncated {
        /// Octets needed.
        expected: usize,
        /// Octets there.
        found: usize,
    },
    /// A header length under the minimum.
    #[error("malformed IP header")]
    Malformed,
}

impl Facts {
    /// Reads a packet. Octets behind its own length are left alone.
    ///
    /// # Errors
    /// [`IpError`].
    pub fn of(packet: &[u8]) -> Result<Self, IpError> {
        Self::of_part(packet, packet.len())
    }

    /// As [`of`](Self::of), of a packet of `len` octets whose headers are all in this first part.
    ///
    /// # Errors
    /// [`IpError`].
    pub fn of_part(packet: &[u8], len: usize) -> Result<Self, IpError> {
        match packet.first().map(|octet| octet >> 4) {
            Some(4) => Self::of_v4(packet, len),
            Some(6) => Self::of_v6(packet, len),
            Some(found) => Err(IpError::Version { found }),
            None => Err(IpError::Truncated {
                expected: Ipv4Header::LEN,
                found: 0,
            }),
        }
    }

    fn of_v4(packet: &[u8], len: usize) -> Result<Self, IpError> {
        let truncated = |expected| IpError::Truncated {
            expected,
            found: packet.len(),
        };
        let (header, _) =
            Ipv4Header::read_from_prefix(packet).map_err(|_| truncated(Ipv4Header::LEN))?;
        let header_len = usize::from(header.version_ihl & 0x0f) * 4;
        let total_len = usize::from(header.total_len.get());
        if header_len < Ipv4Header::LEN || total_len < header_len {
            return Err(IpError::Malformed);
        }
        if len < total_len || packet.len() < header_len {
            return Err(truncated(total_len));
        }
        let fragment_field = header.fragment.get();
        let fragment = fragment_field & 0x3fff != 0;
        let first = fragment_field & 0x1fff == 0;
        Ok(Self {
            source: Ipv4Addr::from(header.source).into(),
            destination: Ipv4Addr::from(header.destination).into(),
            protocol: header.protocol,
            header_len,
            esp_offset: header_len,
            protocol_field: 9,
            protected_protocol: header.protocol,
            total_len,
            traffic_class: header.traffic_class,
            dont_fragment: fragment_field & DONT_FRAGMENT != 0,
            fragment,
            ports: if first {
                ports(packet, header_len, header.protocol)
            } else {
                None
            },
        })
    }

    fn of_v6(packet: &[u8], packet_len: usize) -> Result<Self, IpError> {
        let truncated = |expected| IpError::Truncated {
            expected,
            found: packet.len(),
        };
        let (header, _) =
            Ipv6Header::read_from_prefix(packet).map_err(|_| truncated(Ipv6Header::LEN))?;
        let total_len = Ipv6Header::LEN + usize::from(header.payload_len.get());
        if packet_len < total_len {
            return Err(truncated(total_len));
        }
        let (mut protocol, mut offset, mut field) = (header.next_header, Ipv6Header::LEN, 6);
        let (mut esp_offset, mut protocol_field, mut protected) = (offset, field, protocol);
        let (mut fragment, mut first) = (false, true);
        for _ in 0..MAX_EXTENSIONS {
            let len = match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                    let words = packet
                        .get(offset + 1)
                        .ok_or_else(|| truncated(offset + 2))?;
                    (usize::from(*words) + 1) * 8
                }
                FRAGMENT => {
                    let bits = packet
                        .get(offset + 2..offset + 4)
                        .ok_or_else(|| truncated(offset + 8))?;
                    let bits = u16::from_be_bytes([bits[0], bits[1]]);
                    fragment = true;
                    first = bits & 0xfff8 == 0;
                    8
                }
                _ => break,
            };
            if offset + len > total_len {
                return Err(IpError::Malformed);
            }
            let per_hop = protocol != DESTINATION_OPTIONS;
            protocol = *packet.get(offset).ok_or_else(|| truncated(offset + 1))?;
            field = offset;
            offset += len;
            if per_hop {
                (esp_offset, protocol_field, protected) = (offset, field, protocol);
            }
            if !first {
                break;
            }
        }
        if packet.len() < offset {
            return Err(truncated(offset));
        }
        Ok(Self {
            source: Ipv6Addr::from(header.source).into(),
            destination: Ipv6Addr::from(header.destination).into(),
            protocol,
            header_len: offset,
            esp_offset,
            protocol_field,
            protected_protocol: protected,
            total_len,
            traffic_class: (header.version_class_flow.get() >> 20) as u8,
            dont_fragment: true,
            fragment,
            ports: if first {
                ports(packet, offset, protocol)
            } else {
                None
            },
        })
    }
}

/// What tunnel mode asks of an inner packet: less than [`Facts`], and sooner told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// IPv4, else IPv6.
    pub v4: bool,
    /// Octets of the packet by its own word.
    pub total_len: usize,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// IPv4's don't-fragment flag (always so in IPv6).
    pub dont_fragment: bool,
}

impl Inner {
    /// Reads a packet of `len` octets whose headers are all in this first part: it takes and refuses
    /// what [`Facts::of_part`] does.
    ///
    /// # Errors
    /// [`IpError`].
    #[inline]
    pub fn of_part(packet: &[u8], len: usize) -> Result<Self, IpError> {
        Self::of_plain_v4(packet, len)
            .or_else(|| Self::of_plain_v6(packet, len))
            // Options aside, what is wrong is found, and told, there.
            .map_or_else(
                || Facts::of_part(packet, len).map(|facts| Self::from(&facts)),
                Ok,
            )
    }

    #[inline]
    fn of_plain_v4(packet: &[u8], len: usize) -> Option<Self> {
        let header = packet.first_chunk::<{ Ipv4Header::LEN }>()?;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        (header[0] == 0x45 && (Ipv4Header::LEN..=len).contains(&total_len)).then_some(Self {
            v4: true,
            total_len,
            traffic_class: header[1],
            dont_fragment: header[6] & (DONT_FRAGMENT >> 8) as u8 != 0,
        })
    }

    #[inline]
    fn of_plain_v6(packet: &[u8], len: usize) -> Option<Self> {
        let header = packet.first_chunk::<{ Ipv6Header::LEN }>()?;
        let total_len = Ipv6Header::LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let extended = matches!(
            header[6],
            HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS
        );
        (header[0] >> 4 == 6 && !extended && total_len <= len).then_some(Self {
            v4: false,
            total_len,
            traffic_class: header[0] << 4 | header[1] >> 4,
            dont_fragment: true,
        })
    }
}

impl From<&Facts> for Inner {
    fn from(facts: &Facts) -> Self {
        Self {
            v4: facts.source.is_ipv4(),
            total_len: facts.total_len,
            traffic_class: facts.traffic_class,
            dont_fragment: facts.dont_fragment,
        }
    }
}

fn ports(packet: &[u8], offset: usize, protocol: u8) -> Option<(u16, u16)> {
    const SCTP: u8 = 132;
    if !matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP | SCTP) {
        return None;
    }
    match packet.get(offset..offset + 4)? {
        &[a, b, c, d] => Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))),
        _ => None,
    }
}

/// The Internet checksum (RFC 1071) of a header whose checksum field is zero.
pub fn checksum(header: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in header.chunks(2) {
        sum += match *pair {
            [high, low] => u32::from(u16::from_be_bytes([high, low])),
            [high] => u32::from(high) << 8,
            _ => 0,
        };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Hop limit of outer headers.
const OUTER_TTL: u8 = 64;

/// Writes an outer IPv4 header: DSCP and ECN copied from inside (RFC 6040 §4.1 normal mode), DF
/// copied (RFC 4301 §8.1). `total_len` includes the header.
pub fn outer_v4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    total_len: u16,
    inner: &Inner,
) -> Ipv4Header {
    let mut header = Ipv4Header {
        version_ihl: 0x45,
        traffic_class: inner.traffic_class,
        total_len: total_len.into(),
        // Atomic datagrams need no identification (RFC 6864 §4.1).
        id: 0.into(),
        fragment: if inner.dont_fragment {
            DONT_FRAGMENT
        } else {
            0
        }
        .into(),
        ttl: OUTER_TTL,
        protocol,
        checksum: 0.into(),
        source: source.octets(),
        destination: destination.octets(),
    };
    header.checksum = checksum(header.as_bytes()).into();
    header
}

/// Writes an outer IPv6 header; see [`outer_v4`]. `payload_len` excludes the header.
pub fn outer_v6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next_header: u8,
    payload_len: u16,
    inner: &Inner,
) -> Ipv6Header {
    Ipv6Header {
        version_class_flow: (6 << 28 | u32::from(inner.traffic_class) << 20).into(),
        payload_len: payload_len.into(),
        next_header,
        hop_limit: OUTER_TTL,
        source: source.octets(),
        destination: destination.octets(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The packet of RFC 3602 §4 case 5 (an ICMP echo in IPv4): its header.
    const ECHO: &str = "4500005408f200004001f9fec0a87b03c0a87b64";

    fn octets(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn an_ipv4_packet_tells_its_facts() {
        let mut packet = octets(ECHO);
        packet.resize(0x54, 0);
        let facts = Facts::of(&packet).unwrap();
        assert_eq!(facts.source, "192.168.123.3".parse::<IpAddr>().unwrap());
        assert_eq!(
            (facts.protocol, facts.header_len, facts.total_len),
            (1, 20, 84)
        );
        packet[10] = 0;
        packet[11] = 0;
        assert_eq!(checksum(&packet[..20]), 0xf9fe);
    }

    #[test]
    fn transport_mode_esp_goes_behind_routing_but_before_destination_options() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 24, HOP_BY_HOP, 64];
        packet.extend([0; 32]);
        packet.extend([DESTINATION_OPTIONS, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend([PROTOCOL_UDP, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend([0x12, 0x34, 0, 53, 0, 8, 0, 0]);
        let facts = Facts::of(&packet).unwrap();
        assert_eq!((facts.esp_offset, facts.protocol_field), (48, 40));
        assert_eq!(
            (facts.protected_protocol, facts.protocol),
            (DESTINATION_OPTIONS, PROTOCOL_UDP)
        );
        assert_eq!(facts.ports, Some((0x1234, 53)));
    }

    proptest! {
        #[test]
        fn no_octets_break_the_parser(packet in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Facts::of(&packet);
        }

        /// Octets that mostly make a packet of either version, or nearly so.
        #[test]
        fn the_short_reading_agrees_with_the_long_one(
            mut packet in prop::collection::vec(any::<u8>(), 0..120),
            first in prop_oneof![Just(0x45u8), Just(0x46), Just(0x60), 0x40..0x70u8],
            told in 0..140u16,
            next in prop_oneof![Just(HOP_BY_HOP), Just(FRAGMENT), Just(PROTOCOL_UDP), any::<u8>()],
            behind in 0..8usize,
        ) {
            for (at, octet) in [(0, first), (2, 0), (3, told as u8), (4, 0), (5, told as u8), (6, next)] {
                if let Some(place) = packet.get_mut(at) {
                    *place = octet;
                }
            }
            let len = packet.len() + behind;
            let long = Facts::of_part(&packet, len).map(|facts| Inner::from(&facts));
            prop_assert_eq!(Inner::of_part(&packet, len), long);
        }
    }
}
