// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The attacker peer: one who has the keys of the exchange, and breaks one rule at a time.
#![allow(clippy::unwrap_used)]

mod peers;
mod pki;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use ikev2d_crypto::credential::SignaturePolicy;
use ikev2d_proto::config::{AddressPattern, LocalAuth, RemoteAuth};
use ikev2d_proto::deviation::Outgoing;
use ikev2d_proto::event::Event;
use ikev2d_proto::wire::{exchange, payload};

use peers::Pair;
use peers::change::{CHANGES, assert_small_answers, change};
use pki::{Holder, Template, p256};

/// Plays IKE_AUTH with one deviation of the initiator's; the payload's type, and what became of it.
fn auth_with(deviation: impl Fn(&mut Outgoing) + Send + Sync + 'static) -> Pair {
    let mut pair = Pair::seeded(11, |_, _, config| config.retransmit_tries = 1);
    pair.sides[0].endpoint.deviate(Box::new(move |message| {
        if message.header.exchange == exchange::IKE_AUTH {
            deviation(message);
        }
    }));
    let now = pair.now;
    pair.sides[0]
        .endpoint
        .initiate(now, "gw", Some("net"), None)
        .unwrap();
    pair.run(Duration::from_secs(20));
    pair
}

/// How the ends authenticate each other.
enum By {
    PresharedKeys,
    Signatures { root: Holder, ends: [Holder; 2] },
}

impl By {
    fn signatures() -> Self {
        let root = Template::authority("Root").issue(p256(), None);
        let ends = ["a.test", "b.test"].map(|end| Template::end(end).issue(p256(), Some(&root)));
        Self::Signatures { root, ends }
    }
}

/// Plays IKE_AUTH with one deviation of the responder's.
fn answered_with(by: &By, deviation: impl Fn(&mut Outgoing) + Send + Sync + 'static) -> Pair {
    let mut pair = Pair::seeded(11, |a, connection, config| {
        config.retransmit_tries = 1;
        if let By::Signatures { root, ends } = by {
            let policy = SignaturePolicy::default();
            let own = &ends[usize::from(!a)];
            connection.local_auth = LocalAuth::PublicKey(own.signer(&[], &policy));
            connection.remote_auth = RemoteAuth::PublicKey(root.trust(policy));
        }
    });
    pair.sides[1].endpoint.deviate(Box::new(move |message| {
        if message.header.exchange == exchange::IKE_AUTH {
            deviation(message);
        }
    }));
    pair.initiate();
    pair.run(Duration::from_secs(20));
    pair
}

fn is_up(pair: &Pair) -> bool {
    pair.count(1, |e| matches!(e, Event::IkeUp { .. })) != 0
}

/// A01, A03, I06, I07, R3: whatever is wrong in IKE_AUTH, nobody gets a child SA without proof, nobody
/// crashes, and every request gets one small answer at most.
#[test]
fn no_single_deviation_in_ike_auth_gets_a_child_without_authentication() {
    let straight = auth_with(|_| {});
    assert!(is_up(&straight));
    straight.agree(1);
    let mut tried = 0;
    let mut refused = 0;
    for what in CHANGES {
        for at in 0..12 {
            let touched = std::sync::Arc::new(std::sync::atomic::AtomicU8::new(0));
            let seen = touched.clone();
            let pair = auth_with(move |message| {
                let kind = change(what, at, message).unwrap_or_default();
                seen.store(kind, std::sync::atomic::Ordering::Relaxed);
            });
            let kind = touched.load(std::sync::atomic::Ordering::Relaxed);
            if kind == 0 {
                continue;
            }
            tried += 1;
            let name = format!("payload {kind} {what}");
            assert_small_answers(&pair, &name);
            // AUTH speaks for itself and for the identity; a second one of them is not looked at.
            let proof = kind == payload::AUTH || kind == payload::IDI;
            if proof && what != "twice" {
                refused += 1;
                assert!(!is_up(&pair), "{name}");
            }
            if !is_up(&pair) {
                assert!(pair.sides[1].inbound.is_empty(), "{name}");
                assert!(pair.sides[1].outbound.is_empty(), "{name}");
            }
        }
    }
    println!("{tried} deviations, {refused} of them against the proof itself");
    assert!(tried >= 60 && refused >= 16, "{tried} {refused}");
}

