// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AH takes whatever is given to it: nothing panics, and nothing passes that was not sealed.
#![allow(clippy::unwrap_used)]

use esp::ah::AhTransform;
use esp::packet::{PacketBuffer, SlicePacket};
use offload_api::sa::{Direction, KeyMaterial, Mode, OuterHeaders, SaParams, Spi, Suite};
use proptest::prelude::*;

const ROOM: usize = 128;

fn transform(suite: Suite, direction: Direction, outer: Option<bool>) -> AhTransform {
    let keys = KeyMaterial::from_keymat(suite, &[], &vec![7; suite.integrity_key_len()]).unwrap();
    let address = |v6: bool, n: u8| {
        if v6 {
            std::net::IpAddr::from([n; 16])
        } else {
            std::net::IpAddr::from([n; 4])
        }
    };
    AhTransform::new(&SaParams {
        mode: if outer.is_some() {
            Mode::Tunnel
        } else {
            Mode::Transport
        },
        outer: outer.map(|v6| OuterHeaders {
            source: address(v6, 1),
            destination: address(v6, 2),
            udp: None,
        }),
        ..SaParams::tunnel(Spi::new(0x0101_0101).unwrap(), direction, suite, keys)
    })
    .unwrap()
}

/// Options of IPv4 and extension headers of IPv6 as a sender may have them, and as nobody does.
fn headers() -> impl Strategy<Value = Vec<u8>> {
    let octets = || prop::collection::vec(any::<u8>(), 0..64);
    let v4 = (0u8..16, octets()).prop_map(|(words, rest)| {
        let mut packet = vec![0x40 | words, 3, 0, 0, 0, 1, 0, 0, 60, 51, 0, 0];
        packet.extend([1; 4]);
        packet.extend([2; 4]);
        packet.extend(rest);
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet
    });
    let extension = (
        prop::sample::select(vec![0u8, 6, 43, 44, 51, 60]),
        0u8..4,
        prop::collection::vec(any::<u8>(), 30),
    );
    let chain = prop::collection::vec(extension, 0..6);
    let first = prop::sample::select(vec![0u8, 43, 44, 51, 60]);
    let v6 = (first, chain, octets()).prop_map(|(first, chain, rest)| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, first, 60];
        packet.extend([1; 16]);
        packet.extend([2; 16]);
        for (next, words, data) in chain {
            packet.extend([next, words]);
            packet.extend(&data[..(usize::from(words) * 8 + 6).min(data.len())]);
        }
        packet.extend(rest);
        let len = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        packet
    });
    prop_oneof![v4, v6, octets()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// S46, S47, B39: headers that lie get through neither way; what was sealed opens to what it was.
    #[test]
    fn nothing_panics_and_nothing_forged_passes(octets in headers(), outer in prop::option::of(any::<bool>())) {
        for suite in [Suite::from_name("ah-sha1").unwrap(), Suite::from_name("ah-aes128gmac").unwrap()] {
            let inbound = transform(suite, Direction::Inbound, outer);
            let mut buffer = [&[0; ROOM][..], &octets, &[0; ROOM]].concat();
            let mut packet = SlicePacket::new(&mut buffer, ROOM, octets.len()).unwrap();
            let mut context = inbound.take_context().unwrap();
            if let Ok(located) = inbound.locate(packet.packet()) {
                prop_assert!(inbound.open(&mut context, located, 7, &mut packet).is_err());
                prop_assert!(packet.packet().is_empty());
            }
            let outbound = transform(suite, Direction::Outbound, outer);
            let mut buffer = [&[0; ROOM][..], &octets, &[0; ROOM]].concat();
            let mut packet = SlicePacket::new(&mut buffer, ROOM, octets.len()).unwrap();
            if outbound.seal(&mut context, 7, None, &mut packet).is_ok() && outer.is_some() {
                // What was sealed opens to what it was.
                let located = inbound.locate(packet.packet()).unwrap();
                inbound.open(&mut context, located, 7, &mut packet).unwrap();
                prop_assert_eq!(packet.packet(), &octets[..]);
            }
        }
    }
}
