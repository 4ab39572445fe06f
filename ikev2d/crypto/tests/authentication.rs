// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IKE_AUTH by keys and certificates, each side in its own way, between two endpoints in memory.
#![allow(clippy::unwrap_used)]

mod peers;
mod pki;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ikev2d_crypto::credential::{KeyKind, KeySigner, SignaturePolicy};
use ikev2d_crypto::name;
use ikev2d_crypto::trust::{Revocation, Trust, TrustAnchors};
use ikev2d_proto::config::*;
use ikev2d_proto::credential::{Certificate, Claim, Hash, Refusal, Statuses, Verifier};
use ikev2d_proto::event::Event;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use peers::Pair;
use pki::{Holder, Template, ec, p256, rsa};

fn policy(kind: KeyKind, hashes: &[Hash]) -> SignaturePolicy {
    SignaturePolicy {
        kind,
        bits: 0,
        hashes: hashes.to_vec(),
    }
}

fn any() -> SignaturePolicy {
    SignaturePolicy::default()
}

/// Both ends with a certificate of the same root.
fn both(keys: [PKey<Private>; 2], signs: &SignaturePolicy, believes: &SignaturePolicy) -> Pair {
    let root = Template::authority("Root").issue(p256(), None);
    let [a, b] = keys;
    let ends = [
        Template::end("a.test").issue(a, Some(&root)),
        Template::end("b.test").issue(b, Some(&root)),
    ];
    Pair::new(|is_a, connection, _| {
        let own = if is_a { &ends[0] } else { &ends[1] };
        connection.local_auth = LocalAuth::PublicKey(own.signer(&[], signs));
        connection.remote_auth = RemoteAuth::PublicKey(root.trust(believes.clone()));
    })
}

fn fails(pair: &mut Pair) -> String {
    let now = pair.now;
    pair.sides[0]
        .endpoint
        .initiate(now, "gw", Some("net"), None)
        .unwrap();
    pair.run(Duration::from_secs(60));
    for side in &pair.sides {
        assert!(side.inbound.is_empty() && side.outbound.is_empty());
        assert_eq!(side.endpoint.ike_sas().count(), 0);
    }
    // A responder may have believed, until the initiator told it otherwise (RFC 7296 §2.21.2).
    assert_eq!(pair.count(0, |e| matches!(e, Event::IkeUp { .. })), 0);
    let downs = pair.sides.iter().flat_map(|side| &side.events);
    downs
        .filter_map(|event| match event {
            Event::IkeDown { reason, .. } => Some(reason.clone()),
            _ => None,
        })
        .collect::<Vec<_>>()
        .join("; ")
}

/// S4, S28, S97, B6, B7, S2: RSA with PKCS #1 and PSS, ECDSA on three curves, Ed25519 and Ed448.
#[test]
fn every_kind_of_key_authenticates() {
    let rsa_pss = policy(KeyKind::RsaPss, &[]);
    let keys: Vec<(PKey<Private>, SignaturePolicy)> = vec![
        (rsa(), any()),
        (rsa(), rsa_pss),
        (rsa(), policy(KeyKind::Rsa, &[Hash::Sha512])),
        (p256(), any()),
        (ec(Nid::SECP384R1), any()),
        (ec(Nid::SECP521R1), policy(KeyKind::Ecdsa, &[Hash::Sha512])),
        (PKey::generate_ed25519().unwrap(), any()),
        (PKey::generate_ed448().unwrap(), any()),
    ];
    for (key, policy) in keys {
        let mut pair = both([key.clone(), key], &policy, &policy);
        pair.up();
        assert_eq!(pair.recorded.len(), 4);
    }
}

/// S97: the two ends may differ: certificates here, a preshared key there, and both ways round.
#[test]
fn each_end_authenticates_in_its_own_way() {
    let root = Template::authority("Root").issue(p256(), None);
    for signer_is_a in [true, false] {
        let common = if signer_is_a { "a.test" } else { "b.test" };
        let end = Template::end(common).issue(rsa(), Some(&root));
        let mut pair = Pair::new(|is_a, connection, _| {
            if is_a == signer_is_a {
                connection.local_auth = LocalAuth::PublicKey(end.signer(&[], &any()));
            } else {
                connection.remote_auth = RemoteAuth::PublicKey(root.trust(any()));
            }
        });
        pair.up();
    }
    let mut pair = both([rsa(), PKey::generate_ed25519().unwrap()], &any(), &any());
    pair.up();
}

