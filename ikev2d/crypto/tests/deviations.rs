// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The attacker peer: one who has the keys of the exchange, and breaks one rule at a time.
#![allow(clippy::unwrap_used)]

mod peers;

use std::time::Duration;

use ikev2d_proto::deviation::Outgoing;
use ikev2d_proto::event::Event;
use ikev2d_proto::wire::{exchange, payload};

use peers::Pair;

/// What may be done to one payload.
const CHANGES: [&str; 10] = [
    "left out",
    "twice",
    "empty",
    "halved",
    "one octet short",
    "one octet long",
    "zeroed",
    "all ones",
    "first octet changed",
    "of an unknown type",
];

fn change(what: &str, at: usize, message: &mut Outgoing) -> Option<u8> {
    let (kind, mut body) = message.payloads.get(at)?.clone();
    let mut new_kind = kind;
    match what {
        "left out" => {
            message.payloads.remove(at);
            return Some(kind);
        }
        "twice" => {
            message.payloads.push((kind, body));
            return Some(kind);
        }
        "empty" => body.clear(),
        "halved" => body.truncate(body.len() / 2),
        "one octet short" => {
            body.pop();
        }
        "one octet long" => body.push(0x5a),
        "zeroed" => body.fill(0),
        "all ones" => body.fill(0xff),
        "first octet changed" => *body.first_mut()? ^= 0x55,
        _ => new_kind = 200,
    }
    message.payloads[at] = (new_kind, body);
    Some(kind)
}

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

fn is_up(pair: &Pair) -> bool {
    pair.count(1, |e| matches!(e, Event::IkeUp { .. })) != 0
}

/// Answers of the responder: one for each request, and none longer than what asks for it thrice.
fn assert_small_answers(pair: &Pair, what: &str) {
    let (answers, requests): (Vec<&Vec<u8>>, Vec<&Vec<u8>>) = pair
        .recorded
        .iter()
        .partition(|message| message[19] & 0x20 != 0);
    assert!(answers.len() <= requests.len(), "{what}");
    let most = requests.iter().map(|m| m.len()).max().unwrap_or_default();
    assert!(answers.iter().all(|m| m.len() <= 3 * most), "{what}");
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
