// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets at the AH transforms: the walk over options and extension headers, opening, and sealing of
//! whatever claims to be IP.
#![no_main]

use std::sync::LazyLock;

use esp::ah::AhTransform;
use esp::packet::{PacketBuffer, SlicePacket};
use libfuzzer_sys::fuzz_target;
use offload_api::sa::{Direction, KeyMaterial, Mode, OuterHeaders, SaParams, Spi, Suite};

static TRANSFORMS: LazyLock<Vec<AhTransform>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for suite in Suite::all_ah() {
        for direction in [Direction::Inbound, Direction::Outbound] {
            for outer in [None, Some(["192.0.2.1", "192.0.2.2"]), Some(["2001:db8::1", "2001:db8::2"])] {
                let spi = Spi::new(0x0101_0101).unwrap();
                let integrity = vec![2; suite.integrity_key_len()];
                let keys = KeyMaterial::from_keymat(suite, &[], &integrity).unwrap();
                let sa = SaParams {
                    mode: if outer.is_some() { Mode::Tunnel } else { Mode::Transport },
                    outer: outer.map(|[source, destination]| OuterHeaders {
                        source: source.parse().unwrap(),
                        destination: destination.parse().unwrap(),
                        udp: None,
                    }),
                    ..SaParams::tunnel(spi, direction, suite, keys)
                };
                all.push(AhTransform::new(&sa).unwrap());
            }
        }
    }
    all
});

fuzz_target!(|data: &[u8]| {
    let Some((which, octets)) = data.split_first() else { return };
    let transform = &TRANSFORMS[usize::from(*which) % TRANSFORMS.len()];
    let mut buffer = vec![0; 128 + octets.len() + 128];
    buffer[128..128 + octets.len()].copy_from_slice(octets);
    let mut packet = SlicePacket::new(&mut buffer, 128, octets.len()).unwrap();
    let mut context = transform.take_context().unwrap();
    match transform.direction() {
        Direction::Inbound => {
            if let Ok(located) = transform.locate(packet.packet()) {
                let opened = transform.open(&mut context, located, 7, &mut packet);
                // Nobody forges 12 octets of ICV by chance.
                assert!(opened.is_err());
                assert!(packet.packet().is_empty());
            }
        }
        Direction::Outbound => {
            let _ = transform.seal(&mut context, 7, None, &mut packet);
        }
    }
    transform.put_context(context);
});
