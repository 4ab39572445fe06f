// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B30: revocation lists by HTTP (RFC 5280 §4.2.1.13), with their deltas (§5.2.4).
#![allow(clippy::unwrap_used)]

mod pki;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ikev2d_crypto::credential::SignaturePolicy;
use ikev2d_crypto::crl::Lists;
use ikev2d_crypto::fetch::Fetch;
use ikev2d_crypto::name;
use ikev2d_crypto::trust::{Revocation, Trust, TrustAnchors};
use ikev2d_proto::credential::{Claim, Refusal, Signer, Verifier};
use openssl::nid::Nid;
use pki::{Holder, Template, numbered_list, p256};

const LIST: &str = "http://lists.test/base.crl";
const DELTA: &str = "http://lists.test/delta.crl";
const OCTETS: &[u8] = b"what is signed";

/// A server with files, and whom it was asked for.
#[derive(Clone, Debug, Default)]
struct Server {
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fetch for Server {
    fn post(&self, uri: &str, _: &str, _: &[u8], _: usize, _: Duration) -> Result<Vec<u8>, String> {
        panic!("lists are got: {uri}");
    }

    fn get(&self, uri: &str, limit: usize, patience: Duration) -> Result<Vec<u8>, String> {
        assert!(limit <= 8 << 20 && patience <= Duration::from_secs(4));
        self.asked.lock().unwrap().push(uri.to_owned());
        let files = self.files.lock().unwrap();
        files.get(uri).cloned().ok_or("HTTP status 404".to_owned())
    }
}

impl Server {
    fn put(&self, uri: &str, file: &[u8]) {
        let mut files = self.files.lock().unwrap();
        files.insert(uri.to_owned(), file.to_vec());
    }

    fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// An authority and an end that it has issued.
struct World {
    authority: Holder,
    end: Holder,
    server: Server,
    lists: Arc<Lists>,
}

impl World {
    /// Whether the end's certificate says where the list is.
    fn new(named: bool) -> Self {
        let authority = Template::authority("Between").issue(p256(), None);
        let mut template = Template::end("a.test");
        if named {
            let points = "URI:ldap://lists.test/cn=list,URI:http://lists.test/base.crl";
            template
                .extensions
                .push((Nid::CRL_DISTRIBUTION_POINTS, points));
        }
        let server = Server::default();
        Self {
            end: template.issue(p256(), Some(&authority)),
            lists: Arc::new(Lists::new(server.clone())),
            authority,
            server,
        }
    }

    fn list(&self, number: u32, valid: (i64, i64), revoked: bool) -> Vec<u8> {
        let named: &[&Holder] = if revoked { &[&self.end] } else { &[] };
        let list = numbered_list(&self.authority, (number, valid), &[], named);
        list.to_der().unwrap()
    }

    fn claim(&self) -> Claim {
        let signer = self.end.signer(&[], &SignaturePolicy::default());
        let scheme = signer.schemes()[0];
        Claim {
            identity: name::identity("a.test"),
            certificates: signer.certificates().to_vec(),
            schemes: vec![scheme],
            signature: signer.sign(scheme, OCTETS).unwrap(),
            octets: OCTETS.to_vec(),
        }
    }

    fn trust(&self, revocation: Revocation, list_uris: Vec<String>) -> Trust {
        let anchors = TrustAnchors {
            authorities: vec![self.authority.certificate.clone()],
            list_uris: vec![(self.authority.certificate.clone(), list_uris)],
            ..TrustAnchors::default()
        };
        let trust = Trust::new(anchors, revocation, SignaturePolicy::default()).unwrap();
        trust.with_lists(Some(self.lists.clone()))
    }