/// A03: nobody gets in with a preshared key where a signature is asked for, or the other way round.
#[test]
fn the_other_kind_of_authentication_is_refused() {
    let root = Template::authority("Root").issue(p256(), None);
    let end = Template::end("a.test").issue(p256(), Some(&root));
    let mut pair = Pair::new(|is_a, connection, _| {
        if !is_a {
            connection.remote_auth = RemoteAuth::PublicKey(root.trust(any()));
        }
    });
    assert!(fails(&mut pair).contains("kind of authentication"));
    let mut pair = Pair::new(|is_a, connection, _| {
        if is_a {
            connection.local_auth = LocalAuth::PublicKey(end.signer(&[], &any()));
        }
    });
    assert!(fails(&mut pair).contains("kind of authentication"));
    // The responder's side of it.
    let mut pair = Pair::new(|is_a, connection, _| {
        if is_a {
            connection.remote_auth = RemoteAuth::PublicKey(root.trust(any()));
        }
    });
    assert!(fails(&mut pair).contains("wants a public key"));
}

/// S102: an authority that is not the connection's own does not count, on either side.
#[test]
fn authorities_are_pinned_to_the_connection() {
    let (ours, theirs) = (
        Template::authority("Ours").issue(p256(), None),
        Template::authority("Theirs").issue(p256(), None),
    );
    for deceived_is_a in [true, false] {
        let a = Template::end("a.test").issue(p256(), Some(&ours));
        let b = Template::end("b.test").issue(p256(), Some(&ours));
        let mut pair = Pair::new(|is_a, connection, _| {
            let own = if is_a { &a } else { &b };
            let believed = if is_a == deceived_is_a {
                &theirs
            } else {
                &ours
            };
            connection.local_auth = LocalAuth::PublicKey(own.signer(&[], &any()));
            connection.remote_auth = RemoteAuth::PublicKey(believed.trust(any()));
        });
        let said = fails(&mut pair);
        assert!(said.contains("failed to authenticate"), "{said}");
    }
}

/// A03: another key's signature with the same identity: two certificates of one name, the key of one.
#[test]
fn a_valid_certificate_of_another_identity_is_refused() {
    let root = Template::authority("Root").issue(p256(), None);
    let good = Template::end("a.test").issue(p256(), Some(&root));
    let bad = Template::end("mallory.test").issue(p256(), Some(&root));
    let mut pair = Pair::new(|is_a, connection, _| {
        // Mallory claims to be b.test.
        let own = if is_a { &good } else { &bad };
        connection.local_auth = LocalAuth::PublicKey(own.signer(&[], &any()));
        connection.remote_auth = RemoteAuth::PublicKey(root.trust(any()));
    });
    let said = fails(&mut pair);
    assert!(said.contains("is not of b.test"), "{said}");
}

/// `remote.auth` limits what is taken; a signer without anything that the peer can verify says so.
#[test]
fn policy_is_enforced_on_the_peer() {
    let wanted = policy(KeyKind::Ecdsa, &[Hash::Sha384]);
    let mut pair = both([p256(), p256()], &any(), &wanted);
    assert!(fails(&mut pair).contains("does not allow"));
    let mut pair = both([p256(), p256()], &wanted, &wanted);
    pair.up();
    // SHA-1 by method 1 must be allowed by name on both sides (RFC 8247 §3.2).
    let old = policy(KeyKind::Rsa, &[Hash::Sha1]);
    let mut pair = both([rsa(), rsa()], &old, &any());
    assert!(fails(&mut pair).contains("failed to authenticate"));
    let mut pair = both([rsa(), rsa()], &old, &old);
    pair.up();
}

/// Identities may be distinguished names, compared as X.500 wants it and not octet by octet.
#[test]
fn distinguished_names_are_identities() {
    let root = Template::authority("Root").issue(p256(), None);
    let a = Template::end("a.test").issue(p256(), Some(&root));
    let b = Template::end("b.test").issue(p256(), Some(&root));
    let mut pair = Pair::new(|is_a, connection, _| {
        let (own, peer) = if is_a { (&a, "b.test") } else { (&b, "a.test") };
        let subject = own.certificate.subject_name().to_der().unwrap();
        connection.local_id = Identity::Dn(subject);
        connection.remote_id = name::identity(&format!("C=ch, O=ESPLANADE  test, CN={peer}"));
        connection.local_auth = LocalAuth::PublicKey(own.signer(&[], &any()));
        connection.remote_auth = RemoteAuth::PublicKey(root.trust(any()));
    });
    pair.up();
}

/// B32: raw public keys, sent in a CERT payload and pinned at the other end.
#[test]
fn raw_public_keys_authenticate() {
    let (a, b) = (p256(), PKey::generate_ed25519().unwrap());
    let mut pair = Pair::new(|is_a, connection, _| {
        let (own, peer) = if is_a { (&a, &b) } else { (&b, &a) };
        let peer = PKey::public_key_from_der(&peer.public_key_to_der().unwrap()).unwrap();
        let signer = KeySigner::raw(own.clone(), &any()).unwrap();
        let anchors = TrustAnchors {
            keys: vec![peer],
            ..TrustAnchors::default()
        };
        let trust = Trust::new(anchors, Revocation::Off, any()).unwrap();
        connection.local_auth = LocalAuth::PublicKey(Arc::new(signer));
        connection.remote_auth = RemoteAuth::PublicKey(Arc::new(trust));
    });
    pair.up();
}

