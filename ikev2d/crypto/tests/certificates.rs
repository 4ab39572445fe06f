// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whose certificates are believed (RFC 5280 §6, RFC 4945), and whose are not (A04).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pki;

use ikev2d_crypto::credential::{KeyKind, KeySigner, SignaturePolicy};
use ikev2d_crypto::name;
use ikev2d_crypto::trust::{Revocation, Trust, TrustAnchors};
use ikev2d_proto::config::Identity;
use ikev2d_proto::credential::{Certificate, Claim, Hash, Refusal, Scheme, Signer, Verifier};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::extension::KeyUsage;
use pki::{Holder, Template, p256, revocation_list};

const OCTETS: &[u8] = b"what is signed";

fn root() -> Holder {
    Template::authority("Root").issue(p256(), None)
}

/// A peer's claim to be `identity`, by its key and with these certificates.
fn claim(identity: &str, holder: &Holder, sent: &[&Holder]) -> Claim {
    let signer = holder.signer(sent, &SignaturePolicy::default());
    let scheme = signer.schemes()[0];
    Claim {
        identity: name::identity(identity),
        certificates: signer.certificates().to_vec(),
        schemes: vec![scheme],
        signature: signer.sign(scheme, OCTETS).unwrap(),
        octets: OCTETS.to_vec(),
    }
}

fn judge(root: &Holder, claim: &Claim) -> Result<(), Refusal> {
    root.trust(SignaturePolicy::default()).verify(claim)
}

fn refused(root: &Holder, claim: &Claim, part: &str) {
    let refusal = judge(root, claim).expect_err(part).to_string();
    assert!(refusal.contains(part), "{refusal}, expected {part}");
}

/// S101, S102: certificates are checked to be signed by a trusted authority.
#[test]
fn a_certificate_of_a_trusted_authority_is_believed_and_anothers_is_not() {
    let (root, other) = (root(), root_named("Root"));
    let end = Template::end("a.test").issue(p256(), Some(&root));
    let good = claim("a.test", &end, &[]);
    judge(&root, &good).unwrap();
    refused(&other, &good, "certificate");
    let own = Template::end("a.test").issue(p256(), None);
    refused(&root, &claim("a.test", &own, &[]), "self-signed");
}

fn root_named(name: &str) -> Holder {
    Template::authority(name).issue(p256(), None)
}

/// Trust that is made anew of the same anchors and rules is the same trust, and of other ones is not.
#[test]
fn trust_in_the_same_has_the_same_digest() {
    let (first, second) = (root(), root_named("Root"));
    let made = |authorities: &[&Holder], certificates: &[&Holder], revocation, bits| {
        let all = |holders: &[&Holder]| holders.iter().map(|h| h.certificate.clone()).collect();
        let anchors = TrustAnchors {
            authorities: all(authorities),
            certificates: all(certificates),
            ..TrustAnchors::default()
        };
        let policy = SignaturePolicy {
            bits,
            ..SignaturePolicy::default()
        };
        let trust = Trust::new(anchors, revocation, policy).unwrap();
        trust.digest().unwrap()
    };
    let digest = made(&[&first], &[], Revocation::Off, 0);
    assert_eq!(made(&[&first], &[], Revocation::Off, 0), digest);
    let others = [
        made(&[&second], &[], Revocation::Off, 0),
        made(&[&first, &second], &[], Revocation::Off, 0),
        made(&[], &[&first], Revocation::Off, 0),
        made(&[&first], &[], Revocation::Strict, 0),
        made(&[&first], &[], Revocation::Off, 256),
    ];
    assert!(others.iter().all(|other| *other != digest));
}

/// S2: the signature must be by the certificate's own key, over what was exchanged.
#[test]
fn a_signature_by_another_key_or_over_other_octets_is_refused() {
    let root = root();
    let end = Template::end("a.test").issue(p256(), Some(&root));
    let other = Template::end("a.test").issue(p256(), Some(&root));
    let mut bad = claim("a.test", &end, &[]);
    bad.signature = claim("a.test", &other, &[]).signature;
    refused(&root, &bad, "signature is wrong");
    let mut bad = claim("a.test", &end, &[]);
    bad.octets.push(0);
    refused(&root, &bad, "signature is wrong");
    let mut bad = claim("a.test", &end, &[]);
    bad.signature.clear();
    refused(&root, &bad, "signature is wrong");
}

