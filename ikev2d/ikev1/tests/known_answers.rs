// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Keys of phase 1 against another implementation's, and NIST's.
#![allow(clippy::unwrap_used)]

use ikev1_proto::keys::{Nonces, Skeyid};
use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::algorithm::Prf;

/// How many of a file's vectors agree, with signatures and with preshared keys.
fn agree(vectors: &str) -> [usize; 2] {
    let crypto = OpensslCrypto::new().unwrap();
    let mut tried = [0, 0];
    for line in vectors.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let prf = match words[0] {
            "SHA-1" => Prf::HmacSha1,
            "SHA-256" => Prf::HmacSha256,
            "SHA-384" => Prf::HmacSha384,
            "SHA-512" => Prf::HmacSha512,
            other => panic!("hash {other}"),
        };
        let octets = |at: usize| hex::decode(words[at]).unwrap();
        let cookie = |at: usize| u64::from_str_radix(words[at], 16).unwrap();
        let psk = (words[6] != "-").then(|| octets(6));
        let (initiator, responder) = (octets(3), octets(4));
        let nonces = Nonces {
            initiator: &initiator,
            responder: &responder,
        };
        let cookies = (cookie(1), cookie(2));
        let derived = Skeyid::derive(&crypto, prf, psk.as_deref(), nonces, &octets(5), cookies);
        let derived = derived.unwrap();
        assert_eq!(derived.skeyid.to_vec(), octets(7), "{line}");
        assert_eq!(derived.d.to_vec(), octets(8), "{line}");
        assert_eq!(derived.a.to_vec(), octets(9), "{line}");
        assert_eq!(derived.e.to_vec(), octets(10), "{line}");
        tried[usize::from(psk.is_some())] += 1;
    }
    tried
}

/// S52: with preshared keys and with signatures, for nonces and secrets of many lengths.
#[test]
fn phase_1_derives_what_libreswan_derives() {
    assert_eq!(agree(include_str!("data/ikev1_kdf.txt")), [16, 16]);
}

/// S52: NIST's own, with nonces and secrets as long as they may be.
#[test]
fn phase_1_derives_what_nist_says() {
    assert_eq!(agree(include_str!("data/ikev1_kdf_nist.txt")), [1, 1]);
}
