// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An SA's outer headers, made once: for each packet only lengths, what comes from inside (RFC 6040
//! §4.1), and IPv4's checksum are set, and an inbound packet is compared with them.

use std::net::IpAddr;

use zerocopy::IntoBytes;

use offload_api::queue::Status;
use offload_api::sa::OuterHeaders;
use offload_api::wire::esp::PROTOCOL;
use offload_api::wire::ip::{self, Inner, Ipv4Header, Ipv6Header, PROTOCOL_UDP};
use offload_api::wire::natt::UdpHeader;

/// Outer IP and UDP headers of a tunnel.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    ip: Ip,
    /// Ports, as they lie.
    ports: Option<[u8; 4]>,
}

#[derive(Clone, Debug)]
enum Ip {
    /// The header, and the sum of its words.
    V4([u8; Ipv4Header::LEN], u32),
    V6([u8; Ipv6Header::LEN]),
}

/// What routers and senders leave alone of an IPv4 header's first 16 octets: all but class, length,
/// number, don't-fragment (and the bit that RFC 791 reserves), time to live and checksum.
const V4_FIXED: [u8; 16] = [
    0xff, 0, 0, 0, 0, 0, 0x3f, 0xff, 0, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff,
];
/// The same of an IPv6 header's: all but class, label, length and hop limit.
const V6_FIXED: [u8; 16] = [
    0xf0, 0, 0, 0, 0, 0, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
];

/// Whether two headers agree in these of their first octets. In one number: a comparison of slices is a
/// call.
#[inline]
fn is_same<const N: usize>(a: &[u8; N], b: &[u8; N], fixed: [u8; 16]) -> bool {
    let first = |octets: &[u8; N]| {
        octets
            .first_chunk()
            .map(|first| u128::from_ne_bytes(*first))
    };
    match (first(a), first(b)) {
        (Some(a), Some(b)) => (a ^ b) & u128::from_ne_bytes(fixed) == 0,
        _ => false,
    }
}

/// Nothing comes from inside.
const NOTHING: Inner = Inner {
    v4: true,
    total_len: 0,
    traffic_class: 0,
    dont_fragment: false,
};

impl Template {
    /// Headers of an SA; nothing where its ends are of different versions, which is refused at
    /// installation.
    pub(crate) fn new(outer: &OuterHeaders) -> Option<Self> {
        let protocol = match outer.udp {
            Some(_) => PROTOCOL_UDP,
            None => PROTOCOL,
        };
        let ip = match (outer.source, outer.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = ip::outer_v4(source, destination, protocol, 0, &NOTHING);
                let mut octets = [0; Ipv4Header::LEN];
                octets.copy_from_slice(header.as_bytes());
                Ip::V4(octets, u32::from(!header.checksum.get()))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = ip::outer_v6(source, destination, protocol, 0, &NOTHING);
                let mut octets = [0; Ipv6Header::LEN];
                octets.copy_from_slice(header.as_bytes());
                Ip::V6(octets)
            }
            _ => return None,
        };
        let ports = outer.udp.map(|udp| {
            let ([a, b], [c, d]) = (
                udp.source_port.to_be_bytes(),
                udp.destination_port.to_be_bytes(),
            );
            [a, b, c, d]
        });
        Some(Self { ip, ports })
    }

    /// Octets of the headers: where ESP starts.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        let udp = if self.ports.is_some() {
            UdpHeader::LEN
        } else {
            0
        };
        match self.ip {
            Ip::V4(..) => Ipv4Header::LEN + udp,
            Ip::V6(_) => Ipv6Header::LEN + udp,
        }
    }

    /// Writes the headers in front of a packet of `whole` octets with them.
    ///
    /// # Errors
    /// [`Status::BadLength`] for more than a header can tell, or [`Status::NoSpace`].
    #[inline]
    pub(crate) fn write(
        &self,
        octets: &mut [u8],
        whole: usize,
        inner: &Inner,
    ) -> Result<(), Status> {
        let (rest, left) = match &self.ip {
            Ip::V4(header, sum) => {
                let len = u16::try_from(whole).map_err(|_| Status::BadLength)?;
                let (room, rest) = octets.split_first_chunk_mut().ok_or(Status::NoSpace)?;
                *room = *header;
                room[1] = inner.traffic_class;
                room[2..4].copy_from_slice(&len.to_be_bytes());
                let fragment = if inner.dont_fragment { 0x4000u16 } else { 0 };
                room[6..8].copy_from_slice(&fragment.to_be_bytes());
                let sum =
                    sum + u32::from(inner.traffic_class) + u32::from(len) + u32::from(fragment);
                // RFC 1071: what is carried is added; of these few words, twice is enough.
                let sum = (sum & 0xffff) + (sum >> 16);
                let sum = (sum & 0xffff) + (sum >> 16);
                room[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
                (rest, whole.saturating_sub(Ipv4Header::LEN))
            }
            Ip::V6(header) => {
                let left = whole.checked_sub(Ipv6Header::LEN).ok_or(Status::NoSpace)?;
                let len = u16::try_from(left).map_err(|_| Status::BadLength)?;
                let (room, rest) = octets.split_first_chunk_mut().ok_or(Status::NoSpace)?;
                *room = *header;
                room[0] |= inner.traffic_class >> 4;
                room[1] |= inner.traffic_class << 4;
                room[4..6].copy_from_slice(&len.to_be_bytes());
                (rest, left)
            }
        };
        if let Some(ports) = self.ports {
            let len = u16::try_from(left).map_err(|_| Status::BadLength)?;
            let room = rest.first_chunk_mut::<{ UdpHeader::LEN }>();
            let room = room.ok_or(Status::NoSpace)?;
            room[..4].copy_from_slice(&ports);
            room[4..6].copy_from_slice(&len.to_be_bytes());
            // RFC 3948 §2.1: no checksum.
            room[6..].fill(0);
        }
        Ok(())
    }

    /// Whether a packet of `len` octets has just these headers. One that has others may still be in
    /// order: with options, say.
    #[inline]
    pub(crate) fn is_on(&self, packet: &[u8], len: usize) -> bool {
        let be16 = |pair: &[u8]| pair.first_chunk().map(|pair| u16::from_be_bytes(*pair));
        let (rest, left, fits) = match &self.ip {
            Ip::V4(header, _) => {
                let Some((found, rest)) = packet.split_first_chunk::<{ Ipv4Header::LEN }>() else {
                    return false;
                };
                let told = be16(&found[2..4]).map(usize::from);
                let same = is_same(found, header, V4_FIXED)
                    && found.last_chunk::<4>() == header.last_chunk();
                let left = len.wrapping_sub(Ipv4Header::LEN);
                (rest, left, told == Some(len) && same)
            }
            Ip::V6(header) => {
                let Some((found, rest)) = packet.split_first_chunk::<{ Ipv6Header::LEN }>() else {
                    return false;
                };
                let left = len.wrapping_sub(Ipv6Header::LEN);
                let told = be16(&found[4..6]).map(usize::from);
                let same = is_same(found, header, V6_FIXED)
                    && found.last_chunk::<24>() == header.last_chunk();
                (rest, left, told == Some(left) && same)
            }
        };
        let udp = |ports: [u8; 4]| {
            rest.first_chunk::<{ UdpHeader::LEN }>()
                .is_some_and(|found| {
                    found[..4] == ports && be16(&found[4..6]).map(usize::from) == Some(left)
                })
        };
        fits && self.ports.is_none_or(udp)
    }
}