/// S102: a path that was valid is not verified again; everything else about a peer is.
#[test]
fn a_path_that_is_known_excuses_nothing() {
    let root = root();
    let end = Template::end("a.test").issue(p256(), Some(&root));
    let other = Template::end("a.test").issue(p256(), Some(&root));
    let trust = root.trust(SignaturePolicy::default());
    let good = claim("a.test", &end, &[]);
    for _ in 0..3 {
        trust.verify(&good).unwrap();
        let refused = |change: fn(&mut Claim, &Claim), part: &str| {
            let mut bad = good.clone();
            change(&mut bad, &claim("a.test", &other, &[]));
            let refusal = trust.verify(&bad).expect_err(part).to_string();
            assert!(refusal.contains(part), "{refusal}, expected {part}");
        };
        let wrong = "signature is wrong";
        refused(
            |bad, other| bad.signature.clone_from(&other.signature),
            wrong,
        );
        refused(|bad, _| bad.octets.push(0), wrong);
        refused(
            |bad, _| bad.identity = name::identity("b.test"),
            "is not of",
        );
        refused(|bad, _| bad.identity = Identity::Any, "is not of");
        refused(|bad, _| bad.schemes.clear(), "does not allow");
        refused(|bad, _| bad.certificates[0].octets.push(0), "malformed");
        refused(
            |bad, other| bad.certificates.insert(0, other.certificates[0].clone()),
            wrong,
        );
    }
}

/// A chain over intermediate authorities is built from what the peer sends, in any order.
#[test]
fn a_chain_is_built_and_its_depth_is_bounded() {
    let root = root();
    let mut chain = vec![root.clone()];
    for depth in 0..16 {
        let issuer = chain.last().unwrap().clone();
        let next = Template::authority(&format!("CA {depth}")).issue(p256(), Some(&issuer));
        chain.push(next);
    }
    for (length, good) in [(1, true), (3, true), (7, true), (16, false)] {
        let issuer = &chain[length];
        let end = Template::end("a.test").issue(p256(), Some(issuer));
        let mut between: Vec<&Holder> = chain[1..=length].iter().collect();
        let told = claim("a.test", &end, &between);
        assert_eq!(judge(&root, &told).is_ok(), good, "{length} between");
        between.reverse();
        let told = claim("a.test", &end, &between);
        assert_eq!(
            judge(&root, &told).is_ok(),
            good,
            "{length} between, reversed"
        );
        refused(&root, &claim("a.test", &end, &[]), "certificate");
    }
}

/// A04: a mesh of 30 cross-signed authorities does not keep us busy.
#[test]
fn a_mesh_of_authorities_is_refused_soon() {
    let trusted = root();
    let keys: Vec<_> = (0..6).map(|_| p256()).collect();
    let mut mesh = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        for (issuer_at, issuer_key) in keys.iter().enumerate().filter(|(i, _)| *i != at) {
            let issuer =
                Template::authority(&format!("M{issuer_at}")).issue(issuer_key.clone(), None);
            mesh.push(Template::authority(&format!("M{at}")).issue(key.clone(), Some(&issuer)));
        }
    }
    assert_eq!(mesh.len(), 30);
    let end = Template::end("a.test").issue(p256(), Some(&mesh[0]));
    let told = claim("a.test", &end, &mesh.iter().collect::<Vec<_>>());
    let began = std::time::Instant::now();
    assert!(judge(&trusted, &told).is_err());
    // A hundred verifications on this curve take some 10 ms.
    assert!(began.elapsed().as_millis() < 1000, "{:?}", began.elapsed());
}