    fn judged(&self, revocation: Revocation) -> Result<(), Refusal> {
        self.trust(revocation, Vec::new()).verify(&self.claim())
    }
}

/// B30: a list that is good, that names the certificate, is out of date, another authority's, garbage or
/// missing counts as policy says; nobody fetches anything where it is off.
#[test]
fn what_is_fetched_counts_as_policy_says() {
    use Revocation::{IfAvailable, IfUri, Off, Strict};
    let stranger = Template::authority("Between").issue(p256(), None);
    let strangers = numbered_list(&stranger, (1, (-1, 1)), &[], &[]);
    for (what, list, expected) in [
        ("good", None, [true, true, true, true]),
        ("revoked", Some((-1, 1, true)), [true, false, false, false]),
        (
            "outdated",
            Some((-9, -1, false)),
            [true, true, false, false],
        ),
        ("stranger's", None, [true, true, false, false]),
        ("garbage", None, [true, true, false, false]),
        ("missing", None, [true, true, false, false]),
    ] {
        for (revocation, good) in [Off, IfAvailable, IfUri, Strict].into_iter().zip(expected) {
            let world = World::new(true);
            let file = match (what, list) {
                (_, Some((from, until, revoked))) => world.list(1, (from, until), revoked),
                ("good", None) => world.list(1, (-1, 1), false),
                ("stranger's", None) => strangers.to_der().unwrap(),
                _ => b"<html>no such page</html>".to_vec(),
            };
            if what != "missing" {
                world.server.put(LIST, &file);
            }
            let judged = world.judged(revocation);
            assert_eq!(judged.is_ok(), good, "{what}, {revocation:?}: {judged:?}");
            let asked = world.server.take_asked().len();
            assert_eq!(asked, usize::from(revocation != Off), "{what}");
        }
    }
}

/// B30: `strict` tells where it has looked, and what was wrong there.
#[test]
fn a_refusal_names_the_address_and_the_cause() {
    let world = World::new(true);
    let refusal = world.judged(Revocation::Strict).unwrap_err().0;
    assert!(
        refusal.contains("ldap://lists.test/cn=list: no list: only http:// is spoken"),
        "{refusal}"
    );
    assert!(
        refusal.contains(&format!("{LIST}: no list: HTTP status 404")),
        "{refusal}"
    );
    // A moment later it is not asked again.
    let refusal = world.judged(Revocation::Strict).unwrap_err().0;
    assert!(
        refusal.contains("it has not answered a moment ago"),
        "{refusal}"
    );
    assert_eq!(world.server.take_asked(), [LIST]);
    assert_eq!(world.lists.fetched().get(), (0, 1));
    world.lists.forget();
    world.server.put(LIST, &world.list(1, (-9, -1), false));
    let refusal = world.judged(Revocation::Strict).unwrap_err().0;
    assert!(refusal.contains("out of date"), "{refusal}");
}

/// B30: an address of configuration will do, in PEM, too; a certificate that names none is no one's
/// business but `strict`'s.
#[test]
fn lists_come_from_where_configuration_says() {
    use Revocation::{IfUri, Strict};
    let world = World::new(false);
    assert!(world.judged(IfUri).is_ok());
    assert!(world.judged(Strict).is_err());
    let list = numbered_list(&world.authority, (1, (-1, 1)), &[], &[&world.end]);
    world.server.put(LIST, &list.to_pem().unwrap());
    let trust = world.trust(IfUri, vec![LIST.to_owned()]);
    let refusal = trust.verify(&world.claim()).unwrap_err().0;
    assert!(refusal.contains("revoked"), "{refusal}");
}

/// A list is fetched once until the next is due, by one for all who wait for it.
#[test]
fn a_list_is_fetched_once_for_all() {
    let world = World::new(true);
    world.server.put(LIST, &world.list(1, (-1, 1), false));
    let (trust, claim) = (world.trust(Revocation::Strict, Vec::new()), world.claim());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| trust.verify(&claim).unwrap());
        }
    });
    assert_eq!(world.server.take_asked(), [LIST]);
    assert_eq!(world.lists.fetched().get(), (1, 0));
    world.lists.forget();
    trust.verify(&claim).unwrap();
    assert_eq!(world.server.take_asked(), [LIST]);
}

