// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Phase 1 of IKEv1 by signatures, in both modes, between two endpoints in memory.
#![allow(clippy::unwrap_used)]

#[path = "../../ikev1/tests/peers/mod.rs"]
mod peers;
mod pki;

use std::sync::Arc;
use std::time::Duration;

use ikev2d_crypto::credential::{KeyKind, KeySigner, SignaturePolicy};
use ikev2d_crypto::trust::{Revocation, Trust, TrustAnchors};
use ikev2d_proto::config::*;
use ikev2d_proto::credential::{Certificate, Claim, Scheme, Signer, Verifier as _};
use ikev2d_proto::crypto::CryptoError;
use openssl::dsa::Dsa;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use peers::Pair;
use pki::{Holder, Template, dsa, ec, p256, rsa};

fn policy(kind: KeyKind) -> SignaturePolicy {
    SignaturePolicy {
        kind,
        ..SignaturePolicy::default()
    }
}

fn root() -> Holder {
    Template::authority("Root").issue(p256(), None)
}

/// Ends with these certificates of one root, each with its policy.
fn between(
    root: &Holder,
    ends: &[Holder; 2],
    kinds: [KeyKind; 2],
    change: impl Fn(&mut Connection),
) -> Pair {
    Pair::new(|a, connection, _| {
        let (own, kind) = (&ends[usize::from(!a)], kinds[usize::from(!a)]);
        connection.local_auth = LocalAuth::PublicKey(own.signer(&[], &policy(kind)));
        connection.remote_auth = RemoteAuth::PublicKey(root.trust(policy(kind)));
        change(connection);
    })
}

fn ends(root: &Holder, keys: [PKey<Private>; 2]) -> [Holder; 2] {
    let [a, b] = keys;
    [("a.test", a), ("b.test", b)].map(|(name, key)| Template::end(name).issue(key, Some(root)))
}

/// S28, S29, S43: RSA, ECDSA on three curves and DSA, in main and aggressive mode; the list of SAs tells what is
/// of another time.
#[test]
fn every_kind_of_key_authenticates_in_both_modes() {
    let root = root();
    for (key, kind, weak) in [
        (rsa(), KeyKind::Any, &[][..]),
        (p256(), KeyKind::Any, &[]),
        (ec(Nid::SECP384R1), KeyKind::Any, &[]),
        (ec(Nid::SECP521R1), KeyKind::Any, &[]),
        (dsa(), KeyKind::Dsa, &["dsa"]),
    ] {
        let ends = ends(&root, [key.clone(), key]);
        for aggressive in [false, true] {
            // The PRF is no hash of 160 bits: what DSS signs is made with SHA-1 all the same.
            let mut pair = between(&root, &ends, [kind; 2], |connection| {
                connection.ikev1.aggressive = aggressive;
            });
            pair.up();
            for side in &pair.sides {
                let sa = side.endpoint.ike_sas().next().unwrap();
                assert_eq!(sa.weak(), weak);
            }
        }
    }
}

/// A peer with this certificate, which says that it signs by DSS.
#[derive(Debug)]
struct Liar {
    shown: Arc<KeySigner>,
    key: Arc<KeySigner>,
    signs: Scheme,
}

impl Signer for Liar {
    fn certificates(&self) -> &[Certificate] {
        self.shown.certificates()
    }

    fn schemes(&self) -> &[Scheme] {
        &[Scheme::Dss]
    }

    fn sign(&self, _: Scheme, octets: &[u8]) -> Result<Vec<u8>, CryptoError> {
        self.key.sign(self.signs, octets)
    }
}