/// A04, B30: what is no authority, or one for fewer levels, signs nothing.
#[test]
fn constraints_of_authorities_hold() {
    let root = root();
    let end = Template::end("b.test").issue(p256(), Some(&root));
    let forged = Template::end("a.test").issue(p256(), Some(&end));
    assert!(
        judge(&root, &claim("a.test", &forged, &[&end])).is_err(),
        "an end as authority"
    );

    let mut usage = KeyUsage::new();
    usage.critical().digital_signature();
    let mut template = Template::authority("No signing");
    template.usage = Some(usage);
    let dumb = template.issue(p256(), Some(&root));
    let forged = Template::end("a.test").issue(p256(), Some(&dumb));
    assert!(
        judge(&root, &claim("a.test", &forged, &[&dumb])).is_err(),
        "no keyCertSign"
    );

    let mut template = Template::authority("Lowest");
    template.authority = Some(Some(0));
    let lowest = template.issue(p256(), Some(&root));
    let good = Template::end("a.test").issue(p256(), Some(&lowest));
    judge(&root, &claim("a.test", &good, &[&lowest])).unwrap();
    let below = Template::authority("Below").issue(p256(), Some(&lowest));
    let forged = Template::end("a.test").issue(p256(), Some(&below));
    assert!(
        judge(&root, &claim("a.test", &forged, &[&below, &lowest])).is_err(),
        "path length"
    );
}

/// A04, B30, CVE-2026-35331: permitted and excluded names, of DNS and of directories.
#[test]
fn name_constraints_hold() {
    for (constraint, named, good) in [
        ("critical,permitted;DNS:test", "a.test", true),
        ("critical,permitted;DNS:test", "a.example", false),
        ("critical,excluded;DNS:a.test", "a.test", false),
        ("critical,excluded;DNS:a.test", "b.test", true),
        ("critical,permitted;DNS:b.test", "xb.test", false),
    ] {
        let root = root();
        let mut template = Template::authority("Constrained");
        template
            .extensions
            .push((Nid::NAME_CONSTRAINTS, constraint));
        let constrained = template.issue(p256(), Some(&root));
        let end = Template::end(named).issue(p256(), Some(&constrained));
        let told = claim(named, &end, &[&constrained]);
        assert_eq!(judge(&root, &told).is_ok(), good, "{constraint} {named}");
    }
}

#[test]
fn what_is_not_valid_today_is_refused() {
    let root = root();
    for (valid, part) in [((-9, -1), "expired"), ((1, 9), "not yet valid")] {
        let mut template = Template::end("a.test");
        template.valid = valid;
        let end = template.issue(p256(), Some(&root));
        refused(&root, &claim("a.test", &end, &[]), part);
    }
    let mut old = Template::authority("Root");
    old.valid = (-9, -1);
    let old = old.issue(p256(), None);
    let end = Template::end("a.test").issue(p256(), Some(&old));
    refused(&old, &claim("a.test", &end, &[]), "expired");
}

/// A04, B30, RFC 4945 §5.1.3.2, §5.1.3.12: wrong EKU.
#[test]
fn key_usage_must_be_for_signatures_and_purposes_for_ike() {
    let root = root();
    for (purposes, good) in [
        ("1.3.6.1.5.5.7.3.17", true),
        ("1.3.6.1.5.5.8.2.2", true),
        ("serverAuth", true),
        ("clientAuth,emailProtection", true),
        ("anyExtendedKeyUsage", true),
        ("codeSigning", false),
        ("OCSPSigning", false),
        ("1.3.6.1.5.5.7.3.9999", false),
        ("timeStamping,1.3.6.1.5.5.7.3.17", true),
    ] {
        let mut template = Template::end("a.test");
        template.extensions.push((Nid::EXT_KEY_USAGE, purposes));
        let end = template.issue(p256(), Some(&root));
        let told = claim("a.test", &end, &[]);
        assert_eq!(judge(&root, &told).is_ok(), good, "{purposes}");
    }
    let mut usage = KeyUsage::new();
    usage.critical().key_agreement();
    let mut template = Template::end("a.test");
    template.usage = Some(usage);
    let end = template.issue(p256(), Some(&root));
    refused(&root, &claim("a.test", &end, &[]), "key usage");
    let mut template = Template::end("a.test");
    template.usage = None;
    let end = template.issue(p256(), Some(&root));
    judge(&root, &claim("a.test", &end, &[])).unwrap();
}

