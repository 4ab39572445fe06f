// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the targets for ESP and AH share: SAs, and what is done with a packet.

use offload_api::sa::{
    Direction, KeyMaterial, Mode, OuterHeaders, SaParams, Spi, Suite, UdpEncapsulation,
};

/// Outer headers between two addresses, UDP around ESP or not.
pub fn outer([source, destination]: [&str; 2], udp: bool) -> OuterHeaders {
    let ports = UdpEncapsulation {
        source_port: 4500,
        destination_port: 4500,
    };
    OuterHeaders {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        udp: udp.then_some(ports),
    }
}

/// An SA in both directions.
pub fn both_ways(suite: Suite, mode: Mode, outer: Option<OuterHeaders>) -> [SaParams; 2] {
    [Direction::Inbound, Direction::Outbound].map(|direction| {
        let key = vec![1; suite.cipher_key_len() + suite.salt_len()];
        let integrity = vec![2; suite.integrity_key_len()];
        let keys = KeyMaterial::from_keymat(suite, &key, &integrity).unwrap();
        let spi = Spi::new(0x0101_0101).unwrap();
        SaParams {
            mode,
            outer,
            ..SaParams::tunnel(spi, direction, suite, keys)
        }
    })
}

/// A target: the first octet says which of the transforms gets the others as a packet.
macro_rules! packets_at {
    ($transforms:expr, $iv:expr) => {
        libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            let Some((which, octets)) = data.split_first() else {
                return;
            };
            let transform = &$transforms[usize::from(*which) % $transforms.len()];
            let mut buffer = vec![0; 128 + octets.len() + 128];
            buffer[128..128 + octets.len()].copy_from_slice(octets);
            let mut packet = SlicePacket::new(&mut buffer, 128, octets.len()).unwrap();
            let mut context = transform.take_context().unwrap();
            match transform.direction() {
                Direction::Inbound => {
                    if let Ok(located) = transform.locate(packet.packet()) {
                        let opened = transform.open(&mut context, located, 7, &mut packet);
                        // Nobody forges an ICV by chance.
                        assert!(opened.is_err());
                        assert!(packet.packet().is_empty());
                    }
                }
                Direction::Outbound => {
                    let _ = transform.seal(&mut context, 7, $iv, &mut packet);
                }
            }
            transform.put_context(context);
        });
    };
}
pub(crate) use packets_at;
