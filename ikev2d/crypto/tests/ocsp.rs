// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B30: OCSP (RFC 6960), with responses made by OpenSSL's own responder (`openssl ocsp`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pki;

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ikev2d_crypto::credential::SignaturePolicy;
use ikev2d_crypto::name;
use ikev2d_crypto::ocsp::{Fetch, Ocsp, OcspError, OwnStatuses, Query, Status};
use ikev2d_crypto::trust::{Revocation, Trust, TrustAnchors};
use ikev2d_proto::credential::{Certificate, Claim, Refusal, Signer, Statuses as _, Verifier};
use openssl::nid::Nid;
use pki::{Holder, Template, p256, revocation_list};

const URI: &str = "http://ocsp.test/";
const OCTETS: &[u8] = b"what is signed";

/// What the responder does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Good,
    Revoked,
    Unknown,
    /// Signs by somebody else's leave.
    Stranger,
    /// Answers about another certificate.
    Other,
    /// The same, in answer to a request without a nonce.
    OtherWithoutNonce,
    Garbage,
    Refuses,
    Silent,
}

/// An authority, one below it, an end, and who signs for the lower one.
struct World {
    root: Holder,
    between: Holder,
    end: Holder,
    other: Holder,
    delegated: Holder,
}

fn delegated(issuer: &Holder) -> Holder {
    let mut template = Template::end("ocsp.test");
    template
        .extensions
        .push((Nid::EXT_KEY_USAGE, "OCSPSigning"));
    template.issue(p256(), Some(issuer))
}

impl World {
    /// Whether the end's certificate names its responder.
    fn new(named: bool) -> Self {
        let root = Template::authority("Root").issue(p256(), None);
        let between = Template::authority("Between").issue(p256(), Some(&root));
        let mut template = Template::end("a.test");
        if named {
            let uri = (Nid::INFO_ACCESS, "OCSP;URI:http://ocsp.test/");
            template.extensions.push(uri);
        }
        Self {
            end: template.issue(p256(), Some(&between)),
            other: Template::end("b.test").issue(p256(), Some(&between)),
            delegated: delegated(&between),
            root,
            between,
        }
    }

    fn query(&self) -> Query {
        Query::new(&self.end.certificate, &self.between.certificate).unwrap()
    }

    /// The answer of OpenSSL's responder.
    fn answer(&self, request: &[u8], by: &Holder, revoked: &[&Holder], unknown: bool) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut index = String::new();
        for holder in [&self.end, &self.other] {
            let serial = holder.certificate.serial_number().to_bn().unwrap();
            let serial = serial.to_hex_str().unwrap();
            let subject = format!("/CN={serial}");
            if unknown {
                continue;
            }
            if revoked.iter().any(|r| std::ptr::eq(*r, holder)) {
                index +=
                    &format!("R\t401231235959Z\t250101000000Z\t{serial}\tunknown\t{subject}\n");
            } else {
                index += &format!("V\t401231235959Z\t\t{serial}\tunknown\t{subject}\n");
            }
        }
        std::fs::write(path("index.txt"), index).unwrap();
        let ca = self.between.certificate.to_pem().unwrap();
        std::fs::write(path("ca.pem"), ca).unwrap();
        std::fs::write(path("signer.pem"), by.certificate.to_pem().unwrap()).unwrap();
        let key = by.key.private_key_to_pem_pkcs8().unwrap();
        std::fs::write(path("signer.key"), key).unwrap();
        std::fs::write(path("request"), request).unwrap();
        let made = Command::new("openssl")
            .current_dir(directory.path())
            .args(["ocsp", "-index", "index.txt", "-CA", "ca.pem"])
            .args(["-rsigner", "signer.pem", "-rkey", "signer.key"])
            .args(["-reqin", "request", "-respout", "response", "-ndays", "1"])
            .output()
            .expect("the openssl command");
        let told = String::from_utf8_lossy(&made.stderr);
        std::fs::read(path("response")).unwrap_or_else(|error| panic!("{error}: {told}"))
    }

    fn does(&self, what: Does, request: &[u8]) -> Result<Vec<u8>, String> {
        let others = || Query::new(&self.other.certificate, &self.between.certificate);
        let by = &self.delegated;
        Ok(match what {
            Does::Good => self.answer(request, by, &[], false),
            Does::Revoked => self.answer(request, by, &[&self.end], false),
            Does::Unknown => self.answer(request, by, &[], true),
            Does::Stranger => {
                let stranger = Template::authority("Between").issue(p256(), None);
                self.answer(request, &delegated(&stranger), &[], false)
            }
            Does::Other => self.answer(&others().unwrap().octets().unwrap(), by, &[], false),
            Does::OtherWithoutNonce => {
                self.answer(&self.without_nonce(&self.other), by, &[], false)
            }
            Does::Garbage => b"<html>no such page</html>".to_vec(),
            // OCSPResponse { responseStatus tryLater(3) }.
            Does::Refuses => vec![0x30, 3, 0x0a, 1, 3],
            Does::Silent => return Err("timed out".to_owned()),
        })
    }

    /// A request as OpenSSL's client makes it, without a nonce.
    fn without_nonce(&self, holder: &Holder) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let ca = self.between.certificate.to_pem().unwrap();
        std::fs::write(path("ca.pem"), ca).unwrap();
        std::fs::write(path("end.pem"), holder.certificate.to_pem().unwrap()).unwrap();
        let made = Command::new("openssl")
            .current_dir(directory.path())
            .args(["ocsp", "-no_nonce", "-issuer", "ca.pem", "-cert", "end.pem"])
            .args(["-reqout", "request"])
            .output()
            .expect("the openssl command");
        assert!(made.status.success(), "{made:?}");
        std::fs::read(path("request")).unwrap()
    }

    fn claim(&self) -> Claim {
        let signer = self
            .end
            .signer(&[&self.between], &SignaturePolicy::default());
        let scheme = signer.schemes()[0];
        Claim {
            identity: name::identity("a.test"),
            certificates: signer.certificates().to_vec(),
            schemes: vec![scheme],
            signature: signer.sign(scheme, OCTETS).unwrap(),
            octets: OCTETS.to_vec(),
        }
    }
}

