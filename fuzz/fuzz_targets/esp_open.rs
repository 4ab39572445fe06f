// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets at the ESP transforms: locating, opening, and sealing of whatever claims to be IP.
#![no_main]

use std::sync::LazyLock;

use esp::packet::{PacketBuffer, SlicePacket};
use esp::transform::Transform;
use libfuzzer_sys::fuzz_target;
use offload_api::sa::{
    Direction, KeyMaterial, Mode, OuterHeaders, SaParams, Spi, Suite, UdpEncapsulation,
};

static TRANSFORMS: LazyLock<Vec<Transform>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for suite in Suite::all() {
        for mode in [Mode::Tunnel, Mode::Transport] {
            for direction in [Direction::Inbound, Direction::Outbound] {
                for outer in [false, true] {
                    let udp = UdpEncapsulation { source_port: 4500, destination_port: 4500 };
                    let outer = outer.then(|| OuterHeaders {
                        source: "192.0.2.1".parse().unwrap(),
                        destination: "192.0.2.2".parse().unwrap(),
                        udp: Some(udp),
                    });
                    let spi = Spi::new(0x0101_0101).unwrap();
                    let key = vec![1; suite.cipher_key_len() + suite.salt_len()];
                    let integrity = vec![2; suite.integrity_key_len()];
                    let keys = KeyMaterial::from_keymat(suite, &key, &integrity).unwrap();
                    let sa = SaParams {
                        mode,
                        replay_window: 64,
                        outer,
                        ..SaParams::tunnel(spi, direction, suite, keys)
                    };
                    all.push(Transform::new(&sa).unwrap());
                }
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
                // Nobody forges 16 octets of ICV by chance.
                assert!(opened.is_err());
                assert!(packet.packet().is_empty());
            }
        }
        Direction::Outbound => {
            let _ = transform.seal(&mut context, 7, Some(&[3; 16]), &mut packet);
        }
    }
    transform.put_context(context);
});