/// A01: other exchanges before authentication.
#[test]
fn nothing_but_ike_auth_is_done_before_authentication() {
    for kind in (0..=255u8).filter(|kind| *kind != exchange::IKE_AUTH) {
        let pair = auth_with(move |message| message.header.exchange = kind);
        assert!(!is_up(&pair), "exchange {kind}");
        assert!(pair.sides[1].inbound.is_empty(), "exchange {kind}");
        assert_small_answers(&pair, &format!("exchange {kind}"));
    }
}

/// A07: numbers outside of the window.
#[test]
fn message_ids_outside_of_the_window_are_passed_over() {
    for id in [0u32, 2, 3, 0x7fff_ffff, u32::MAX - 1, u32::MAX] {
        let pair = auth_with(move |message| message.header.message_id = id.into());
        assert!(!is_up(&pair), "id {id}");
    }
}

/// B1, I05, I06, I11, R3: deviations of an authenticated peer cost it its own request, never what
/// there is.
#[test]
fn no_single_deviation_in_create_child_sa_harms_what_there_is() {
    let mut tried = 0;
    for rekeys in ["child", "ike", "more"] {
        for what in CHANGES {
            for at in 0..9 {
                let mut pair = Pair::seeded(11, |_, _, config| config.retransmit_tries = 1);
                pair.up();
                let before = pair.child(1);
                let touched = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
                let seen = touched.clone();
                pair.sides[0].endpoint.deviate(Box::new(move |message| {
                    if message.header.exchange == exchange::CREATE_CHILD_SA {
                        let kind = change(what, at, message);
                        seen.store(kind.is_some(), std::sync::atomic::Ordering::Relaxed);
                    }
                }));
                pair.recorded.clear();
                let (now, ike, child) = (pair.now, pair.ike(0), pair.child(0));
                let endpoint = &mut pair.sides[0].endpoint;
                match rekeys {
                    "child" => endpoint.rekey_child(now, child).unwrap(),
                    "ike" => endpoint.rekey_ike(now, ike).unwrap(),
                    _ => drop(endpoint.initiate(now, "gw", Some("pfs"), None)),
                }
                pair.run(Duration::from_secs(3));
                if !touched.load(std::sync::atomic::Ordering::Relaxed) {
                    continue;
                }
                tried += 1;
                assert_small_answers(&pair, what);
                // The responder has the child, or one that has taken over from it.
                let has = pair.sides[1].inbound.values().any(|(id, _)| *id >= before);
                assert!(has, "{rekeys} payload {at} {what}");
            }
        }
    }
    println!("{tried} deviations");
    assert!(tried >= 90, "{tried}");
}

/// An answer to the rekeying of an IKE SA that can't be read is not the end of rekeying: it is tried
/// again, as long as the IKE SA is there.
#[test]
fn the_rekeying_of_an_ike_sa_is_tried_again_after_an_answer_that_can_not_be_read() {
    for (kind, len) in [
        (payload::SA, 0),
        (payload::KE, 8),
        // RFC 7296 §2.10, §3.9.
        (payload::NONCE, 15),
        (payload::NONCE, 257),
    ] {
        let told = format!("payload {kind} of {len} octets");
        let mut pair = Pair::seeded(11, |_, _, _| {});
        pair.up();
        pair.sides[1].endpoint.deviate(Box::new(move |message| {
            let rekeys = message.header.exchange == exchange::CREATE_CHILD_SA;
            let mut changed = message.payloads.iter_mut().filter(|_| rekeys);
            if let Some((_, body)) = changed.find(|part| part.0 == kind) {
                body.resize(len, 1);
            }
        }));
        let (now, ike) = (pair.now, pair.ike(0));
        pair.sides[0].endpoint.rekey_ike(now, ike).unwrap();
        pair.recorded.clear();
        pair.run(Duration::from_secs(15));
        let request = |m: &&Vec<u8>| m[18] == exchange::CREATE_CHILD_SA && m[19] & 0x20 == 0;
        assert!(pair.recorded.iter().filter(request).count() > 1, "{told}");
        let rekeyed = |e: &Event| matches!(e, Event::IkeRekeyed { .. });
        assert_eq!(pair.count(0, rekeyed), 0, "{told}");
        assert_eq!(pair.ike(0), ike, "{told}");
    }
}

