// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Transport mode in UDP: packets come without their IP header, and with checksums over the addresses that
//! they had at the peer, which a NAT has changed since (RFC 3948 §3.1.2).

use std::net::{IpAddr, Ipv4Addr};

use offload_api::frame::Frame;
use offload_api::wire::esp::PROTOCOL as ESP;
use offload_api::wire::ip::{Facts, Ipv4Header, PROTOCOL_TCP, PROTOCOL_UDP, checksum};
use zerocopy::IntoBytes;

use super::ah;

const ICMPV6: u8 = 58;
/// What a header that we write says of hops: it has none to go.
const TTL: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;

/// Puts an IP header in front of ESP that came in UDP; false where that can't be.
pub(super) fn restore_header(frame: &mut Frame, peer: IpAddr, own: IpAddr) -> bool {
    match (peer, own) {
        (IpAddr::V4(peer), IpAddr::V4(own)) => restore_v4(frame, peer, own),
        (IpAddr::V6(peer), IpAddr::V6(own)) => ah::restore_header(frame, ESP, peer, own),
        _ => false,
    }
}

fn restore_v4(frame: &mut Frame, source: Ipv4Addr, destination: Ipv4Addr) -> bool {
    let Ok(len) = u16::try_from(frame.len() + Ipv4Header::LEN) else {
        return false;
    };
    let mut header = Ipv4Header {
        version_ihl: 0x45,
        traffic_class: 0,
        total_len: len.into(),
        id: 0.into(),
        fragment: DONT_FRAGMENT.into(),
        ttl: TTL,
        protocol: ESP,
        checksum: 0.into(),
        source: source.octets(),
        destination: destination.octets(),
    };
    header.checksum = checksum(header.as_bytes()).into();
    match frame.push_front(Ipv4Header::LEN) {
        Some(room) => {
            room.copy_from_slice(header.as_bytes());
            true
        }
        None => false,
    }
}

/// Brings the checksum of what is inside from the peer's addresses to those that the packet has now, by the
/// difference (RFC 1624): what was wrong before stays wrong. False where the packet ends before it.
pub(super) fn mend_checksum(packet: &mut [u8], facts: &Facts, original: (IpAddr, IpAddr)) -> bool {
    let behind = match facts.protocol {
        PROTOCOL_TCP => 16,
        PROTOCOL_UDP => 6,
        ICMPV6 => 2,
        // It covers no addresses.
        _ => return true,
    };
    let at = facts.header_len + behind;
    let field = packet
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<2>());
    let Some(field) = field else { return false };
    let before = u16::from_be_bytes(*field);
    if facts.protocol == PROTOCOL_UDP && before == 0 {
        // There is none.
        return true;
    }
    let mut sum = u32::from(!before);
    for address in [original.0, original.1] {
        sum += words(address).map(|word| u32::from(!word)).sum::<u32>();
    }
    for address in [facts.source, facts.destination] {
        sum += words(address).map(u32::from).sum::<u32>();
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let mut after = !(sum as u16);
    if facts.protocol == PROTOCOL_UDP && after == 0 {
        // Zero would be "none" (RFC 768).
        after = 0xffff;
    }
    *field = after.to_be_bytes();
    true
}

