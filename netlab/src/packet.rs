// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an Ethernet frame on the wire between two gateways is (RFC 4303 §2, RFC 3948 §2), told from its
//! first octets alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Octets of an Ethernet header.
const ETHERNET: usize = 14;
const ICMP: u8 = 1;
const UDP: u8 = 17;
const ESP: u8 = 50;
const ICMPV6: u8 = 58;
/// IKE's port, and the one that it shares with ESP.
const IKE_PORT: u16 = 500;
const NAT_PORT: u16 = 4500;

/// One frame, classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ESP, native or in UDP.
    Esp {
        /// Security parameters index.
        spi: u32,
        /// The 32 bits of the sequence number that travel.
        sequence: u32,
        /// The eight octets after the ESP header: the explicit IV of an AEAD (RFC 4106 §3.1).
        iv: u64,
    },
    /// IKE on port 500, or on 4500 behind the non-ESP marker.
    Ike,
    /// The one-octet NAT keepalive.
    Keepalive,
    /// ARP, neighbour and router discovery, multicast listener reports.
    Neighbour,
    /// An ICMP error that quotes one of the above: a host says that nobody takes its protected packets.
    Refusal,
    /// A fragment other than the first: its content cannot be told.
    Fragment,
    /// Any other IP packet: on a wire that should carry only the above, plaintext.
    Plain {
        /// The IP protocol number.
        protocol: u8,
    },
    /// Not IP, not ARP, or cut short before it could be told.
    Unknown,
}

/// A classified frame with the addresses it travelled between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    /// IP source (unspecified where there is none).
    pub source: IpAddr,
    /// IP destination (unspecified where there is none).
    pub destination: IpAddr,
    /// What it is.
    pub kind: Kind,
}

/// Classifies an Ethernet frame, which may be cut short after the ESP header.
pub fn classify(frame: &[u8]) -> Classified {
    let nowhere = |kind| Classified {
        source: Ipv4Addr::UNSPECIFIED.into(),
        destination: Ipv4Addr::UNSPECIFIED.into(),
        kind,
    };
    let Some(ip) = frame.get(ETHERNET..) else {
        return nowhere(Kind::Unknown);
    };
    match u16_at(frame, 12) {
        Some(0x0806) => nowhere(Kind::Neighbour),
        Some(0x0800) => ipv4(ip).unwrap_or(nowhere(Kind::Unknown)),
        Some(0x86dd) => ipv6(ip).unwrap_or(nowhere(Kind::Unknown)),
        _ => nowhere(Kind::Unknown),
    }
}

fn ipv4(ip: &[u8]) -> Option<Classified> {
    let header = usize::from(ip.first()? & 0x0f) * 4;
    let fragment_offset = u16_at(ip, 6)? & 0x1fff;
    let protocol = *ip.get(9)?;
    let kind = match (fragment_offset, protocol) {
        (0, ICMP) => icmp(ip.get(header..)?),
        (0, _) => transport(protocol, ip.get(header..)?)?,
        _ => Kind::Fragment,
    };
    Some(Classified {
        source: Ipv4Addr::from(array::<4>(ip, 12)?).into(),
        destination: Ipv4Addr::from(array::<4>(ip, 16)?).into(),
        kind,
    })
}

fn ipv6(ip: &[u8]) -> Option<Classified> {
    let protocol = *ip.get(6)?;
    let payload = ip.get(40..)?;
    let kind = match protocol {
        44 => Kind::Fragment,
        // A multicast listener report travels behind a hop-by-hop header with a router alert.
        0 if payload.first() == Some(&ICMPV6) => Kind::Neighbour,
        ICMPV6 if matches!(payload.first(), Some(130..=137 | 143)) => Kind::Neighbour,
        _ => transport(protocol, payload)?,
    };
    Some(Classified {
        source: Ipv6Addr::from(array::<16>(ip, 8)?).into(),
        destination: Ipv6Addr::from(array::<16>(ip, 24)?).into(),
        kind,
    })
}

/// Type 3 quotes the header and the beginning of what could not be delivered (RFC 792).
fn icmp(message: &[u8]) -> Kind {
    let quoted = match message.first() {
        Some(3) => message.get(8..).and_then(ipv4),
        _ => None,
    };
    match quoted.map(|quoted| quoted.kind) {
        Some(Kind::Esp { .. } | Kind::Ike | Kind::Keepalive) => Kind::Refusal,
        _ => Kind::Plain { protocol: ICMP },
    }
}

fn transport(protocol: u8, payload: &[u8]) -> Option<Kind> {
    match protocol {
        ESP => esp(payload),
        UDP => {
            let ports = [u16_at(payload, 0)?, u16_at(payload, 2)?];
            let length = u16_at(payload, 4)?;
            if ports.contains(&NAT_PORT) {
                return match length {
                    // RFC 3948 §2.3: a single octet 0xff.
                    9 => Some(Kind::Keepalive),
                    _ if u32_at(payload, 8)? == 0 => Some(Kind::Ike),
                    _ => esp(payload.get(8..)?),
                };
            }
            // A translator may have changed the sender's port, so either end names IKE.
            Some(if ports.contains(&IKE_PORT) {
                Kind::Ike
            } else {
                Kind::Plain { protocol }
            })
        }
        _ => Some(Kind::Plain { protocol }),
    }
}