/// RFC 4945 §3.1: each kind of identity is looked up in its own field, and nowhere else; A05's kin
/// CVE-2013-6075.
#[test]
fn an_identity_must_be_the_certificates() {
    let root = root();
    let mut template = Template::end("a.test");
    template.dns.clear();
    template.extensions.push((
        Nid::SUBJECT_ALT_NAME,
        "DNS:a.test,DNS:*.wild.test,email:who@a.test,IP:192.0.2.1,IP:2001:db8::1",
    ));
    let end = template.issue(p256(), Some(&root));
    for (identity, good) in [
        ("a.test", true),
        ("A.TEST", true),
        ("b.test", false),
        ("x.wild.test", false),
        ("who@a.test", true),
        ("else@a.test", false),
        ("192.0.2.1", true),
        ("192.0.2.2", false),
        ("2001:db8::1", true),
        ("C=CH, O=Esplanade Test, CN=a.test", true),
        ("C=CH, O=esplanade  TEST, CN=a.test", true),
        ("C=CH, O=Esplanade Test", false),
        ("CN=a.test, O=Esplanade Test, C=CH", false),
        ("C=CH, O=Esplanade Test, CN=a.test, CN=b", false),
    ] {
        let told = claim(identity, &end, &[]);
        assert_eq!(judge(&root, &told).is_ok(), good, "{identity}");
    }
    // The common name is no DNS name.
    let mut template = Template::end("a.test");
    template.dns = vec!["other.test".to_owned()];
    let end = template.issue(p256(), Some(&root));
    refused(&root, &claim("a.test", &end, &[]), "is not of a.test");
    let mut nobody = claim("other.test", &end, &[]);
    nobody.identity = Identity::Any;
    assert!(judge(&root, &nobody).is_err());
}

/// `remote.auth` may ask for a kind of key, its size and its hashes.
#[test]
fn policy_limits_keys_and_hashes() {
    let root = root();
    let end = Template::end("a.test").issue(p256(), Some(&root));
    let told = claim("a.test", &end, &[]);
    for (kind, bits, hashes, good) in [
        (KeyKind::Any, 0, vec![], true),
        (KeyKind::Ecdsa, 256, vec![Hash::Sha256], true),
        (KeyKind::Ecdsa, 384, vec![], false),
        (KeyKind::Ecdsa, 0, vec![Hash::Sha384], false),
        (KeyKind::Rsa, 0, vec![], false),
        (KeyKind::Ed25519, 0, vec![], false),
    ] {
        let policy = SignaturePolicy { kind, bits, hashes };
        let judged = root.trust(policy.clone()).verify(&told);
        assert_eq!(judged.is_ok(), good, "{policy:?}");
    }
    // Another scheme than the key's own kind is not even tried.
    let mut other = told.clone();
    other.schemes = vec![Scheme::RsaPkcs1(Hash::Sha256), Scheme::Ed25519];
    refused(&root, &other, "does not allow");
}

/// SHA-1 has a form in IKE for RSA with PKCS #1 alone: an ECDSA key that may use nothing else is told
/// so at once.
#[test]
fn keys_that_cannot_say_sha1_do_not_sign_with_it() {
    let policy = |hashes| SignaturePolicy {
        hashes,
        ..SignaturePolicy::default()
    };
    let alone = KeySigner::with_certificates(p256(), &[], &policy(vec![Hash::Sha1]));
    assert!(alone.is_err(), "{alone:?}");
    let both = policy(vec![Hash::Sha1, Hash::Sha256]);
    let signer = KeySigner::with_certificates(p256(), &[], &both).unwrap();
    assert_eq!(signer.schemes()[0], Scheme::Ecdsa(Hash::Sha256));
    let rsa = KeySigner::with_certificates(pki::rsa(), &[], &policy(vec![Hash::Sha1])).unwrap();
    assert_eq!(rsa.schemes(), [Scheme::RsaUntold(Hash::Sha1)]);
}

/// A chain signed with SHA-1 is too weak, whoever its authority is.
#[test]
fn a_weak_chain_is_refused() {
    let root = root();
    let mut template = Template::end("a.test");
    template.digest = MessageDigest::sha1();
    let end = template.issue(p256(), Some(&root));
    refused(&root, &claim("a.test", &end, &[]), "weak");
}