/// Loss, duplication and retransmission while a signature is being made or verified change nothing.
#[test]
fn signatures_survive_a_bad_network() {
    for seed in 1..20 {
        let root = Template::authority("Root").issue(p256(), None);
        let a = Template::end("a.test").issue(p256(), Some(&root));
        let b = Template::end("b.test").issue(p256(), Some(&root));
        let mut pair = Pair::new(|is_a, connection, _| {
            let own: &Holder = if is_a { &a } else { &b };
            connection.local_auth = LocalAuth::PublicKey(own.signer(&[], &any()));
            connection.remote_auth = RemoteAuth::PublicKey(root.trust(any()));
        });
        pair.random = seed;
        pair.loss = 20;
        let now = pair.now;
        pair.sides[0]
            .endpoint
            .initiate(now, "gw", Some("net"), None)
            .unwrap();
        pair.run(Duration::from_secs(120));
        pair.agree(1);
    }
}

/// A responder with more signatures to make than it has time for: who asks again is served.
#[test]
fn a_peer_that_finds_us_busy_asks_again_and_is_not_refused() {
    let mut pair = both([p256(), p256()], &any(), &any());
    pair.sides[1].busy = 2;
    pair.up();
    assert_eq!(pair.sides[1].busy, 0);
    assert_eq!(pair.sides[1].endpoint.stats().auth_failures, 0);
    assert_eq!(pair.sides[0].endpoint.stats().retransmits, 2);
}

/// What responders say of a side's certificate.
#[derive(Debug)]
struct Said(Vec<Vec<u8>>);

impl Statuses for Said {
    fn answers(&self) -> Vec<Vec<u8>> {
        self.0.clone()
    }

    fn renew(&self) {}
}

/// Believes as another does, and keeps what comes.
#[derive(Debug)]
struct Keeps {
    trust: Arc<Trust>,
    asks: bool,
    came: Arc<Mutex<Vec<Certificate>>>,
}

impl Verifier for Keeps {
    fn authorities(&self) -> Vec<[u8; 20]> {
        self.trust.authorities()
    }

    fn asks_for_status(&self) -> bool {
        self.asks
    }

    fn verify(&self, claim: &Claim) -> Result<(), Refusal> {
        self.came.lock().unwrap().clone_from(&claim.certificates);
        self.trust.verify(claim)
    }
}

/// B31, RFC 4806: OCSP answers go to whom asks for them, behind the certificates, from either end.
#[test]
fn ocsp_answers_go_to_whom_asks_for_them() {
    let root = Template::authority("Root").issue(p256(), None);
    let ends = ["a.test", "b.test"].map(|name| Template::end(name).issue(p256(), Some(&root)));
    let answers = [b"one".to_vec(), vec![0x30; 2000]];
    for (asks, has, sends) in [
        (true, true, SendCert::IfAsked),
        (true, true, SendCert::Never),
        (true, false, SendCert::IfAsked),
        (false, true, SendCert::IfAsked),
    ] {
        let came = [(); 2].map(|()| Arc::new(Mutex::new(Vec::new())));
        let mut pair = Pair::new(|is_a, connection, _| {
            let side = usize::from(!is_a);
            let own = [ends[side].certificate.clone()];
            let signer = KeySigner::with_certificates(ends[side].key.clone(), &own, &any());
            let mut signer = signer.unwrap();
            if has {
                signer = signer.with_statuses(Arc::new(Said(answers.to_vec())));
            }
            connection.local_auth = LocalAuth::PublicKey(Arc::new(signer));
            connection.send_cert = sends;
            let pinned = TrustAnchors {
                certificates: vec![ends[1 - side].certificate.clone()],
                ..TrustAnchors::default()
            };
            let trust = Trust::new(pinned, Revocation::Off, any()).unwrap();
            connection.remote_auth = RemoteAuth::PublicKey(Arc::new(Keeps {
                trust: Arc::new(trust),
                asks,
                came: came[side].clone(),
            }));
        });
        pair.up();
        for came in &came {
            let came = came.lock().unwrap();
            let of = |encoding| {
                let of = came.iter().filter(move |c| c.encoding == encoding);
                of.map(|c| c.octets.clone()).collect::<Vec<_>>()
            };
            let expected = if asks && has && sends == SendCert::IfAsked {
                answers.to_vec()
            } else {
                Vec::new()
            };
            assert_eq!(of(Certificate::OCSP_CONTENT), expected, "{asks} {has}");
            let certificates = usize::from(sends == SendCert::IfAsked);
            assert_eq!(of(Certificate::X509).len(), certificates);
        }
    }
}
