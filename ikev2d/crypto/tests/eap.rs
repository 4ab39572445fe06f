// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B24, B25: EAP in IKE_AUTH (RFC 7296 §2.16) between two endpoints in memory, and who breaks its rules
//! (A02).
#![allow(clippy::unwrap_used)]

mod peers;
mod pki;

use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ikev2d_crypto::credential::SignaturePolicy;
use ikev2d_crypto::eap::mschapv2::Mschapv2;
use ikev2d_crypto::eap::tls::EapTls;
use ikev2d_crypto::trust::{Revocation, Trust, TrustAnchors};
use ikev2d_proto::config::*;
use ikev2d_proto::deviation::Outgoing;
use ikev2d_proto::eap::{ClientConfig, Methods, ServerConfig};
use ikev2d_proto::event::Event;
use ikev2d_proto::wire::{exchange, payload};
use peers::Pair;
use pki::{Holder, Template, p256, rsa};
use zeroize::Zeroizing;

fn text(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

fn client(identity: &str, password: &str) -> ClientConfig {
    ClientConfig {
        identity: identity.as_bytes().to_vec(),
        methods: Arc::new(Mschapv2::client(
            identity.as_bytes().to_vec(),
            text(password),
        )),
    }
}

fn server(ask_identity: bool) -> ServerConfig {
    let users = ["a.test", "carol"].map(|user| (user.as_bytes().to_vec(), text("open sesame")));
    ServerConfig {
        ask_identity,
        methods: Arc::new(Mschapv2::server(users.to_vec())),
    }
}

/// A initiates by EAP; B has a certificate.
fn pair(client: &ClientConfig, server: &ServerConfig) -> Pair {
    let root = Template::authority("Root").issue(p256(), None);
    let b = Template::end("b.test").issue(p256(), Some(&root));
    pair_with(&root, &b, client, server)
}

fn pair_with(root: &Holder, b: &Holder, client: &ClientConfig, server: &ServerConfig) -> Pair {
    let any = SignaturePolicy::default;
    Pair::new(|is_a, connection, _| {
        if is_a {
            connection.local_auth = LocalAuth::Eap(client.clone());
            connection.remote_auth = RemoteAuth::PublicKey(root.trust(any()));
        } else {
            connection.local_auth = LocalAuth::PublicKey(b.signer(&[], &any()));
            connection.remote_auth = RemoteAuth::Eap(server.clone());
            connection.remote_id = Identity::Any;
        }
    })
}

fn initiate(pair: &mut Pair) {
    let now = pair.now;
    let begun = pair.sides[0]
        .endpoint
        .initiate(now, "gw", Some("net"), None);
    begun.unwrap();
    pair.run(Duration::from_secs(120));
}

fn is_up(pair: &Pair, side: usize) -> bool {
    let up = pair.count(side, |event| matches!(event, Event::IkeUp { .. })) > 0;
    let child = !pair.sides[side].inbound.is_empty() || !pair.sides[side].outbound.is_empty();
    assert_eq!(up, child, "side {side}");
    up
}

/// Nobody has anything; why.
fn fails(pair: &mut Pair) -> String {
    initiate(pair);
    assert!(!is_up(pair, 0) && !is_up(pair, 1));
    assert!(
        pair.sides
            .iter()
            .all(|side| side.endpoint.ike_sas().count() == 0)
    );
    let downs = pair.sides.iter().flat_map(|side| &side.events);
    let reasons = downs.filter_map(|event| match event {
        Event::IkeDown { reason, .. } => Some(reason.clone()),
        Event::InitiateFailed { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    reasons.collect::<Vec<_>>().join("; ")
}

/// B24, B25: by a password, against a responder with a certificate or a preshared key; asked who it is
/// or not; over losses.
#[test]
fn a_password_authenticates_the_initiator() {
    for (ask, loss) in [(false, 0), (true, 0), (false, 25)] {
        let mut pair = pair(&client("a.test", "open sesame"), &server(ask));
        pair.loss = loss;
        initiate(&mut pair);
        pair.loss = 0;
        pair.run(Duration::from_secs(60));
        assert!(is_up(&pair, 0) && is_up(&pair, 1), "{ask} {loss}");
    }
    let mut pair = Pair::new(|is_a, connection, _| {
        if is_a {
            connection.local_auth = LocalAuth::Eap(client("a.test", "open sesame"));
        } else {
            connection.remote_auth = RemoteAuth::Eap(server(false));
        }
    });
    initiate(&mut pair);
    assert!(
        is_up(&pair, 0) && is_up(&pair, 1),
        "responder by preshared key"
    );
}

/// A02: whoever is asked counts as whom EAP has authenticated, not as whom IDi says.
#[test]
fn the_identity_is_that_of_eap() {
    let mut pair = pair(&client("carol", "open sesame"), &server(true));
    initiate(&mut pair);
    assert!(is_up(&pair, 1));
    let sa = pair.sides[1].endpoint.ike_sas().next().unwrap();
    assert_eq!(sa.remote_id.to_string(), "carol");
}

/// A session goes on by a ticket (RFC 5723), again and again, as that of whom EAP has authenticated, and
/// with the IDi that the initiator has said.
#[test]
fn a_ticket_is_of_whom_eap_has_authenticated() {
    let root = Template::authority("Root").issue(p256(), None);
    let b = Template::end("b.test").issue(p256(), Some(&root));
    for (expected, ask, name) in [
        (Identity::Any, true, "carol"),
        (Identity::parse("a.test"), true, "carol"),
        (Identity::Any, false, "a.test"),
    ] {
        let any = SignaturePolicy::default;
        let mut pair = Pair::new(|is_a, connection, config| {
            connection.resumption = Some(Duration::from_secs(3600));
            connection.dpd_delay = Some(Duration::from_secs(10));
            config.retransmit_tries = 3;
            if is_a {
                connection.local_auth = LocalAuth::Eap(client(name, "open sesame"));
                connection.remote_auth = RemoteAuth::PublicKey(root.trust(any()));
            } else {
                connection.local_auth = LocalAuth::PublicKey(b.signer(&[], &any()));
                connection.remote_auth = RemoteAuth::Eap(server(ask));
                connection.remote_id = expected.clone();
            }
        });
        initiate(&mut pair);
        for round in 1..=2 {
            pair.loss = 100;
            pair.run(Duration::from_secs(300));
            pair.agree(0);
            pair.loss = 0;
            initiate(&mut pair);
            pair.agree(1);
            let resumptions = pair
                .sides
                .each_ref()
                .map(|s| s.endpoint.stats().resumptions);
            assert_eq!(resumptions, [round, round], "{expected} {ask}");
            let sa = pair.sides[1].endpoint.ike_sas().next().unwrap();
            assert_eq!(sa.remote_id.to_string(), name);
        }
    }
}

/// A02: wrong passwords, unknown users, another's name; and the preshared key of old is no way around.
#[test]
fn who_has_no_password_gets_nothing() {
    for (user, password, ask) in [
        ("a.test", "open Sesame", false),
        ("a.test", "", true),
        ("mallory", "open sesame", true),
        ("carol", "open sesame", false),
    ] {
        let reason = fails(&mut pair(&client(user, password), &server(ask)));
        assert!(reason.contains("MSCHAPv2"), "{user} {ask}: {reason}");
    }
    let mut pair = Pair::new(|is_a, connection, _| {
        if !is_a {
            connection.remote_auth = RemoteAuth::Eap(server(false));
        }
    });
    let reason = fails(&mut pair);
    assert!(reason.contains("kind of authentication"), "{reason}");
}

/// A02, CVE-2015-4171: who is not the responder that the initiator believes sees nothing of its EAP.
#[test]
fn the_responder_is_believed_before_eap_begins() {
    let root = Template::authority("Root").issue(p256(), None);
    let stranger = Template::end("b.test").issue(p256(), None);
    let mut pair = pair_with(
        &root,
        &stranger,
        &client("a.test", "open sesame"),
        &server(true),
    );
    let seen = Arc::new(AtomicBool::new(false));
    let noted = seen.clone();
    pair.sides[0]
        .endpoint
        .deviate(Box::new(move |message: &mut Outgoing| {
            let eap = message
                .payloads
                .iter()
                .any(|(kind, _)| *kind == payload::EAP);
            noted.fetch_or(eap, Ordering::Relaxed);
        }));
    let reason = fails(&mut pair);
    assert!(reason.contains("self-signed"), "{reason}");
    assert!(!seen.load(Ordering::Relaxed), "EAP was answered");
}

fn tls_client(holder: &Holder, root: &Holder, server: Identity) -> ClientConfig {
    let trust = root.trust(SignaturePolicy::default());
    let certificates = from_ref(&holder.certificate);
    let tls = EapTls::client(&holder.key, certificates, trust, server).unwrap();
    ClientConfig {
        identity: b"a.test".to_vec(),
        methods: Arc::new(tls),
    }
}

fn tls_server(holder: &Holder, root: &Holder, ask_identity: bool) -> ServerConfig {
    tls_server_by(holder, root.trust(SignaturePolicy::default()), ask_identity)
}

fn tls_server_by(holder: &Holder, trust: Arc<Trust>, ask_identity: bool) -> ServerConfig {
    let tls = EapTls::server(&holder.key, from_ref(&holder.certificate), trust).unwrap();
    ServerConfig {
        ask_identity,
        methods: Arc::new(tls),
    }
}

fn b_test() -> Identity {
    Identity::Fqdn("b.test".to_owned())
}

/// B26: certificates authenticate by TLS in EAP, beside the responder's own signature; asked who it is or
/// not; over losses; with chains of several packets.
#[test]
fn certificates_authenticate_the_initiator_by_eap_tls() {
    let root = Template::authority("Root").issue(p256(), None);
    let a = Template::end("a.test").issue(rsa(), Some(&root));
    let b = Template::end("b.test").issue(p256(), Some(&root));
    for (ask, loss, server) in [
        (false, 0, b_test()),
        (true, 0, Identity::Any),
        (false, 10, b_test()),
    ] {
        let client = tls_client(&a, &root, server);
        let mut pair = pair_with(&root, &b, &client, &tls_server(&b, &root, ask));
        pair.loss = loss;
        initiate(&mut pair);
        pair.loss = 0;
        pair.run(Duration::from_secs(60));
        assert!(is_up(&pair, 0) && is_up(&pair, 1), "{ask} {loss}");
    }
}

/// B26, A02: certificates of strangers, and of others than they say; either end.
#[test]
fn eap_tls_believes_no_stranger_and_no_other() {
    let root = Template::authority("Root").issue(p256(), None);
    let other = Template::authority("Other").issue(p256(), None);
    let a = Template::end("a.test").issue(p256(), Some(&root));
    let b = Template::end("b.test").issue(p256(), Some(&root));
    let stranger = |name: &str| Template::end(name).issue(p256(), Some(&other));
    for (client, server, says) in [
        (stranger("a.test"), &b, "issuer"),
        (
            Template::end("carol").issue(p256(), Some(&root)),
            &b,
            "not of a.test",
        ),
    ] {
        let client = tls_client(&client, &root, b_test());
        let reason = fails(&mut pair_with(
            &root,
            &b,
            &client,
            &tls_server(server, &root, false),
        ));
        assert!(reason.contains(says), "{reason}");
    }
    for (server, says) in [
        (stranger("b.test"), "issuer"),
        (
            Template::end("mallory").issue(p256(), Some(&root)),
            "not of b.test",
        ),
    ] {
        let client = tls_client(&a, &root, b_test());
        let reason = fails(&mut pair_with(
            &root,
            &b,
            &client,
            &tls_server(&server, &root, false),
        ));
        assert!(reason.contains(says), "{reason}");
    }
}

/// A02, B26: a certificate is that of whom its holder says to be, asked by EAP (RFC 5216 §5.2) or told by IKE,
/// with the kind of name that it says; nobody is taken who says nothing, however good the certificate.
#[test]
fn eap_tls_binds_the_certificate_to_the_identity() {
    let root = Template::authority("Root").issue(p256(), None);
    let b = Template::end("b.test").issue(p256(), Some(&root));
    let mut nameless = Template::end("abcd");
    nameless.subject = openssl::x509::X509Name::builder().unwrap().build();
    nameless.dns.push("a.test".to_owned());
    let a = nameless.issue(p256(), Some(&root));
    let named = Template::end("a.test").issue(p256(), Some(&root));
    let subject = named.certificate.subject_name().to_der().unwrap();
    let key_id = |id: &[u8]| Identity::Opaque(ID_KEY_ID, id.to_vec());
    let address = || Identity::Address(std::net::Ipv4Addr::from(*b"abcd").into());
    let fqdn = |name: &str| Identity::Fqdn(name.to_owned());
    for (ask, holder, ike, said, proved) in [
        (true, &a, key_id(b"x"), &b"a.test"[..], Some(fqdn("a.test"))),
        (
            true,
            &named,
            key_id(b"x"),
            &*subject,
            Some(Identity::Dn(subject.clone())),
        ),
        (
            true,
            &named,
            key_id(b"x"),
            b"C=CH, O=Esplanade Test, CN=a.test",
            Some(Identity::Dn(subject.clone())),
        ),
        (true, &a, fqdn("a.test"), b"%any", None),
        (true, &a, fqdn("a.test"), b"@%any", None),
        (true, &a, fqdn("a.test"), b"0\0", None),
        (true, &a, fqdn("a.test"), b"b.test", None),
        (false, &a, fqdn("a.test"), b"", Some(fqdn("a.test"))),
        (
            false,
            &named,
            Identity::Dn(subject.clone()),
            b"",
            Some(Identity::Dn(subject.clone())),
        ),
        (false, &a, Identity::Any, b"", None),
        (false, &a, fqdn("%any"), b"", None),
        (false, &a, key_id(b"a.test"), b"", None),
        (false, &a, address(), b"", None),
        (false, &a, Identity::Dn(b"0\0".to_vec()), b"", None),
    ] {
        let what = format!("{ask} {ike:?} {said:?}");
        let mut client = tls_client(holder, &root, b_test());
        client.identity = said.to_vec();
        let server = tls_server(&b, &root, ask);
        let any = SignaturePolicy::default;
        let mut pair = Pair::new(|is_a, connection, _| {
            if is_a {
                connection.local_id = ike.clone();
                connection.local_auth = LocalAuth::Eap(client.clone());
                connection.remote_auth = RemoteAuth::PublicKey(root.trust(any()));
            } else {
                connection.local_auth = LocalAuth::PublicKey(b.signer(&[], &any()));
                connection.remote_auth = RemoteAuth::Eap(server.clone());
                connection.remote_id = Identity::Any;
            }
        });
        match proved {
            Some(proved) => {
                initiate(&mut pair);
                assert!(is_up(&pair, 1), "{what}");
                let sa = pair.sides[1].endpoint.ike_sas().next().unwrap();
                assert_eq!(*sa.remote_id, proved, "{what}");
            }
            None => {
                let reason = fails(&mut pair);
                assert!(reason.contains("is not of"), "{what}: {reason}");
            }
        }
    }
}

/// B26, B30: revocation counts in EAP-TLS as elsewhere.
#[test]
fn eap_tls_minds_revocation() {
    let root = Template::authority("Root").issue(p256(), None);
    let a = Template::end("a.test").issue(p256(), Some(&root));
    let b = Template::end("b.test").issue(p256(), Some(&root));
    let anchors = TrustAnchors {
        authorities: vec![root.certificate.clone()],
        ..TrustAnchors::default()
    };
    let strict = Trust::new(anchors, Revocation::Strict, SignaturePolicy::default()).unwrap();
    let client = tls_client(&a, &root, b_test());
    let server = tls_server_by(&b, Arc::new(strict), false);
    let reason = fails(&mut pair_with(&root, &b, &client, &server));
    assert!(reason.contains("CRL"), "{reason}");
}

/// An initiator and a responder that have nothing but EAP-TLS.
fn alone(client: &ClientConfig, server: &ServerConfig) -> Pair {
    let nobody = ServerConfig {
        ask_identity: false,
        methods: client.methods.clone(),
    };
    let nothing = ClientConfig {
        identity: Vec::new(),
        methods: server.methods.clone(),
    };
    Pair::new(|is_a, connection, _| {
        if is_a {
            connection.local_auth = LocalAuth::Eap(client.clone());
            connection.remote_auth = RemoteAuth::Eap(nobody.clone());
        } else {
            connection.local_auth = LocalAuth::Eap(nothing.clone());
            connection.remote_auth = RemoteAuth::Eap(server.clone());
        }
    })
}

/// B24: EAP alone authenticates both ends (RFC 5998), and the one that is expected.
#[test]
fn eap_tls_authenticates_both_ends_alone() {
    let root = Template::authority("Root").issue(p256(), None);
    let a = Template::end("a.test").issue(p256(), Some(&root));
    let b = Template::end("b.test").issue(p256(), Some(&root));
    let mallory = Template::end("mallory").issue(p256(), Some(&root));
    let client = tls_client(&a, &root, b_test());
    let mut pair = alone(&client, &tls_server(&b, &root, false));
    initiate(&mut pair);
    assert!(is_up(&pair, 0) && is_up(&pair, 1));
    let reason = fails(&mut alone(&client, &tls_server(&mallory, &root, false)));
    assert!(reason.contains("not of b.test"), "{reason}");
    // A responder begins EAP without a proof only for who has offered it.
    let mut pair = alone(&client, &tls_server(&b, &root, false));
    pair.sides[0]
        .endpoint
        .deviate(Box::new(|message: &mut Outgoing| {
            message.payloads.retain(|(kind, body)| {
                *kind != payload::NOTIFY || body.get(2..4) != Some(&16417_u16.to_be_bytes())
            });
        }));
    let reason = fails(&mut pair);
    assert!(reason.contains("kind of authentication"), "{reason}");
}

type Change = fn(&mut Vec<(u8, Vec<u8>)>);

fn eap(payloads: &mut [(u8, Vec<u8>)]) -> Option<&mut Vec<u8>> {
    let mut all = payloads.iter_mut();
    all.find(|(kind, _)| *kind == payload::EAP)
        .map(|(_, body)| body)
}

fn with_eap(payloads: &mut [(u8, Vec<u8>)], change: impl FnOnce(&mut Vec<u8>)) {
    if let Some(body) = eap(payloads) {
        change(body);
    }
}

/// What an end may do wrong in IKE_AUTH behind the first request, with the right keys.
const WRONG: [(&str, Change); 16] = [
    ("EAP-Success at once", |all| {
        with_eap(all, |body| *body = vec![3, body[1], 0, 4]);
    }),
    ("EAP-Failure", |all| {
        with_eap(all, |body| *body = vec![4, body[1], 0, 4]);
    }),
    ("no EAP", |all| {
        all.retain(|(kind, _)| *kind != payload::EAP)
    }),
    ("AUTH instead of EAP", |all| {
        if eap(all).is_some() {
            all.retain(|(kind, _)| *kind != payload::EAP);
            all.push((payload::AUTH, [&[2, 0, 0, 0][..], &[0; 48]].concat()));
        }
    }),
    ("AUTH beside EAP", |all| {
        if eap(all).is_some() {
            all.retain(|(kind, _)| *kind != payload::AUTH);
            all.push((payload::AUTH, [&[2, 0, 0, 0][..], &[0; 48]].concat()));
        }
    }),
    ("a wrong AUTH at the end", |all| {
        for (_, body) in all.iter_mut().filter(|(kind, _)| *kind == payload::AUTH) {
            if let Some(last) = body.last_mut() {
                *last ^= 1;
            }
        }
    }),
    ("no AUTH", |all| {
        all.retain(|(kind, _)| *kind != payload::AUTH)
    }),
    ("EAP-MD5, which has no key", |all| {
        with_eap(all, |body| {
            if body.len() > 4 {
                body[4] = 4;
            }
        });
    }),
    ("a NAK that wants EAP-MD5", |all| {
        with_eap(all, |body| *body = vec![2, body[1], 0, 6, 3, 4]);
    }),
    ("a NAK that wants nothing", |all| {
        with_eap(all, |body| *body = vec![2, body[1], 0, 5, 3]);
    }),
    ("another request's number", |all| {
        with_eap(all, |body| body[1] = body[1].wrapping_add(1));
    }),
    ("a length that lies", |all| {
        with_eap(all, |body| body[3] = body[3].wrapping_add(1));
    }),
    ("an empty packet", |all| with_eap(all, Vec::clear)),
    ("one octet", |all| with_eap(all, |body| body.truncate(1))),
    ("a code that is none", |all| {
        with_eap(all, |body| body[0] = 9)
    }),
    ("a proof that is wrong", |all| {
        with_eap(all, |body| {
            if body.len() > 40 {
                body[38] ^= 1;
            }
        });
    }),
];

/// A02: no single deviation of either end gives the other an IKE SA or a child, and no conversation
/// goes on without end.
#[test]
fn no_deviation_in_eap_gets_anything() {
    for deviant in [0, 1] {
        for (what, change) in WRONG {
            let mut pair = pair(&client("a.test", "open sesame"), &server(false));
            let behind_first = move |message: &mut Outgoing| {
                let auth = message.header.exchange == exchange::IKE_AUTH;
                if auth && (deviant == 1 || message.header.message_id.get() > 1) {
                    change(&mut message.payloads);
                }
            };
            pair.sides[deviant].endpoint.deviate(Box::new(behind_first));
            initiate(&mut pair);
            let other = 1 - deviant;
            // A responder that is right in every word but EAP's number or last proof may be believed
            // no further than its own words go.
            assert!(!is_up(&pair, other), "{what} by {deviant}");
            assert_eq!(pair.sides[other].endpoint.stats().half_open, 0, "{what}");
        }
    }
}

/// A method that never ends.
#[derive(Debug)]
struct Endless;

impl Methods for Endless {
    fn kinds(&self) -> &[u8] {
        &[ikev2d_proto::eap::kind::MSCHAPV2]
    }

    fn start(
        &self,
        _: u8,
        _: &[u8],
        _: Option<&Identity>,
    ) -> Result<Box<dyn ikev2d_proto::eap::Method>, ikev2d_proto::eap::EapError> {
        Ok(Box::new(Self))
    }
}

impl ikev2d_proto::eap::Method for Endless {
    fn kind(&self) -> u8 {
        ikev2d_proto::eap::kind::MSCHAPV2
    }

    fn begin(&mut self) -> Result<Vec<u8>, ikev2d_proto::eap::EapError> {
        Ok(vec![0])
    }

    fn handle(&mut self, _: &[u8]) -> Result<ikev2d_proto::eap::Turn, ikev2d_proto::eap::EapError> {
        Ok(ikev2d_proto::eap::Turn::Say(vec![0]))
    }
}

/// A02: rounds are bounded.
#[test]
fn a_conversation_without_end_is_ended() {
    let mut client = client("a.test", "x");
    client.methods = Arc::new(Endless);
    let mut server = server(false);
    server.methods = Arc::new(Endless);
    let reason = fails(&mut pair(&client, &server));
    assert!(reason.contains("does not end"), "{reason}");
}