fn esp(packet: &[u8]) -> Option<Kind> {
    Some(Kind::Esp {
        spi: u32_at(packet, 0)?,
        sequence: u32_at(packet, 4)?,
        iv: u64::from_be_bytes(array(packet, 8)?),
    })
}

fn array<const N: usize>(octets: &[u8], at: usize) -> Option<[u8; N]> {
    octets.get(at..)?.first_chunk().copied()
}

fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    array(octets, at).map(u16::from_be_bytes)
}

fn u32_at(octets: &[u8], at: usize) -> Option<u32> {
    array(octets, at).map(u32::from_be_bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An Ethernet frame with an IPv4 packet of the given protocol and payload.
    pub(crate) fn ipv4_frame(
        source: [u8; 4],
        destination: [u8; 4],
        protocol: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        let total = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        frame.extend([0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(payload);
        frame
    }

    /// A UDP datagram.
    pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).unwrap();
        let mut datagram = Vec::new();
        for field in [source, destination, length, 0] {
            datagram.extend(field.to_be_bytes());
        }
        datagram.extend(payload);
        datagram
    }

    /// The start of an ESP packet.
    pub(crate) fn esp_packet(spi: u32, sequence: u32, iv: u64) -> Vec<u8> {
        let mut packet = spi.to_be_bytes().to_vec();
        packet.extend(sequence.to_be_bytes());
        packet.extend(iv.to_be_bytes());
        packet.extend([0xa5; 40]);
        packet
    }

    fn kind(protocol: u8, payload: &[u8]) -> Kind {
        classify(&ipv4_frame([10, 0, 0, 1], [10, 0, 0, 2], protocol, payload)).kind
    }

    #[test]
    fn esp_is_found_native_and_in_udp() {
        let expected = Kind::Esp {
            spi: 0x1234_5678,
            sequence: 9,
            iv: 77,
        };
        let packet = esp_packet(0x1234_5678, 9, 77);
        assert_eq!(kind(50, &packet), expected);
        assert_eq!(kind(17, &udp(4500, 4500, &packet)), expected);
        assert_eq!(kind(17, &udp(40001, 4500, &packet)), expected);
    }

    #[test]
    fn ike_is_told_from_esp_by_the_marker() {
        assert_eq!(kind(17, &udp(500, 500, &[1; 28])), Kind::Ike);
        assert_eq!(
            kind(17, &udp(4500, 4500, &[0, 0, 0, 0, 1, 2, 3, 4])),
            Kind::Ike
        );
        assert_eq!(kind(17, &udp(4500, 4500, &[0xff])), Kind::Keepalive);
    }

    #[test]
    fn everything_else_between_hosts_is_plaintext() {
        assert_eq!(kind(1, &[8, 0, 0, 0]), Kind::Plain { protocol: 1 });
        assert_eq!(kind(6, &[0; 20]), Kind::Plain { protocol: 6 });
        assert_eq!(
            kind(17, &udp(5000, 5001, b"secret")),
            Kind::Plain { protocol: 17 }
        );
    }

    #[test]
    fn an_icmp_error_is_judged_by_what_it_quotes() {
        let unreachable = |quoted: &[u8]| [&[3, 3, 0, 0, 0, 0, 0, 0], &quoted[ETHERNET..]].concat();
        let esp = ipv4_frame(
            [10, 0, 0, 2],
            [10, 0, 0, 1],
            17,
            &udp(4500, 4500, &esp_packet(1, 2, 3)),
        );
        assert_eq!(kind(1, &unreachable(&esp)), Kind::Refusal);
        let secret = ipv4_frame(
            [10, 2, 0, 1],
            [10, 1, 0, 1],
            17,
            &udp(5000, 5001, b"secret"),
        );
        assert_eq!(kind(1, &unreachable(&secret)), Kind::Plain { protocol: 1 });
    }

    #[test]
    fn a_later_fragment_is_not_taken_for_something_known() {
        let mut frame = ipv4_frame([10, 0, 0, 1], [10, 0, 0, 2], 17, &udp(500, 500, &[0; 8]));
        frame[14 + 7] = 10;
        assert_eq!(classify(&frame).kind, Kind::Fragment);
    }

    #[test]
    fn no_truncation_panics_or_becomes_plaintext_unseen() {
        let frame = ipv4_frame(
            [10, 0, 0, 1],
            [10, 0, 0, 2],
            17,
            &udp(4500, 4500, &esp_packet(1, 2, 3)),
        );
        for length in 0..frame.len() {
            let kind = classify(&frame[..length]).kind;
            let whole = length >= 14 + 20 + 8 + 16;
            assert_eq!(matches!(kind, Kind::Esp { .. }), whole, "at {length}");
        }
    }
}
