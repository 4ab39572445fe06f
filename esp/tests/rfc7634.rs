// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The example packet of RFC 7634 appendix A.
#![allow(clippy::unwrap_used)]

use esp::packet::SlicePacket;
use esp::transform::Transform;
use offload_api::sa::{Direction, KeyMaterial, Numbering, SaParams, Spi, Suite};

const KEYMAT: &str = "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3";
const SOURCE: &str = "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10\
    0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223\
    2425262728292a2b2c2d2e2f3031323334353637";
/// SPI, sequence number, IV, ciphertext, tag.
const SEALED: &str = "0102030400000005101112131415161724039428b97f417e3c13753a4f05087b\
    67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb61aa95dfab4c02f7\
    2aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da\
    9165b82829f641e076aaa8266b7fb0f7b11b369907e1ad43";

fn transform(direction: Direction) -> Transform {
    let suite = Suite::CHACHA20_POLY1305;
    let keymat = hex::decode(KEYMAT).unwrap();
    Transform::new(&SaParams {
        esn: false,
        replay_window: 0,
        numbering: Numbering::Explicit,
        ..SaParams::tunnel(
            Spi::new(0x0102_0304).unwrap(),
            direction,
            suite,
            KeyMaterial::from_keymat(suite, &keymat, &[]).unwrap(),
        )
    })
    .unwrap()
}

/// A buffer with room around the packet.
fn buffer(packet: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xee; 64 + packet.len() + 64];
    buffer[64..64 + packet.len()].copy_from_slice(packet);
    buffer
}

#[test]
fn the_example_is_sealed_octet_for_octet_and_opened() {
    let (source, sealed) = (hex::decode(SOURCE).unwrap(), hex::decode(SEALED).unwrap());

    let outbound = transform(Direction::Outbound);
    let mut memory = buffer(&source);
    let mut packet = SlicePacket::new(&mut memory, 64, source.len()).unwrap();
    let mut iv = [0; 16];
    iv[..8].copy_from_slice(&[0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17]);
    let mut context = outbound.take_context().unwrap();
    outbound
        .seal(&mut context, 5, Some(&iv), &mut packet)
        .unwrap();
    assert_eq!(hex::encode(octets(&mut packet)), hex::encode(&sealed));

    let inbound = transform(Direction::Inbound);
    let mut memory = buffer(&sealed);
    let mut packet = SlicePacket::new(&mut memory, 64, sealed.len()).unwrap();
    let located = inbound.locate(&sealed).unwrap();
    assert_eq!(located.sequence_low, 5);
    let mut context = inbound.take_context().unwrap();
    let next_header = inbound.open(&mut context, located, 5, &mut packet).unwrap();
    assert_eq!(next_header, 4);
    assert_eq!(hex::encode(octets(&mut packet)), hex::encode(&source));
}

fn octets(packet: &mut SlicePacket<'_>) -> Vec<u8> {
    use esp::packet::PacketBuffer;
    packet.packet().to_vec()
}