/// RFC 7296 §2.25: who asks for a child SA and names none that it replaces can't have named one that is not
/// there. That is a refusal, and no request without end.
#[test]
fn a_child_that_is_not_found_for_no_reason_is_given_up() {
    let mut pair = Pair::plain();
    pair.up();
    pair.sides[1].endpoint.deviate(Box::new(|message| {
        if message.header.exchange == exchange::CREATE_CHILD_SA && message.header.is_response() {
            let not_found = [0, 0, 0, 44];
            message.payloads = vec![(payload::NOTIFY, not_found.to_vec())];
        }
    }));
    let now = pair.now;
    let a = &mut pair.sides[0].endpoint;
    a.initiate(now, "gw", Some("pfs"), None).unwrap();
    pair.run(Duration::from_secs(30));
    let asked = |message: &&Vec<u8>| message[18..20] == [exchange::CREATE_CHILD_SA, 8];
    assert_eq!(pair.recorded.iter().filter(asked).count(), 1);
    let failed = |e: &Event| matches!(e, Event::InitiateFailed { reason, .. } if reason.contains("CHILD_SA_NOT_FOUND"));
    assert_eq!(pair.count(0, failed), 1);
}

/// A01, A03, I06, I07, R3: the same where the responder breaks the rules: the initiator makes no child SA
/// with who has not proved to be whom it asks for.
#[test]
fn no_single_deviation_of_a_responder_in_ike_auth_gets_it_a_child_without_authentication() {
    for by in [By::PresharedKeys, By::signatures()] {
        answered_with(&by, |_| {}).agree(1);
        let (mut tried, mut refused) = (0, 0);
        for what in CHANGES {
            for at in 0..12 {
                let touched = Arc::new(AtomicU8::new(0));
                let seen = touched.clone();
                let pair = answered_with(&by, move |message| {
                    let kind = change(what, at, message).unwrap_or_default();
                    seen.store(kind, Ordering::Relaxed);
                });
                let kind = touched.load(Ordering::Relaxed);
                if kind == 0 {
                    continue;
                }
                tried += 1;
                let name = format!("payload {kind} {what}");
                assert_small_answers(&pair, &name);
                let up = pair.count(0, |e| matches!(e, Event::IkeUp { .. })) != 0;
                let proof = [payload::AUTH, payload::IDR, payload::CERT].contains(&kind);
                if proof && what != "twice" {
                    refused += 1;
                    assert!(!up, "{name}");
                }
                if !up {
                    assert_eq!(pair.sides[0].endpoint.ike_sas().count(), 0, "{name}");
                    assert!(pair.sides[0].offered.is_empty(), "{name}");
                }
                let (inbound, outbound) = (&pair.sides[0].inbound, &pair.sides[0].outbound);
                assert_eq!(inbound.len(), outbound.len(), "{name}");
                // What the initiator has made, the responder has, too.
                let known = |spi: &u32| pair.sides[1].inbound.contains_key(spi);
                assert!(outbound.keys().all(known), "{name}");
            }
        }
        println!("{tried} deviations, {refused} of them against the proof itself");
        assert!(tried >= 50 && refused >= 18, "{tried} {refused}");
    }
}

/// B1, I05, I06: a choice that was not offered makes no child SA, in IKE_AUTH and later, and the responder
/// is told to forget its own; the IKE SA stays.
#[test]
fn a_choice_that_was_not_offered_makes_no_child() {
    let everything = || {
        let mut body = vec![1, 0, 0, 0, 7, 0, 0, 16, 0, 0, 0xff, 0xff];
        body.extend([0, 0, 0, 0, 255, 255, 255, 255]);
        body
    };
    type Change = Box<dyn Fn(&mut Outgoing) + Send + Sync>;
    let changes = || -> Vec<(&str, Change)> {
        fn on(kind: u8, act: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Change {
            Box::new(move |message| {
                let mut parts = message.payloads.iter_mut();
                if let Some((_, body)) = parts.find(|part| part.0 == kind) {
                    act(body);
                }
            })
        }
        vec![
            (
                "wider TSi",
                on(payload::TSI, move |body| *body = everything()),
            ),
            (
                "wider TSr",
                on(payload::TSR, move |body| *body = everything()),
            ),
            ("no TSi", on(payload::TSI, |body| *body = vec![0, 0, 0, 0])),
            ("no TSr", on(payload::TSR, |body| *body = vec![0, 0, 0, 0])),
            ("SPI 0", on(payload::SA, |body| body[8..12].fill(0))),
            ("AH", on(payload::SA, |body| body[5] = 2)),
            (
                "of a longer key",
                on(payload::SA, |body| {
                    let at = body
                        .windows(4)
                        .position(|w| w == [0x80, 14, 0, 128])
                        .unwrap();
                    body[at + 3..at + 4].copy_from_slice(&[192]);
                }),
            ),
            (
                "two proposals",
                on(payload::SA, |body| {
                    let mut second = body.clone();
                    (body[0], second[4]) = (2, 2);
                    body.extend(second);
                }),
            ),
            (
                "transport mode",
                Box::new(|message| {
                    let transport = (payload::NOTIFY, vec![0, 0, 0x40, 0x07]);
                    message.payloads.push(transport);
                }),
            ),
        ]
    };
    for of_auth in [true, false] {
        for (what, deviation) in changes() {
            let mut pair = Pair::seeded(11, |_, _, _| {});
            if !of_auth {
                pair.up();
            }
            pair.sides[1].endpoint.deviate(Box::new(move |message| {
                let makes = [exchange::IKE_AUTH, exchange::CREATE_CHILD_SA];
                if makes.contains(&message.header.exchange) {
                    deviation(message);
                }
            }));
            let (now, child) = (pair.now, if of_auth { "net" } else { "pfs" });
            let endpoint = &mut pair.sides[0].endpoint;
            endpoint.initiate(now, "gw", Some(child), None).unwrap();
            pair.run(Duration::from_secs(20));
            let failed = pair.count(0, |e| matches!(e, Event::InitiateFailed { .. }));
            assert_eq!(failed, 1, "{what}");
            assert!(pair.current_ike(0).is_some(), "{what}");
            pair.agree(usize::from(!of_auth));
            assert_small_answers(&pair, what);
        }
    }
}

/// What an INFORMATIONAL exchange is for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asks {
    Liveness,
    Move,
    DeleteChild,
    DeleteIke,
}