/// RFC 5280 §5.2.4: a delta's entries count as the list's; without it the list itself counts, and one
/// that begins after the list says nothing.
#[test]
fn deltas_count_as_their_list() {
    let freshest = format!("URI:{DELTA}");
    let more: &[(Nid, &str)] = &[(Nid::FRESHEST_CRL, &freshest)];
    let delta = |world: &World, base: &str, revoked: bool| {
        let named: &[&Holder] = if revoked { &[&world.end] } else { &[] };
        let indicator = (Nid::DELTA_CRL, base);
        let list = numbered_list(&world.authority, (7, (-1, 1)), &[indicator], named);
        list.to_der().unwrap()
    };
    for (what, base, revoked, good) in [
        (
            "a delta that names it",
            "critical,DER:02:01:05",
            true,
            false,
        ),
        (
            "a delta that does not",
            "critical,DER:02:01:05",
            false,
            true,
        ),
        (
            "a delta of a later list",
            "critical,DER:02:01:06",
            true,
            true,
        ),
        ("no delta", "", true, true),
    ] {
        let world = World::new(true);
        let list = numbered_list(&world.authority, (5, (-1, 1)), more, &[]);
        world.server.put(LIST, &list.to_der().unwrap());
        if !base.is_empty() {
            world.server.put(DELTA, &delta(&world, base, revoked));
        }
        let judged = world.judged(Revocation::Strict);
        assert_eq!(judged.is_ok(), good, "{what}: {judged:?}");
        assert_eq!(world.server.take_asked(), [LIST, DELTA], "{what}");
    }
    // Alone it is no list, neither fetched nor in a file, and a whole list is no delta.
    let world = World::new(false);
    let file = delta(&world, "critical,DER:02:01:05", false);
    world.server.put(LIST, &file);
    let trust = world.trust(Revocation::Strict, vec![LIST.to_owned()]);
    let refusal = trust.verify(&world.claim()).unwrap_err().0;
    assert!(refusal.contains("a delta in a list's place"), "{refusal}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("delta.crl");
    std::fs::write(&path, file).unwrap();
    let anchors = TrustAnchors {
        authorities: vec![world.authority.certificate.clone()],
        revocation_lists: vec![path.to_str().unwrap().to_owned()],
        ..TrustAnchors::default()
    };
    let trust = Trust::new(anchors, Revocation::Strict, SignaturePolicy::default()).unwrap();
    assert!(trust.verify(&world.claim()).is_err());
    let world = World::new(true);
    let list = numbered_list(&world.authority, (5, (-1, 1)), more, &[]);
    world.server.put(LIST, &list.to_der().unwrap());
    world.server.put(DELTA, &world.list(9, (-1, 1), true));
    assert!(world.judged(Revocation::Strict).is_ok());
}

/// RFC 5280 §5.2.5: a list of authorities' certificates alone says nothing of an end's, in a file and
/// fetched; the one that does is looked for elsewhere.
#[test]
fn a_list_of_another_scope_says_nothing() {
    const AUTHORITIES: &str = "http://lists.test/authorities.crl";
    let scope = (Nid::ISSUING_DISTRIBUTION_POINT, "critical,onlyCA:TRUE");
    let scoped = |world: &World| numbered_list(&world.authority, (1, (-1, 1)), &[scope], &[]);
    let directory = tempfile::tempdir().unwrap();
    for (what, revoked) in [
        ("none", None),
        ("good", Some(false)),
        ("revoked", Some(true)),
    ] {
        let world = World::new(true);
        if let Some(revoked) = revoked {
            world.server.put(LIST, &world.list(1, (-1, 1), revoked));
        }
        let path = directory.path().join(what);
        std::fs::write(&path, scoped(&world).to_pem().unwrap()).unwrap();
        world
            .server
            .put(AUTHORITIES, &scoped(&world).to_der().unwrap());
        for (in_file, revocation) in [
            (true, Revocation::IfAvailable),
            (true, Revocation::Strict),
            (false, Revocation::IfAvailable),
            (false, Revocation::Strict),
        ] {
            world.lists.forget();
            let path = path.to_str().unwrap().to_owned();
            let anchors = TrustAnchors {
                authorities: vec![world.authority.certificate.clone()],
                revocation_lists: if in_file { vec![path] } else { Vec::new() },
                list_uris: match in_file {
                    true => Vec::new(),
                    false => vec![(
                        world.authority.certificate.clone(),
                        vec![AUTHORITIES.to_owned()],
                    )],
                },
                ..TrustAnchors::default()
            };
            let trust = Trust::new(anchors, revocation, SignaturePolicy::default()).unwrap();
            let trust = trust.with_lists(Some(world.lists.clone()));
            let judged = trust.verify(&world.claim());
            let good = revoked.map_or(revocation == Revocation::IfAvailable, |revoked| !revoked);
            assert_eq!(
                judged.is_ok(),
                good,
                "{what}, {in_file}, {revocation:?}: {judged:?}"
            );
            assert!(
                world.server.take_asked().contains(&LIST.to_owned()),
                "{what}, {in_file}"
            );
        }
    }
}

/// Whom a delta names stays revoked when it is out of date, and nobody else is.
#[test]
fn a_delta_out_of_date_tells_whom_it_names() {
    let directory = tempfile::tempdir().unwrap();
    for revoked in [false, true] {
        let world = World::new(false);
        let named: &[&Holder] = if revoked { &[&world.end] } else { &[] };
        let begins = (Nid::DELTA_CRL, "critical,DER:02:01:05");
        let more = (Nid::FRESHEST_CRL, "URI:http://lists.test/delta.crl");
        let files = [
            numbered_list(&world.authority, (5, (-9, 9)), &[more], &[]),
            numbered_list(&world.authority, (7, (-3, -1)), &[begins], named),
        ];
        let paths = files.iter().enumerate().map(|(at, list)| {
            let path = directory.path().join(format!("{revoked}-{at}.crl"));
            std::fs::write(&path, list.to_pem().unwrap()).unwrap();
            path.to_str().unwrap().to_owned()
        });
        let anchors = TrustAnchors {
            authorities: vec![world.authority.certificate.clone()],
            revocation_lists: paths.collect(),
            ..TrustAnchors::default()
        };
        let trust = Trust::new(anchors, Revocation::Strict, SignaturePolicy::default()).unwrap();
        let judged = trust.verify(&world.claim());
        assert_eq!(judged.is_ok(), !revoked, "{judged:?}");
    }
}
