// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The attacker peer: one who has proved who it is, and whose authentic messages are wrong in one octet.
#![allow(clippy::unwrap_used)]

mod peers;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::algorithm::{Encryption, Group, Integrity, Prf};
use ikev2d_proto::config::{EndpointConfig, Identity};
use ikev2d_proto::crypto::{Crypto, CryptoError, KeyExchange};
use zeroize::Zeroizing;

use peers::Pair;

/// Which octet behind the HASH is wrong, and by which bits.
type Lie = (usize, u8);

/// Cryptography that lies once, with a HASH and a cipher that agree about it.
struct Lying {
    honest: OpensslCrypto,
    /// For the next HASH.
    next: Mutex<Option<Lie>>,
    /// For the encryption of the message whose HASH has it.
    hashed: Mutex<Option<(usize, Lie)>>,
    /// Messages that had a lie.
    told: AtomicU64,
}

impl Crypto for Lying {
    fn random(&self, out: &mut [u8]) {
        self.honest.random(out);
    }

    fn generate(&self, group: Group) -> Result<Box<dyn KeyExchange>, CryptoError> {
        self.honest.generate(group)
    }

    fn prf(
        &self,
        prf: Prf,
        key: &[u8],
        parts: &[&[u8]],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        // HASH(1): a message id and a chain of payloads.
        let [id, chain] = parts else {
            return self.honest.prf(prf, key, parts);
        };
        let mut next = self.next.lock().unwrap();
        let lie = next.filter(|(at, _)| id.len() == 4 && *at < chain.len());
        let Some((at, bits)) = lie else {
            return self.honest.prf(prf, key, parts);
        };
        *next = None;
        let mut wrong = chain.to_vec();
        wrong[at] ^= bits;
        let hash = self.honest.prf(prf, key, &[id, &wrong])?;
        *self.hashed.lock().unwrap() = Some((4 + hash.len(), (at, bits)));
        Ok(hash)
    }

    fn cbc(
        &self,
        encryption: Encryption,
        encrypt: bool,
        key: &[u8],
        iv: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        if encrypt && let Some((behind, (at, bits))) = self.hashed.lock().unwrap().take() {
            data[behind + at] ^= bits;
            self.told.fetch_add(1, Ordering::Relaxed);
        }
        self.honest.cbc(encryption, encrypt, key, iv, data)
    }

    fn integrity(
        &self,
        integrity: Integrity,
        key: &[u8],
        parts: &[&[u8]],
    ) -> Result<Vec<u8>, CryptoError> {
        self.honest.integrity(integrity, key, parts)
    }

    fn aead_seal(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8],
        aad: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        self.honest.aead_seal(encryption, key, iv, aad, data)
    }

    fn aead_open(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8],
        aad: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        self.honest.aead_open(encryption, key, iv, aad, data)
    }

    fn hash(&self, beneath: Prf, parts: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
        self.honest.hash(beneath, parts)
    }

    fn sha1(&self, parts: &[&[u8]]) -> [u8; 20] {
        self.honest.sha1(parts)
    }
}

fn lying() -> (Arc<Lying>, Pair) {
    let crypto = Arc::new(Lying {
        honest: OpensslCrypto::new().unwrap(),
        next: Mutex::default(),
        hashed: Mutex::default(),
        told: AtomicU64::new(0),
    });
    let change =
        |_: bool, _: &mut ikev2d_proto::config::Connection, config: &mut EndpointConfig| {
            config.retransmit_tries = 1;
            config.retransmit_timeout = Duration::from_secs(1);
        };
    (crypto.clone(), Pair::with_crypto(crypto, change))
}

/// R3, I01, I06, I07, I10, CVE-2023-38711, CVE-2014-9221: an authentic first message of quick mode with each
/// of its octets changed. Nothing comes of it but a child of the configured selectors, or a refusal, and the
/// next one that is right works.
#[test]
fn no_wrong_octet_in_quick_mode_breaks_anything() {
    let (crypto, mut pair) = lying();
    pair.up();
    let (mut at, mut whole) = (0, false);
    while !whole {
        for bits in [0x01, 0x80, 0xff] {
            let before = crypto.told.load(Ordering::Relaxed);
            *crypto.next.lock().unwrap() = Some((at, bits));
            pair.initiate(0, Some("net"));
            pair.run(Duration::from_secs(8));
            let told = crypto.told.load(Ordering::Relaxed) - before;
            // No octet is left to be changed.
            whole = crypto.next.lock().unwrap().take().is_some();
            assert!(told == 1 || whole);
            let sas: Vec<_> = pair.sides[1].endpoint.ike_sas().collect();
            assert_eq!(sas.len(), 1, "octet {at}");
            assert_eq!(sas[0].remote_id, &Identity::parse("a.test"));
            for child in &sas[0].children {
                let (local, remote) = (&child.sa.ts_local, &child.sa.ts_remote);
                let shown = format!("{local:?} {remote:?}");
                assert!(
                    shown.contains("10.2.0.0") && shown.contains("10.1.0.0"),
                    "{shown}"
                );
            }
        }
        at += 1;
    }
    assert!(at > 100, "{at} octets");
    // What is right still works, in both directions.
    let old = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, old).unwrap();
    pair.run(Duration::from_secs(30));
    let last = pair.sides[0].sending.last().unwrap();
    assert!(pair.sides[1].inbound.contains_key(last));
    let last = pair.sides[1].sending.last().unwrap();
    assert!(pair.sides[0].inbound.contains_key(last));
}

/// R3, I10, CVE-2019-10155, CVE-2023-38712: the same of a deletion and of a question whether we live.
#[test]
fn no_wrong_octet_in_an_informational_message_breaks_anything() {
    for deletes in [true, false] {
        let (crypto, mut pair) = lying();
        let (mut at, mut whole) = (0, false);
        while !whole {
            for bits in [0x01, 0x80, 0xff] {
                if pair.sides[0].endpoint.stats().established == 0
                    || pair.sides[1].endpoint.stats().established == 0
                {
                    // A wrong octet may be the deletion of all.
                    (_, pair) = (0, Pair::with_crypto(crypto.clone(), |_, _, _| {}));
                }
                pair.initiate(0, Some("net"));
                pair.run(Duration::from_secs(5));
                *crypto.next.lock().unwrap() = Some((at, bits));
                let (child, ike) = (pair.child(0), pair.ike(0));
                let endpoint = &mut pair.sides[0].endpoint;
                match deletes {
                    true => endpoint.terminate_child(pair.now, child).unwrap(),
                    false => endpoint.check_liveness(pair.now, ike).unwrap(),
                }
                pair.run(Duration::from_secs(1));
                whole = crypto.next.lock().unwrap().take().is_some();
                assert!(pair.sides[1].endpoint.stats().established <= 1);
            }
            at += 1;
        }
        assert!(at >= 16, "{at} octets");
    }
}