/// A responder that does one thing, and counts who asks.
#[derive(Clone)]
struct Responder {
    world: Arc<World>,
    does: Arc<Mutex<Does>>,
    asked: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Responder")
    }
}

impl Fetch for Responder {
    fn post(
        &self,
        uri: &str,
        content_type: &str,
        body: &[u8],
        limit: usize,
        patience: Duration,
    ) -> Result<Vec<u8>, String> {
        assert_eq!((uri, content_type), (URI, "application/ocsp-request"));
        assert!(limit <= 64 << 10 && patience <= Duration::from_secs(4));
        self.asked.fetch_add(1, Ordering::Relaxed);
        let does = *self.does.lock().unwrap();
        self.world.does(does, body)
    }

    fn get(&self, uri: &str, _: usize, _: Duration) -> Result<Vec<u8>, String> {
        panic!("OCSP posts: {uri}");
    }
}

impl Responder {
    fn new(world: World, does: Does) -> Self {
        Self {
            world: Arc::new(world),
            does: Arc::new(Mutex::new(does)),
            asked: Arc::default(),
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Trust in the lower authority alone, so that only the end is asked about.
    fn trust(&self, revocation: Revocation, configured: bool, lists: Vec<String>) -> Trust {
        let authority = self.world.between.certificate.clone();
        let anchors = TrustAnchors {
            authorities: vec![authority.clone()],
            revocation_lists: lists,
            responders: vec![(authority, vec![URI.to_owned()])]
                .into_iter()
                .filter(|_| configured)
                .collect(),
            ..TrustAnchors::default()
        };
        let trust = Trust::new(anchors, revocation, SignaturePolicy::default()).unwrap();
        trust.with_ocsp(Some(Arc::new(Ocsp::new(self.clone()))))
    }

    fn judged(&self, revocation: Revocation) -> Result<(), Refusal> {
        let trust = self.trust(revocation, false, Vec::new());
        trust.verify(&self.world.claim())
    }
}

/// B30: good, revoked, unknown, the wrong signer, another's answer, garbage, a refusal, silence; as
/// policy says.
#[test]
fn what_a_responder_says_counts_as_policy_says() {
    use Revocation::{IfAvailable, IfUri, Off, Strict};
    for (does, expected) in [
        (Does::Good, [true, true, true, true]),
        (Does::Revoked, [true, false, false, false]),
        (Does::Unknown, [true, true, false, false]),
        (Does::Stranger, [true, true, false, false]),
        (Does::Other, [true, true, false, false]),
        (Does::OtherWithoutNonce, [true, true, false, false]),
        (Does::Garbage, [true, true, false, false]),
        (Does::Refuses, [true, true, false, false]),
        (Does::Silent, [true, true, false, false]),
    ] {
        let responder = Responder::new(World::new(true), does);
        for (revocation, good) in [Off, IfAvailable, IfUri, Strict].into_iter().zip(expected) {
            let judged = responder.judged(revocation);
            assert_eq!(judged.is_ok(), good, "{does:?}, {revocation:?}: {judged:?}");
        }
        assert_eq!(responder.asked(), 3, "nobody is asked when it is off");
    }
}

/// B30: a certificate that names no responder and no list: only `strict` minds. One that is configured
/// for its authority is asked.
#[test]
fn responders_come_from_certificates_and_from_configuration() {
    use Revocation::{IfAvailable, IfUri, Strict};
    let responder = Responder::new(World::new(false), Does::Revoked);
    for (revocation, good) in [(IfAvailable, true), (IfUri, true), (Strict, false)] {
        assert_eq!(responder.judged(revocation).is_ok(), good, "{revocation:?}");
    }
    assert_eq!(responder.asked(), 0);
    for (does, good) in [(Does::Revoked, false), (Does::Good, true)] {
        *responder.does.lock().unwrap() = does;
        for revocation in [IfAvailable, IfUri, Strict] {
            let trust = responder.trust(revocation, true, Vec::new());
            let judged = trust.verify(&responder.world.claim());
            assert_eq!(judged.is_ok(), good, "{does:?}, {revocation:?}: {judged:?}");
        }
    }
}

/// B30: a list that names the certificate needs no responder to say more; a clean one stands in for a
/// silent responder.
#[test]
fn lists_and_responders_go_together() {
    let responder = Responder::new(World::new(true), Does::Silent);
    let directory = tempfile::tempdir().unwrap();
    let world = &responder.world;
    for (does, revoked, good) in [
        (Does::Silent, false, true),
        (Does::Revoked, false, false),
        (Does::Good, true, false),
    ] {
        *responder.does.lock().unwrap() = does;
        let named: &[&Holder] = if revoked { &[&world.end] } else { &[] };
        let list = revocation_list(&world.between, (-1, 1), named);
        let path = directory.path().join("list.crl");
        std::fs::write(&path, list.to_pem().unwrap()).unwrap();
        let lists = vec![path.to_str().unwrap().to_owned()];
        let trust = responder.trust(Revocation::Strict, false, lists);
        let judged = trust.verify(&world.claim());
        assert_eq!(judged.is_ok(), good, "{does:?}, {revoked}: {judged:?}");
    }
    assert_eq!(responder.asked(), 2, "whom a list names nobody asks about");
}

/// A04, CVE-2022-40617: nobody is asked about a peer that is not trusted, or hasn't the certificate's
/// key.
#[test]
fn nobody_is_asked_for_whom_is_not_believed_anyway() {
    let responder = Responder::new(World::new(true), Does::Good);
    let trust = responder.trust(Revocation::Strict, true, Vec::new());
    let mut forged = responder.world.claim();
    forged.octets.push(0);
    assert!(trust.verify(&forged).is_err());
    let elsewhere = World::new(true);
    assert!(trust.verify(&elsewhere.claim()).is_err());
    assert_eq!(responder.asked(), 0);
    trust.verify(&responder.world.claim()).unwrap();
    assert_eq!(responder.asked(), 1);
}

/// An answer is remembered; a silent responder is left alone for a moment.
#[test]
fn answers_and_silence_are_remembered() {
    for (does, good) in [(Does::Good, true), (Does::Silent, false)] {
        let responder = Responder::new(World::new(true), does);
        let trust = responder.trust(Revocation::Strict, false, Vec::new());
        for _ in 0..5 {
            let judged = trust.verify(&responder.world.claim());
            assert_eq!(judged.is_ok(), good, "{judged:?}");
        }
        assert_eq!(responder.asked(), 1, "{does:?}");
    }
}

/// RFC 6960 §4.2.2.2: the issuer itself may sign, or whom it has delegated, who must be for that and
/// directly from it.
#[test]
fn only_the_issuer_and_its_delegates_may_sign() {
    let world = World::new(false);
    let query = world.query();
    let request = query.octets().unwrap();
    let mut expired = Template::end("ocsp.test");
    expired.extensions.push((Nid::EXT_KEY_USAGE, "OCSPSigning"));
    expired.valid = (-9, -1);
    for (what, signer, good) in [
        ("the issuer", world.between.clone(), true),
        ("its delegate", delegated(&world.between), true),
        ("an end of it", world.other.clone(), false),
        ("the one above", world.root.clone(), false),
        ("its delegate", delegated(&world.root), false),
        (
            "one who has expired",
            expired.issue(p256(), Some(&world.between)),
            false,
        ),
    ] {
        let answer = world.answer(&request, &signer, &[], false);
        let judged = query.judge(&answer, SystemTime::now());
        if good {
            assert!(matches!(judged, Ok(Status::Good(_))), "{what}: {judged:?}");
        } else {
            assert_eq!(judged, Err(OcspError::Untrusted), "{what}");
        }
    }
}

/// Dates are judged by the clock that is given; one that says "revoked" has no end.
#[test]
fn answers_have_their_time() {
    let world = World::new(false);
    let query = world.query();
    let request = query.octets().unwrap();
    let good = world.answer(&request, &world.between, &[], false);
    let revoked = world.answer(&request, &world.between, &[&world.end], false);
    let now = SystemTime::now();
    let hours = |n: u64| Duration::from_secs(n * 3600);
    for (at, fresh) in [
        (now, true),
        (now + hours(23), true),
        (now + hours(25), false),
        (now - hours(1), false),
    ] {
        let judged = query.judge(&good, at);
        if fresh {
            assert!(
                matches!(judged, Ok(Status::Good(until)) if until > at),
                "{judged:?}"
            );
        } else {
            assert_eq!(judged, Err(OcspError::OutOfDate));
        }
        assert_eq!(query.judge(&revoked, at), Ok(Status::Revoked));
    }
}

/// Another request's answer is told by its nonce, another certificate's by its name; without a nonce
/// the dates must do.
#[test]
fn an_answer_belongs_to_its_request() {
    let world = World::new(false);
    let (query, earlier) = (world.query(), world.query());
    let now = SystemTime::now();
    let recorded = world.answer(&earlier.octets().unwrap(), &world.between, &[], false);
    assert!(earlier.judge(&recorded, now).is_ok());
    assert_eq!(query.judge(&recorded, now), Err(OcspError::Nonce));
    let others = world.without_nonce(&world.other);
    let others = world.answer(&others, &world.between, &[], false);
    assert_eq!(query.judge(&others, now), Err(OcspError::Unrelated));
    let own = world.without_nonce(&world.end);
    let own = world.answer(&own, &world.between, &[], false);
    assert!(matches!(query.judge(&own, now), Ok(Status::Good(_))));
}

/// No altered octet turns "revoked" into "good", and what is cut off says nothing.
#[test]
fn altered_answers_are_never_good() {
    let world = World::new(false);
    let query = world.query();
    let request = query.octets().unwrap();
    let revoked = world.answer(&request, &world.delegated, &[&world.end], false);
    let now = SystemTime::now();
    for at in 0..revoked.len() {
        for bit in [0x01, 0x80] {
            let mut bad = revoked.clone();
            bad[at] ^= bit;
            let judged = query.judge(&bad, now);
            assert!(!matches!(judged, Ok(Status::Good(_))), "octet {at}");
        }
        assert!(query.judge(&revoked[..at], now).is_err(), "{at} octets");
    }
}

/// A claim with answers that the peer has brought along.
fn bringing(mut claim: Claim, answers: impl IntoIterator<Item = Vec<u8>>) -> Claim {
    let encoding = Certificate::OCSP_CONTENT;
    let answers = answers.into_iter();
    let answers = answers.map(|octets| Certificate { encoding, octets });
    claim.certificates.extend(answers);
    claim
}

/// B30, RFC 4806: an answer that the peer brings saves asking; one that says nothing does not; "revoked"
/// is believed.
#[test]
fn an_answer_that_the_peer_brings_saves_asking() {
    for (brought, does, asked, good) in [
        (Does::Good, Does::Silent, 0, true),
        (Does::Revoked, Does::Good, 0, false),
        (Does::Stranger, Does::Good, 1, true),
        (Does::Stranger, Does::Revoked, 1, false),
        (Does::Other, Does::Silent, 1, false),
        (Does::OtherWithoutNonce, Does::Silent, 1, false),
        (Does::Unknown, Does::Silent, 1, false),
        (Does::Refuses, Does::Silent, 1, false),
        (Does::Garbage, Does::Good, 1, true),
    ] {
        let responder = Responder::new(World::new(true), does);
        let world = &responder.world;
        // With the nonce of a request that the peer has made, too.
        for request in [
            world.without_nonce(&world.end),
            world.query().octets().unwrap(),
        ] {
            let claim = bringing(world.claim(), [world.does(brought, &request).unwrap()]);
            let trust = responder.trust(Revocation::Strict, false, Vec::new());
            let judged = trust.verify(&claim);
            assert_eq!(judged.is_ok(), good, "{brought:?}, {does:?}: {judged:?}");
            assert_eq!(
                responder.asked.swap(0, Ordering::Relaxed),
                asked,
                "{brought:?}"
            );
        }
    }
}

/// B31: whoever looks at no revocation looks at no answer; a certificate that names nobody is served by one,
/// also behind one about another certificate.
#[test]
fn an_answer_that_is_brought_counts_where_revocation_does() {
    let responder = Responder::new(World::new(false), Does::Silent);
    let world = &responder.world;
    let about = |holder| world.without_nonce(holder);
    let revoked = world.does(Does::Revoked, &about(&world.end)).unwrap();
    let claim = bringing(world.claim(), [revoked]);
    for (revocation, good) in [(Revocation::Off, true), (Revocation::IfAvailable, false)] {
        let trust = responder.trust(revocation, false, Vec::new());
        assert_eq!(trust.verify(&claim).is_ok(), good, "{revocation:?}");
    }
    let others = world.answer(&about(&world.other), &world.between, &[], false);
    let own = world.does(Does::Good, &about(&world.end)).unwrap();
    let claim = bringing(world.claim(), [others, own]);
    let trust = responder.trust(Revocation::Strict, false, Vec::new());
    trust.verify(&claim).unwrap();
    let plain = responder.trust(Revocation::Strict, false, Vec::new());
    assert!(plain.verify(&world.claim()).is_err());
    assert_eq!(responder.asked(), 0);
    for (revocation, asks) in [(Revocation::Off, false), (Revocation::IfAvailable, true)] {
        let trust = responder.trust(revocation, false, Vec::new());
        assert!(!trust.asks_for_status());
        assert_eq!(trust.asking_for_status(true).asks_for_status(), asks);
    }
}

/// B31: what a responder has told us itself, no older answer takes back.
#[test]
fn an_answer_that_is_brought_takes_no_revocation_back() {
    let responder = Responder::new(World::new(true), Does::Revoked);
    let world = &responder.world;
    let good = world.does(Does::Good, &world.without_nonce(&world.end));
    let trust = responder.trust(Revocation::IfAvailable, false, Vec::new());
    assert!(trust.verify(&world.claim()).is_err());
    let claim = bringing(world.claim(), [good.unwrap()]);
    assert!(trust.verify(&claim).is_err());
    assert_eq!(responder.asked(), 1);
}

/// B31, RFC 4806: answers about our own certificates are fetched ahead and once, and a peer that brings them is
/// believed without a responder. One that is revoked, or of whom nothing is known, brings none.
#[test]
fn answers_about_our_own_certificates_are_there_before_they_are_needed() {
    let responder = Responder::new(World::new(true), Does::Good);
    let world = responder.world.clone();
    let chain = [&world.end, &world.between].map(|holder| holder.certificate.clone());
    let root = [world.root.certificate.clone()];
    let ocsp = Arc::new(Ocsp::new(responder.clone()));
    let own = || OwnStatuses::new(ocsp.clone(), &chain, &root, &[]);
    assert!(own().answers().is_empty());
    own().renew();
    // For another connection with the same certificate, too.
    own().renew();
    assert_eq!(responder.asked(), 1);
    let brought = own().answers();
    assert_eq!(brought.len(), 1);
    let peer = Arc::new(Ocsp::new(Responder {
        does: Arc::new(Mutex::new(Does::Silent)),
        asked: Arc::default(),
        world: world.clone(),
    }));
    let trust = responder.trust(Revocation::Strict, false, Vec::new());
    let trust = trust.with_ocsp(Some(peer));
    trust.verify(&bringing(world.claim(), brought)).unwrap();
    ocsp.forget();
    assert!(own().answers().is_empty());
    for does in [Does::Revoked, Does::Silent, Does::Stranger] {
        *responder.does.lock().unwrap() = does;
        ocsp.forget();
        own().renew();
        assert!(own().answers().is_empty(), "{does:?}");
    }
    // Nobody to ask, and no issuer to believe.
    let stranger = Template::authority("Between").issue(p256(), None);
    for (certificates, authority) in [
        (&chain[1..], &world.root),
        (&chain[..1], &world.root),
        (&chain[..1], &stranger),
    ] {
        let authorities = [authority.certificate.clone()];
        assert!(OwnStatuses::new(ocsp.clone(), certificates, &authorities, &[]).is_empty());
    }
}