/// A04: a certificate with octets behind it, or in another encoding, is not the certificate.
#[test]
fn altered_octets_are_refused() {
    let root = root();
    let end = Template::end("a.test").issue(p256(), Some(&root));
    let good = claim("a.test", &end, &[]);
    let mut long = good.clone();
    long.certificates[0].octets.push(0);
    refused(&root, &long, "malformed");
    let whole = good.certificates[0].octets.clone();
    for at in 0..whole.len() {
        let mut bad = good.clone();
        bad.certificates[0].octets[at] ^= 0x01;
        assert!(judge(&root, &bad).is_err(), "octet {at}");
        bad.certificates[0].octets.truncate(at);
        assert!(judge(&root, &bad).is_err(), "{at} octets");
    }
}

/// B30: revocation by lists from files: off, if available, strict; of ends and of authorities between.
#[test]
fn revoked_certificates_are_refused_as_policy_says() {
    let root = root();
    let between = Template::authority("Between").issue(p256(), Some(&root));
    let end = Template::end("a.test").issue(p256(), Some(&between));
    let told = claim("a.test", &end, &[&between]);
    let directory = tempfile::tempdir().unwrap();
    let judged = |lists: &[(&str, openssl::x509::X509Crl)], revocation| {
        let mut files = Vec::new();
        for (at, (_, list)) in lists.iter().enumerate() {
            let path = directory.path().join(format!("{at}.crl"));
            let octets = if at == 0 {
                list.to_pem()
            } else {
                list.to_der()
            };
            std::fs::write(&path, octets.unwrap()).unwrap();
            files.push(path.to_str().unwrap().to_owned());
        }
        let anchors = TrustAnchors {
            authorities: vec![root.certificate.clone()],
            revocation_lists: files,
            ..TrustAnchors::default()
        };
        let trust = Trust::new(anchors, revocation, SignaturePolicy::default()).unwrap();
        // The second time the path is known; what is asked of it is not.
        let judgements = [(); 2].map(|()| trust.verify(&told));
        assert_eq!(judgements[0], judgements[1]);
        let [judged, _] = judgements;
        judged.map_err(|refusal| refusal.to_string())
    };
    use Revocation::*;
    let clean = |issuer: &Holder| revocation_list(issuer, (-1, 1), &[]);
    let old = |issuer: &Holder| revocation_list(issuer, (-9, -1), &[]);
    let end_revoked = || revocation_list(&between, (-1, 1), &[&end]);
    let between_revoked = revocation_list(&root, (-1, 1), &[&between]);
    // Signed by somebody else in the issuer's name.
    let stranger = Template::authority("Between").issue(p256(), None);
    let forged = revocation_list(&stranger, (-1, 1), &[]);
    for (what, lists, expected) in [
        ("none", vec![], [true, true, false]),
        (
            "both clean",
            vec![("", clean(&root)), ("", clean(&between))],
            [true, true, true],
        ),
        (
            "one missing",
            vec![("", clean(&between))],
            [true, true, false],
        ),
        (
            "one expired",
            vec![("", clean(&root)), ("", old(&between))],
            [true, true, false],
        ),
        (
            "end revoked by an expired one, which still names it",
            vec![
                ("", clean(&root)),
                ("", revocation_list(&between, (-9, -1), &[&end])),
            ],
            [true, false, false],
        ),
        (
            "end revoked by one that is not yet valid",
            vec![
                ("", clean(&root)),
                ("", revocation_list(&between, (1, 9), &[&end])),
            ],
            [true, false, false],
        ),
        (
            "between revoked by an expired one",
            vec![
                ("", revocation_list(&root, (-9, -1), &[&between])),
                ("", clean(&between)),
            ],
            [true, false, false],
        ),
        (
            "end revoked",
            vec![("", clean(&root)), ("", end_revoked())],
            [true, false, false],
        ),
        (
            "end revoked, root's missing",
            vec![("", end_revoked())],
            [true, false, false],
        ),
        (
            "between revoked",
            vec![("", between_revoked), ("", clean(&between))],
            [true, false, false],
        ),
        (
            "another's in its name, which counts for nothing",
            vec![("", clean(&root)), ("", forged)],
            [true, true, false],
        ),
    ] {
        for (revocation, good) in [Off, IfAvailable, Strict].into_iter().zip(expected) {
            let judged = judged(&lists, revocation);
            assert_eq!(judged.is_ok(), good, "{what}, {revocation:?}: {judged:?}");
        }
    }
}