#[cfg(test)]
mod tests {
    use offload_api::sa::UdpEncapsulation;
    use proptest::prelude::*;

    use super::*;

    fn outer() -> impl Strategy<Value = OuterHeaders> {
        let udp = proptest::option::of((any::<u16>(), any::<u16>()));
        (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<bool>(), udp).prop_map(|(a, b, v4, udp)| {
            let four = |octets: [u8; 16]| IpAddr::from(*octets.first_chunk::<4>().unwrap());
            let (source, destination) = match v4 {
                true => (four(a), four(b)),
                false => (a.into(), b.into()),
            };
            OuterHeaders {
                source,
                destination,
                udp: udp.map(|(source_port, destination_port)| UdpEncapsulation {
                    source_port,
                    destination_port,
                }),
            }
        })
    }

    proptest! {
        #[test]
        fn a_template_writes_what_the_headers_written_anew_are(
            outer in outer(), class: u8, dont_fragment: bool, payload in 0..65_000usize,
        ) {
            let template = Template::new(&outer).unwrap();
            let inner = Inner { v4: true, total_len: payload, traffic_class: class, dont_fragment };
            let whole = template.len() + payload;
            let mut octets = vec![0xff; template.len() + 8];
            template.write(&mut octets, whole, &inner).unwrap();
            let protocol = if outer.udp.is_some() { PROTOCOL_UDP } else { PROTOCOL };
            let mut expected = match (outer.source, outer.destination) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    ip::outer_v4(a, b, protocol, whole as u16, &inner).as_bytes().to_vec()
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    let left = (whole - Ipv6Header::LEN) as u16;
                    ip::outer_v6(a, b, protocol, left, &inner).as_bytes().to_vec()
                }
                _ => unreachable!(),
            };
            if let Some(udp) = outer.udp {
                expected.extend(udp.source_port.to_be_bytes());
                expected.extend(udp.destination_port.to_be_bytes());
                expected.extend(((payload + UdpHeader::LEN) as u16).to_be_bytes());
                expected.extend([0; 2]);
            }
            prop_assert_eq!(&octets[..template.len()], &expected[..]);
            prop_assert_eq!(&octets[template.len()..], &[0xff; 8]);
            prop_assert!(template.is_on(&octets, whole));
        }

        #[test]
        fn headers_with_one_octet_changed_are_others(
            outer in outer(), payload in 8..60_000usize, at in 0..48usize, change in 1..=255u8,
        ) {
            let template = Template::new(&outer).unwrap();
            let whole = template.len() + payload;
            let mut octets = vec![0; template.len() + 8];
            template.write(&mut octets, whole, &NOTHING).unwrap();
            prop_assert!(template.is_on(&octets, whole) && !template.is_on(&octets, whole + 1));
            let at = at % template.len();
            octets[at] ^= change;
            // What a router or the sender may set: class, number, don't fragment, time to live, checksums, label.
            let free = match outer.source {
                IpAddr::V4(_) => matches!(at, 1 | 4 | 5 | 8 | 10 | 11 | 26 | 27) || (at == 6 && change == 0x40),
                IpAddr::V6(_) => matches!(at, 1 | 2 | 3 | 7 | 46 | 47) || (at == 0 && change < 0x10),
            };
            // The bit that RFC 791 reserves is nobody's.
            let reserved = outer.source.is_ipv4() && at == 6 && change & 0x3f == 0;
            prop_assert_eq!(template.is_on(&octets, whole), free || reserved);
        }
    }
}