/// S29: another authority, another key than the certificate's, an RSA certificate behind method 2, or RSA here and
/// DSA there: nobody is believed, whoever begins.
#[test]
fn dsa_of_others_is_refused_in_both_modes() {
    let (root, other) = (root(), root());
    let good = ends(&root, [dsa(), dsa()]);
    let rsa = Template::end("a.test").issue(rsa(), Some(&root));
    let stranger = Template::end("a.test").issue(dsa(), Some(&other));
    let by = |holder: &Holder, kind| holder.signer(&[], &policy(kind));
    let [own, others] = [&good[0], &good[1]].map(|holder| by(holder, KeyKind::Dsa));
    let rsa = by(&rsa, KeyKind::Any);
    let liar = |shown: &Arc<KeySigner>, key: &Arc<KeySigner>, signs| -> Arc<dyn Signer> {
        let (shown, key) = (shown.clone(), key.clone());
        Arc::new(Liar { shown, key, signs })
    };
    let attempts: [Arc<dyn Signer>; 4] = [
        by(&stranger, KeyKind::Dsa),
        liar(&own, &others, Scheme::Dss),
        liar(&rsa, &rsa, Scheme::RsaBare),
        rsa.clone(),
    ];
    for (at, signer) in attempts.iter().enumerate() {
        for (aggressive, begins) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
            let mut pair = Pair::new(|a, connection, _| {
                connection.ikev1.aggressive = aggressive;
                connection.local_auth = LocalAuth::PublicKey(match a {
                    true => signer.clone(),
                    false => others.clone(),
                });
                connection.remote_auth = RemoteAuth::PublicKey(root.trust(policy(KeyKind::Dsa)));
            });
            pair.initiate(begins, Some("net"));
            pair.run(Duration::from_secs(60));
            pair.agree(0);
            let established = pair.sides[1].endpoint.stats().established;
            assert_eq!(established, 0, "{at}, aggressive {aggressive}");
        }
    }
    // The same with nobody lying.
    let mut pair = between(&root, &good, [KeyKind::Dsa; 2], |_| {});
    pair.up();
}

/// S29: by its name alone, never as "any key"; RFC 2409's sizes; and certificates are not signed with SHA-1, unless
/// they are pinned themselves.
#[test]
fn dsa_is_believed_where_it_is_asked_for_by_name() {
    let root = root();
    let key = dsa();
    let end = Template::end("a.test").issue(key.clone(), Some(&root));
    let hash = [7; 20];
    let claim = |end: &Holder| Claim {
        identity: Identity::parse("a.test"),
        certificates: vec![Certificate {
            encoding: Certificate::X509,
            octets: end.certificate.to_der().unwrap(),
        }],
        schemes: vec![Scheme::Dss],
        signature: end
            .signer(&[], &policy(KeyKind::Dsa))
            .sign(Scheme::Dss, &hash)
            .unwrap(),
        octets: hash.to_vec(),
    };
    root.trust(policy(KeyKind::Dsa))
        .verify(&claim(&end))
        .unwrap();
    for kind in [KeyKind::Any, KeyKind::Rsa, KeyKind::Ecdsa] {
        root.trust(policy(kind)).verify(&claim(&end)).unwrap_err();
        let certificates = [end.certificate.clone()];
        let signer = KeySigner::with_certificates(key.clone(), &certificates, &policy(kind));
        let error = signer.unwrap_err().to_string();
        assert!(error.contains("DSA 1024 bits with q of 160"), "{error}");
    }

    let longer = PKey::from_dsa(Dsa::generate(2048).unwrap()).unwrap();
    let longer = Template::end("a.test").issue(longer, Some(&root));
    let signer =
        KeySigner::with_certificates(longer.key, &[longer.certificate], &policy(KeyKind::Dsa));
    let error = signer.unwrap_err().to_string();
    assert!(error.contains("DSA 2048 bits with q of 256"), "{error}");
    assert!(error.contains("with q of 160"), "{error}");

    let authority = Template::authority("DSA").issue(dsa(), None);
    let below = Template::end("a.test").issue(dsa(), Some(&authority));
    let trust = authority.trust(policy(KeyKind::Dsa));
    trust.verify(&claim(&below)).unwrap();
    // Elsewhere such an authority is too weak.
    let rsa = Template::end("a.test").issue(rsa(), Some(&authority));
    let mut by_rsa = claim(&below);
    by_rsa.certificates[0].octets = rsa.certificate.to_der().unwrap();
    by_rsa.schemes = vec![Scheme::RsaBare];
    by_rsa.signature = rsa
        .signer(&[], &policy(KeyKind::Any))
        .sign(Scheme::RsaBare, &hash)
        .unwrap();
    let refused = authority.trust(policy(KeyKind::Any)).verify(&by_rsa);
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("too weak"), "{refused}");

    let by_sha1 = Template {
        digest: MessageDigest::sha1(),
        ..Template::end("a.test")
    };
    let by_sha1 = by_sha1.issue(dsa(), Some(&authority));
    let refused = trust.verify(&claim(&by_sha1)).unwrap_err().to_string();
    assert!(refused.contains("too weak"), "{refused}");
    let pinned = TrustAnchors {
        certificates: vec![by_sha1.certificate.clone()],
        ..TrustAnchors::default()
    };
    let pinned = Trust::new(pinned, Revocation::IfAvailable, policy(KeyKind::Dsa)).unwrap();
    pinned.verify(&claim(&by_sha1)).unwrap();
}
