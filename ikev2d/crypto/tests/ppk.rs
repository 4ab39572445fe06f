// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Postquantum preshared keys (RFC 8784).
#![allow(clippy::unwrap_used)]

mod peers;
mod pki;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ikev2d_crypto::credential::{KeySigner, SignaturePolicy};
use ikev2d_crypto::trust::{Revocation, Trust, TrustAnchors};
use ikev2d_proto::config::*;
use ikev2d_proto::event::Event;
use ikev2d_proto::wire::exchange;
use openssl::pkey::PKey;
use zeroize::Zeroizing;

use peers::Pair;
use pki::p256;

fn any() -> SignaturePolicy {
    SignaturePolicy::default()
}

/// What a side has.
#[derive(Clone, Copy, Debug)]
struct Has {
    id: Option<&'static str>,
    key: Option<&'static [u8]>,
    required: bool,
}

const KEY: &[u8] = b"a postquantum preshared key, 256 bits";
const WITH: Has = Has {
    id: Some("ppk.test"),
    key: Some(KEY),
    required: false,
};
const REQUIRED: Has = Has {
    required: true,
    ..WITH
};
const WITHOUT: Has = Has {
    id: None,
    key: None,
    required: false,
};
/// It could, and does not have that key.
const LACKS: Has = Has { key: None, ..WITH };
const OTHER: Has = Has {
    key: Some(b"another postquantum preshared key"),
    ..WITH
};
const ANY: Has = Has {
    id: Some("%any"),
    ..WITH
};

fn equip(pair: &mut Pair, side: usize, has: Has) {
    let secret = has.key.map(|key| Secret {
        ids: vec![Identity::parse("ppk.test")],
        secret: Zeroizing::new(key.to_vec()),
    });
    let endpoint = &mut pair.sides[side].endpoint;
    endpoint.set_ppks(secret.into_iter().collect());
}

fn configure(connection: &mut Connection, has: Has) {
    connection.ppk_id = has.id.map(Identity::parse);
    connection.ppk_required = has.required;
}

fn begun(a: Has, b: Has) -> Pair {
    let mut pair = Pair::new(|initiator, connection, _| {
        configure(connection, if initiator { a } else { b });
    });
    equip(&mut pair, 0, a);
    equip(&mut pair, 1, b);
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("net"), None).unwrap();
    pair.run(Duration::from_secs(40));
    pair
}

fn uses(pair: &Pair) -> [Option<bool>; 2] {
    [0, 1].map(|side| pair.sides[side].endpoint.ike_sas().next().map(|sa| sa.ppk))
}

/// B12: every pair of what two sides can have.
#[test]
fn a_ppk_is_used_where_both_have_it_and_required_where_either_says_so() {
    for (a, b, expected) in [
        (WITH, WITH, Some(true)),
        (WITH, REQUIRED, Some(true)),
        (REQUIRED, REQUIRED, Some(true)),
        (WITH, ANY, Some(true)),
        // NO_PPK_AUTH is what the other takes.
        (WITH, LACKS, Some(false)),
        (LACKS, WITH, Some(false)),
        (WITH, WITHOUT, Some(false)),
        (WITHOUT, WITH, Some(false)),
        (WITHOUT, REQUIRED, None),
        (REQUIRED, WITHOUT, None),
        (REQUIRED, LACKS, None),
        (LACKS, REQUIRED, None),
        (
            Has {
                required: true,
                ..LACKS
            },
            WITH,
            None,
        ),
        // The same name, and another key: nobody is authenticated.
        (WITH, OTHER, None),
        (OTHER, WITH, None),
    ] {
        let pair = begun(a, b);
        assert_eq!(uses(&pair), [expected; 2], "{a:?}, {b:?}");
        pair.agree(usize::from(expected.is_some()));
        if expected.is_none() {
            let failed = |e: &Event| matches!(e, Event::InitiateFailed { .. });
            assert_eq!(pair.count(0, failed), 1);
        }
    }
}

/// B12: its name and the code without it travel only where they are to.
#[test]
fn what_has_a_ppk_rekeys_and_creates_children() {
    let mut pair = begun(REQUIRED, WITH);
    for side in [0, 1] {
        let (now, ike) = (pair.now, pair.ike(side));
        pair.sides[side].endpoint.rekey_ike(now, ike).unwrap();
        pair.run(Duration::from_secs(10));
        let (now, child) = (pair.now, pair.child(side));
        pair.sides[side].endpoint.rekey_child(now, child).unwrap();
        pair.run(Duration::from_secs(10));
        pair.agree(1);
        assert_eq!(uses(&pair), [Some(true); 2]);
    }
}

/// B12 with B6: signatures are made twice, once for a responder without the key. One that had no room
/// for its own at first mixes the key in once nevertheless.
#[test]
fn signatures_go_with_a_ppk_and_without() {
    for (b, busy, expected) in [(WITH, 0, true), (LACKS, 0, false), (WITH, 2, true)] {
        let (a, c) = (p256(), p256());
        let mut pair = Pair::new(|initiator, connection, _| {
            configure(connection, if initiator { WITH } else { b });
            let (own, peer) = if initiator { (&a, &c) } else { (&c, &a) };
            let peer = PKey::public_key_from_der(&peer.public_key_to_der().unwrap()).unwrap();
            let anchors = TrustAnchors {
                keys: vec![peer],
                ..TrustAnchors::default()
            };
            let signer = KeySigner::raw(own.clone(), &any()).unwrap();
            let trust = Trust::new(anchors, Revocation::Off, any()).unwrap();
            connection.local_auth = LocalAuth::PublicKey(Arc::new(signer));
            connection.remote_auth = RemoteAuth::PublicKey(Arc::new(trust));
        });
        equip(&mut pair, 0, WITH);
        equip(&mut pair, 1, b);
        pair.sides[1].busy = busy;
        pair.up();
        assert_eq!(pair.sides[1].busy, 0);
        assert_eq!(uses(&pair), [Some(expected); 2]);
        let jobs = pair.count(0, |e| matches!(e, Event::Job { .. }));
        // Two signatures and the responder's to check.
        assert_eq!(jobs, 3);
    }
}

/// B12, A03: who strips the PPK's name gets no further than who never had one.
#[test]
fn a_stripped_ppk_is_noticed() {
    for (has, up) in [(REQUIRED, false), (WITH, false)] {
        let mut pair = Pair::new(|_, connection, _| configure(connection, has));
        equip(&mut pair, 0, has);
        equip(&mut pair, 1, has);
        let count = Arc::new(Mutex::new(0));
        let counted = count.clone();
        pair.sides[0].endpoint.deviate(Box::new(move |message| {
            if message.header.exchange == exchange::IKE_AUTH {
                message.payloads.retain(|(kind, body)| {
                    let named = *kind == 41 && body[2..4] == 16436u16.to_be_bytes();
                    *counted.lock().unwrap() += usize::from(named);
                    !named
                });
            }
        }));
        let now = pair.now;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint.initiate(now, "gw", Some("net"), None).unwrap();
        pair.run(Duration::from_secs(40));
        assert_eq!(*count.lock().unwrap(), 1);
        assert_eq!(pair.count(1, |e| matches!(e, Event::IkeUp { .. })) != 0, up);
    }
}