/// Two sides with two tunnels, one side of which deviates in INFORMATIONAL while one asks for this.
fn informed_with(
    side: usize,
    (by, asks): (usize, Asks),
    deviation: impl Fn(&mut Outgoing) + Send + Sync + 'static,
) -> Pair {
    let elsewhere: SocketAddr = "198.51.100.9:4500".parse().unwrap();
    let mut pair = Pair::seeded(11, |a, connection, config| {
        config.retransmit_tries = 1;
        connection.mobike = true;
        let addrs = match a {
            true => &mut connection.local_addrs,
            false => &mut connection.remote_addrs,
        };
        addrs.push(AddressPattern::Prefix(elsewhere.ip(), 32));
    });
    pair.up();
    let now = pair.now;
    let first = pair.child(by);
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("pfs"), None).unwrap();
    pair.run(Duration::from_secs(10));
    pair.agree(2);
    pair.recorded.clear();
    pair.sides[side].endpoint.deviate(Box::new(move |message| {
        if message.header.exchange == exchange::INFORMATIONAL {
            deviation(message);
        }
    }));
    let (now, ike) = (pair.now, pair.ike(by));
    let endpoint = &mut pair.sides[by].endpoint;
    match asks {
        Asks::Liveness => endpoint.check_liveness(now, ike).unwrap(),
        Asks::Move => assert!(endpoint.move_to(now, ike, elsewhere.ip()).unwrap()),
        Asks::DeleteChild => endpoint.terminate_child(now, first).unwrap(),
        Asks::DeleteIke => endpoint.terminate_ike(now, ike).unwrap(),
    }
    pair.run(Duration::from_secs(3));
    pair
}

/// What is of no concern to an exchange is as it was, and both go on.
fn assert_unharmed(mut pair: Pair, asks: Asks, what: &str) {
    for side in &mut pair.sides {
        side.endpoint.deviate(Box::new(|_| {}));
    }
    let least = match asks {
        Asks::Liveness | Asks::Move => 2,
        Asks::DeleteChild => 1,
        Asks::DeleteIke => return,
    };
    for side in 0..2 {
        let inbound = &pair.sides[side].inbound;
        assert!(inbound.len() >= least, "{what}");
        let other = pair.sides[side].offered.keys().nth(1).unwrap();
        assert!(inbound.values().any(|(id, _)| id == other), "{what}");
        assert!(pair.current_ike(side).is_some(), "{what}");
    }
    let other = *pair.sides[0].offered.keys().nth(1).unwrap();
    let now = pair.now;
    pair.sides[0].endpoint.rekey_child(now, other).unwrap();
    pair.run(Duration::from_secs(20));
    assert_eq!(
        pair.count(0, |e| matches!(e, Event::RekeyFailed { .. })),
        0,
        "{what}"
    );
    assert!(
        !pair.sides[1].inbound.values().any(|(id, _)| *id == other),
        "{what}"
    );
    assert!(pair.current_ike(1).is_some(), "{what}");
}

