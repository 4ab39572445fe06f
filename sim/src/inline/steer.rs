// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a frame of the wire is: ESP for the card, or the host's business.

use std::net::IpAddr;

use offload_api::wire::esp;
use offload_api::wire::ip::{Facts, PROTOCOL_UDP};
use offload_api::wire::natt::{self, Kind, NAT_PORT, UdpHeader};

/// Octets of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// EtherTypes.
pub(super) const IPV4: [u8; 2] = [0x08, 0x00];
pub(super) const IPV6: [u8; 2] = [0x86, 0xdd];

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// ESP, in UDP or not: the octets of its IP packet, and its SPI.
    Esp { len: usize, spi: u32 },
    /// A NAT keepalive: dropped (RFC 3948 §2.3).
    Keepalive,
    /// The host's.
    Host,
}

/// Steers a frame of the wire.
pub(super) fn steer(frame: &[u8]) -> Way {
    let Some(packet) = ip_packet(frame) else {
        return Way::Host;
    };
    let Ok(facts) = Facts::of(packet) else {
        return Way::Host;
    };
    let (Some(payload), false) = (
        packet.get(facts.header_len..facts.total_len),
        facts.fragment,
    ) else {
        return Way::Host;
    };
    let len = facts.total_len;
    let spi = |esp: &[u8]| esp::Header::parse(esp).map(|header| header.spi.get());
    match facts.protocol {
        esp::PROTOCOL => spi(payload).map_or(Way::Host, |spi| Way::Esp { len, spi }),
        PROTOCOL_UDP if facts.ports.is_some_and(|(_, port)| port == NAT_PORT) => {
            let datagram = payload.get(UdpHeader::LEN..).unwrap_or_default();
            match natt::classify(datagram) {
                Kind::Esp => spi(datagram).map_or(Way::Host, |spi| Way::Esp { len, spi }),
                Kind::Keepalive => Way::Keepalive,
                Kind::Ike(_) | Kind::Runt => Way::Host,
            }
        }
        _ => Way::Host,
    }
}

/// The IP packet of a frame.
pub(super) fn ip_packet(frame: &[u8]) -> Option<&[u8]> {
    let kind = frame.get(12..ETHERNET)?;
    (kind == IPV4 || kind == IPV6).then(|| frame.get(ETHERNET..))?
}

/// Where a frame of the exception port goes: MAC and IP address.
pub(super) fn destination(frame: &[u8]) -> Option<([u8; 6], IpAddr)> {
    let mac = *frame.first_chunk::<6>()?;
    let facts = Facts::of(ip_packet(frame)?).ok()?;
    Some((mac, facts.destination))
}

#[cfg(all(test, feature = "rtl"))]
mod rtl;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend(IPV4);
        let total = (20 + payload.len()) as u16;
        frame.extend([0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend(payload);
        // Ethernet pads short frames.
        frame.extend([0; 6]);
        frame
    }

    fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut datagram = 4500u16.to_be_bytes().to_vec();
        datagram.extend(port.to_be_bytes());
        datagram.extend((8 + payload.len() as u16).to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(payload);
        datagram
    }

    #[test]
    fn esp_is_the_cards_and_everything_else_the_hosts() {
        let esp = [0x12, 0x34, 0x56, 0x78, 0, 0, 0, 1, 9, 9];
        let way = |len| Way::Esp {
            len,
            spi: 0x1234_5678,
        };
        assert_eq!(steer(&frame(50, 0, &esp)), way(30));
        assert_eq!(steer(&frame(17, 0, &udp(4500, &esp))), way(38));
        let ike = [&[0; 4][..], &[1; 28]].concat();
        assert_eq!(steer(&frame(17, 0, &udp(4500, &ike))), Way::Host);
        assert_eq!(steer(&frame(17, 0, &udp(500, &esp))), Way::Host);
        assert_eq!(steer(&frame(17, 0, &udp(4500, &[0xff]))), Way::Keepalive);
        assert_eq!(steer(&frame(6, 0, &esp)), Way::Host);
        // Fragments are for the host to put together.
        assert_eq!(steer(&frame(50, 0x2000, &esp)), Way::Host);
        assert_eq!(steer(&frame(50, 0x0010, &esp)), Way::Host);
        // Cut short, or no IP at all.
        assert_eq!(steer(&frame(50, 0, &esp[..3])), Way::Host);
        let mut arp = frame(50, 0, &esp);
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(steer(&arp), Way::Host);
        for len in 0..40 {
            let whole = frame(50, 0, &esp);
            let _ = steer(&whole[..len]);
        }
    }
}