/// B32, RFC 7670: a raw public key is believed if it is pinned, sent or not; another never.
#[test]
fn raw_public_keys_must_be_pinned() {
    let (ours, other) = (p256(), PKey::generate_ed25519().unwrap());
    let trust = |keys: Vec<_>| {
        let anchors = TrustAnchors {
            keys,
            ..TrustAnchors::default()
        };
        Trust::new(anchors, Revocation::IfAvailable, SignaturePolicy::default()).unwrap()
    };
    let public =
        |key: &PKey<_>| PKey::public_key_from_der(&key.public_key_to_der().unwrap()).unwrap();
    let holder = Template::end("a.test").issue(ours.clone(), None);
    let mut told = claim("a.test", &holder, &[]);
    told.certificates = vec![Certificate {
        encoding: Certificate::RAW_PUBLIC_KEY,
        octets: ours.public_key_to_der().unwrap(),
    }];
    trust(vec![public(&other), public(&ours)])
        .verify(&told)
        .unwrap();
    assert!(trust(vec![public(&other)]).verify(&told).is_err());
    assert!(trust(vec![]).verify(&told).is_err());
    told.certificates.clear();
    trust(vec![public(&other), public(&ours)])
        .verify(&told)
        .unwrap();
    assert!(trust(vec![]).verify(&told).is_err());
}

/// One that is pinned is no anchor that nobody can revoke, sent or not.
#[test]
fn a_pinned_certificate_is_not_exempt_from_revocation() {
    let root = root();
    let end = Template::end("a.test").issue(p256(), Some(&root));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("root.crl");
    let sent = claim("a.test", &end, &[]);
    let mut unsent = sent.clone();
    unsent.certificates.clear();
    for (authority, revoked, revocation, good) in [
        (false, None, Revocation::IfAvailable, true),
        (false, None, Revocation::Strict, false),
        (false, Some(false), Revocation::IfAvailable, true),
        (false, Some(false), Revocation::Strict, false),
        (true, Some(false), Revocation::Strict, true),
        (true, Some(true), Revocation::Strict, false),
        (true, Some(true), Revocation::IfAvailable, false),
    ] {
        let revoked_ends: &[&Holder] = if revoked == Some(true) { &[&end] } else { &[] };
        let list = revocation_list(&root, (-1, 1), revoked_ends);
        std::fs::write(&path, list.to_pem().unwrap()).unwrap();
        let anchors = TrustAnchors {
            authorities: authority
                .then(|| root.certificate.clone())
                .into_iter()
                .collect(),
            certificates: vec![end.certificate.clone()],
            revocation_lists: revoked
                .iter()
                .map(|_| path.to_str().unwrap().to_owned())
                .collect(),
            ..TrustAnchors::default()
        };
        let trust = Trust::new(anchors, revocation, SignaturePolicy::default()).unwrap();
        for told in [&sent, &unsent] {
            let judged = trust.verify(told);
            assert_eq!(
                judged.is_ok(),
                good,
                "{authority} {revoked:?} {revocation:?}: {judged:?}"
            );
        }
    }
}

/// A certificate that is pinned needs no authority, and no other one will do.
#[test]
fn a_pinned_certificate_is_the_only_one() {
    let root = root();
    let end = Template::end("a.test").issue(p256(), Some(&root));
    let other = Template::end("a.test").issue(p256(), Some(&root));
    let trust = |authorities: Vec<_>| {
        let anchors = TrustAnchors {
            authorities,
            certificates: vec![end.certificate.clone()],
            ..TrustAnchors::default()
        };
        Trust::new(anchors, Revocation::IfAvailable, SignaturePolicy::default()).unwrap()
    };
    for authorities in [vec![], vec![root.certificate.clone()]] {
        let trust = trust(authorities);
        trust.verify(&claim("a.test", &end, &[])).unwrap();
        let mut unsent = claim("a.test", &end, &[]);
        unsent.certificates.clear();
        trust.verify(&unsent).unwrap();
        assert!(trust.verify(&claim("a.test", &other, &[])).is_err());
        assert!(trust.verify(&claim("b.test", &end, &[])).is_err());
    }
}