/// I10, R3: whatever is wrong in a request of INFORMATIONAL, or in its answer, costs at most what that
/// exchange is for.
#[test]
fn no_single_deviation_in_informational_harms_what_there_is() {
    let mut tried = 0;
    for asks in [
        Asks::Liveness,
        Asks::Move,
        Asks::DeleteChild,
        Asks::DeleteIke,
    ] {
        assert_unharmed(informed_with(0, (0, asks), |_| {}), asks, "nothing");
        for side in 0..2 {
            for what in CHANGES {
                for at in 0..4 {
                    let touched = Arc::new(AtomicU8::new(0));
                    let seen = touched.clone();
                    let pair = informed_with(side, (0, asks), move |message| {
                        let kind = change(what, at, message).unwrap_or_default();
                        seen.fetch_max(kind, Ordering::Relaxed);
                    });
                    let kind = touched.load(Ordering::Relaxed);
                    if kind != 0 {
                        tried += 1;
                        let what = format!("{asks:?} by {side}: payload {kind} {what}");
                        assert_small_answers(&pair, &what);
                        assert_unharmed(pair, asks, &what);
                    }
                }
            }
        }
    }
    println!("{tried} deviations");
    assert!(tried >= 70, "{tried}");
}

/// I09, I10, R3: neither does what is added to one: deletions of what is not there, configuration and
/// MOBIKE's notifications, malformed or out of place.
#[test]
fn nothing_that_is_added_to_informational_harms_what_there_is() {
    const CONFIGURATION: u8 = 47;
    let many = |count: u16| {
        let spis = (0..count).flat_map(|spi| u32::from(spi).to_be_bytes());
        let mut body = vec![3, 4];
        body.extend(count.to_be_bytes());
        body.extend(spis);
        body
    };
    let notify = |kind: u16, data: &[u8]| {
        let kind = kind.to_be_bytes();
        [&[0, 0][..], &kind, data].concat()
    };
    let mut added: Vec<(u8, Vec<u8>)> = vec![
        (payload::DELETE, many(0)),
        (payload::DELETE, many(255)),
        (payload::DELETE, many(8000)),
        // More than there are, none of a length, of another protocol.
        (payload::DELETE, vec![3, 4, 0xff, 0xff, 0, 0, 0, 1]),
        (payload::DELETE, vec![3, 0, 0xff, 0xff]),
        (payload::DELETE, vec![3, 3, 0, 1, 0, 0, 1]),
        (payload::DELETE, vec![2, 4, 0, 1, 0, 0, 0, 1]),
        (payload::DELETE, vec![0, 4, 0, 1, 0, 0, 0, 1]),
        (payload::DELETE, vec![255; 8]),
        (payload::DELETE, vec![]),
        (CONFIGURATION, vec![]),
        (CONFIGURATION, vec![1, 0, 0, 0]),
        (CONFIGURATION, vec![9, 0, 0, 0]),
        (CONFIGURATION, vec![3, 0, 0, 0, 0, 1, 0, 4, 10, 0, 0, 1]),
        (CONFIGURATION, vec![1, 0, 0, 0, 0, 1, 0xff, 0xff]),
        (
            CONFIGURATION,
            [&[1, 0, 0, 0][..], &[0, 1, 0, 0].repeat(1000)].concat(),
        ),
    ];
    // ADDITIONAL_IP4_ADDRESS to NO_NATS_ALLOWED, UNACCEPTABLE_ADDRESSES, UNEXPECTED_NAT_DETECTED.
    for kind in (16397..=16402).chain([40, 41]) {
        for data in [
            &[][..],
            &[0],
            &[192, 0, 2, 200],
            &[0xff; 16],
            &[7; 64],
            &[7; 65],
        ] {
            added.push((payload::NOTIFY, notify(kind, data)));
        }
    }
    for (side, by) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        for (kind, body) in &added {
            for twice in [false, true] {
                let start = &body[..body.len().min(12)];
                let what = format!("{kind} {start:?} by {side}, asked by {by}");
                let payload = (*kind, body.clone());
                let asks = (by, Asks::Liveness);
                let pair = informed_with(side, asks, move |message| {
                    message.payloads.push(payload.clone());
                    message.payloads.extend(twice.then(|| payload.clone()));
                });
                // Its own answers may be as long as it likes.
                if side == by {
                    assert_small_answers(&pair, &what);
                }
                for (at, own) in [(0, "192.0.2.1"), (1, "192.0.2.2")] {
                    let sa = pair.sides[at].endpoint.ike_sas().next().unwrap();
                    assert_eq!(sa.path.local.ip().to_string(), own, "{what}");
                }
                assert_unharmed(pair, Asks::Liveness, &what);
            }
        }
    }
}
