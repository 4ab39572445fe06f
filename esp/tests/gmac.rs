// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ENCR_NULL_AUTH_AES_GMAC (RFC 4543 §3): the packet of draft-mcgrew-gcm-test-01.
#![allow(clippy::unwrap_used)]

use esp::cipher::{BadIcv, CipherContext};
use offload_api::sa::{KeyMaterial, Suite};

const KEYMAT: &str = "4c80cdefbb5d10da906ac73c3613a63422433c64";
/// SPI, sequence number, IV, text with its trailer.
const PACKET: &str = "00004321000000070000000000000000\
    45000030da3a00008001df3bc0a80005c0a800010800c6cd0200070061626364\
    65666768696a6b6c6d6e6f707172737401020201";
const ICV: &str = "f2a9a836e155106aa8dcd618e4099aaa";

#[test]
fn the_example_gets_its_icv_and_no_other_number_s() {
    let suite = Suite::from_name("aes128gmac").unwrap();
    let keys = KeyMaterial::from_keymat(suite, &hex::decode(KEYMAT).unwrap(), &[]).unwrap();
    let plain = hex::decode(PACKET).unwrap();
    let mut packet = [&plain[..], &[0; 16]].concat();
    let mut seals = CipherContext::new(suite, &keys, true).unwrap();
    seals.seal(&mut packet, None).unwrap();
    assert_eq!(hex::encode(&packet), [PACKET, ICV].concat());

    let mut opens = CipherContext::new(suite, &keys, false).unwrap();
    opens.open(&mut packet.clone(), None).unwrap();
    // An extended number's high half counts, though it is not sent.
    assert_eq!(opens.open(&mut packet.clone(), Some(0)), Err(BadIcv));
    for at in 0..packet.len() {
        let mut forged = packet.clone();
        forged[at] ^= 0x10;
        assert_eq!(opens.open(&mut forged, None), Err(BadIcv), "octet {at}");
    }
}