/// An address in words, in whatever order: a sum knows none.
fn words(address: IpAddr) -> impl Iterator<Item = u16> {
    let (bits, count) = match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 2),
        IpAddr::V6(v6) => (v6.to_bits(), 8),
    };
    (0..count).map(move |at| (bits >> (16 * at)) as u16)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    /// The sum of a pseudo header and what is behind it, word by word (RFC 1071): zero where it is right.
    fn whole(packet: &[u8], facts: &Facts, addresses: (IpAddr, IpAddr)) -> u16 {
        let octets = |address| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let upper = &packet[facts.header_len..];
        let mut covered = [octets(addresses.0), octets(addresses.1)].concat();
        covered.extend([0, facts.protocol]);
        covered.extend((upper.len() as u16).to_be_bytes());
        covered.extend(upper);
        if covered.len() % 2 == 1 {
            covered.push(0);
        }
        checksum(&covered)
    }

    fn header(protocol: u8, len: usize, addresses: (IpAddr, IpAddr)) -> Vec<u8> {
        match addresses {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = vec![0x45, 0];
                header.extend((20 + len as u16).to_be_bytes());
                header.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut header = vec![0x60, 0, 0, 0];
                header.extend((len as u16).to_be_bytes());
                header.extend([protocol, 64]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header
            }
            _ => unreachable!(),
        }
    }

    fn v4(octets: [u8; 4]) -> IpAddr {
        octets.into()
    }

    /// RFC 3948 §3.1.2: what a NAT has made wrong is right again, for every length and content, and what was
    /// wrong before is wrong still.
    #[test]
    fn a_checksum_over_the_peers_addresses_becomes_one_over_ours() {
        let v6 = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0xffff, 0, last));
        let mut random = 88172645463325252u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as u8
        };
        for round in 0..4000 {
            let wide = round % 3 == 2;
            let mut address = || match wide {
                false => v4([next(), next(), next(), next()]),
                true => v6(u16::from(next()) << 8 | u16::from(next())),
            };
            let (original, now) = ((address(), address()), (address(), address()));
            for (protocol, at) in [(6u8, 16), (17, 6), (58, 2)] {
                let len = 20 + usize::from(next()) % 90;
                let mut upper: Vec<u8> = (0..len).map(|_| next()).collect();
                if protocol == 6 {
                    upper[12] = 0x50;
                }
                upper[at..at + 2].fill(0);
                let mut packet = header(protocol, len, original);
                packet.extend(upper);
                let facts = Facts::of(&packet).unwrap();
                let at = facts.header_len + at;
                let sum = whole(&packet, &facts, original);
                let sum = if sum == 0 { 0xffff } else { sum };
                packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
                let front = header(protocol, len, now);
                packet[..front.len()].copy_from_slice(&front);
                let facts = Facts::of(&packet).unwrap();
                let mut wrong = packet.clone();
                wrong[facts.header_len] ^= 1;
                for (packet, good) in [(&mut packet, true), (&mut wrong, false)] {
                    assert!(mend_checksum(packet, &facts, original));
                    assert_eq!(whole(packet, &facts, now) == 0, good, "{protocol} {now:?}");
                }
            }
        }
    }

    /// RFC 768: no checksum stays none, and none comes of one.
    #[test]
    fn udp_without_a_checksum_stays_without_one() {
        let (original, now) = (
            (v4([10, 0, 0, 1]), v4([192, 0, 2, 1])),
            (v4([198, 51, 100, 7]), v4([10, 9, 0, 1])),
        );
        let mut packet = header(17, 8, now);
        packet.extend([0, 53, 0, 53, 0, 8, 0, 0]);
        let facts = Facts::of(&packet).unwrap();
        let before = packet.clone();
        assert!(mend_checksum(&mut packet, &facts, original));
        assert_eq!(packet, before);
        // Every checksum that there is stays one.
        for sum in 1..=u16::MAX {
            packet[26..28].copy_from_slice(&sum.to_be_bytes());
            assert!(mend_checksum(&mut packet, &facts, original));
            assert_ne!(packet[26..28], [0, 0], "{sum}");
        }
    }

    #[test]
    fn what_has_no_room_for_a_checksum_is_refused_and_what_has_none_passes() {
        let addresses = (v4([10, 0, 0, 1]), v4([192, 0, 2, 1]));
        for (protocol, len, good) in [(6, 17, false), (17, 7, false), (1, 8, true), (47, 4, true)] {
            let mut packet = header(protocol, len, addresses);
            packet.extend(vec![1; len]);
            let facts = Facts::of(&packet).unwrap();
            let before = packet.clone();
            assert_eq!(mend_checksum(&mut packet, &facts, addresses), good);
            assert_eq!(packet, before);
        }
    }
}
