// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Answers to CREATE_CHILD_SA of which no child SA can be made: the peer has made one, and does not keep
//! it (RFC 7296 §1.4.1), and what was to be replaced goes on.
#![allow(clippy::unwrap_used)]

mod peers;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ikev2d_proto::config::{Connection, EndpointConfig};
use ikev2d_proto::deviation::Outgoing;
use ikev2d_proto::event::Event;
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::wire::{FLAG_RESPONSE, exchange, payload};

use peers::Pair;
use peers::seeded::{Fails, SeededCrypto};

/// What is wrong with an answer.
const WRONG: [&str; 6] = [
    "no nonce",
    "short nonce",
    "long nonce",
    "broken key exchange",
    "other selectors",
    "another protocol's SPI",
];

fn spoil(what: &str, message: &mut Outgoing) {
    let of_answer = message.header.flags & FLAG_RESPONSE != 0;
    if message.header.exchange != exchange::CREATE_CHILD_SA || !of_answer {
        return;
    }
    let kind = match what {
        "broken key exchange" => payload::KE,
        "other selectors" => payload::TSR,
        "another protocol's SPI" => payload::SA,
        _ => payload::NONCE,
    };
    let Some(at) = message.payloads.iter().position(|(of, _)| *of == kind) else {
        return;
    };
    let body = &mut message.payloads[at].1;
    match what {
        "no nonce" => drop(message.payloads.remove(at)),
        "short nonce" => body.truncate(15),
        "long nonce" => body.resize(257, 7),
        "other selectors" => body.truncate(4),
        // Its protocol is in the sixth octet of the first proposal.
        "another protocol's SPI" => body[5] = 2,
        _ => body.truncate(6),
    }
}

fn patient(_: bool, connection: &mut Connection, config: &mut EndpointConfig) {
    let esp = Proposal::parse_esp("aes128gcm16-x25519").unwrap();
    for child in &mut connection.children {
        child.esp_proposals = vec![esp.clone()];
    }
    config.retransmit_tries = 12;
    config.retransmit_timeout = Duration::from_secs(1);
}

/// A peer does not keep a child SA that we could not make, and is told at once.
#[test]
fn a_child_that_only_the_peer_could_make_is_deleted() {
    for what in WRONG {
        for side in [0, 1] {
            for rekeys in [false, true] {
                let told = format!("{what}, asked for by {side}, rekeying: {rekeys}");
                let mut pair = Pair::seeded(5, patient);
                pair.up();
                let (now, child) = (pair.now, pair.child(side));
                let (asking, answering) = (side, 1 - side);
                let spoiled = move |message: &mut Outgoing| spoil(what, message);
                pair.sides[answering].endpoint.deviate(Box::new(spoiled));
                let endpoint = &mut pair.sides[asking].endpoint;
                match rekeys {
                    true => endpoint.rekey_child(now, child).unwrap(),
                    false => drop(endpoint.initiate(now, "gw", Some("pfs"), None).unwrap()),
                }
                pair.run(Duration::from_secs(5));
                assert_eq!(pair.sides[answering].offered.len(), 2, "{told}");
                for of in 0..2 {
                    let left = pair.sides[of].inbound.values().map(|(id, _)| *id);
                    let first = *pair.sides[of].offered.keys().next().unwrap();
                    assert_eq!(left.collect::<Vec<_>>(), [first], "{told}");
                    assert_eq!(pair.sides[of].endpoint.stats().children, 1, "{told}");
                }
                pair.agree(1);
                pair.assert_no_black_hole(&told);
                // What is answered well again goes well again.
                pair.sides[answering].endpoint.deviate(Box::new(|_| {}));
                let (now, child) = (pair.now, pair.child(answering));
                let endpoint = &mut pair.sides[answering].endpoint;
                endpoint.rekey_child(now, child).unwrap();
                pair.run(Duration::from_secs(30));
                pair.settle(1);
                assert!(pair.count(0, |e| matches!(e, Event::ChildRekeyed { .. })) >= 1);
            }
        }
    }
}

/// An IKE_FOLLOWUP_KE that can't be made ends its rekeying for now, not for good.
#[test]
fn a_rekeying_whose_next_key_exchange_cannot_be_sent_is_tried_again() {
    for ike in [false, true] {
        let fails = Fails::default();
        let crypto = Arc::new(SeededCrypto::failing(5, fails.clone()));
        let mut pair = Pair::with(crypto, |a, connection, config| {
            patient(a, connection, config);
            let text = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
            connection.proposals = vec![Proposal::parse_ike(text).unwrap()];
            let text = "aes256gcm16-x25519-ke1_mlkem768";
            connection.children[0].esp_proposals = vec![Proposal::parse_esp(text).unwrap()];
        });
        pair.up();
        let (now, of_ike, child) = (pair.now, pair.ike(0), pair.child(0));
        let endpoint = &mut pair.sides[0].endpoint;
        match ike {
            true => endpoint.rekey_ike(now, of_ike).unwrap(),
            false => endpoint.rekey_child(now, child).unwrap(),
        }
        // The request is on its way, and its answer; what comes next is the key exchange.
        pair.flush();
        pair.deliver(0);
        pair.flush();
        fails.store(1, Relaxed);
        pair.deliver(0);
        assert_eq!(fails.load(Relaxed), 0);
        pair.agree(1);
        pair.run(Duration::from_secs(60));
        pair.settle(1);
        let rekeyed = |e: &Event| match e {
            Event::IkeRekeyed { .. } => ike,
            Event::ChildRekeyed { .. } => !ike,
            _ => false,
        };
        assert_eq!(pair.count(0, rekeyed), 1, "{ike}");
    }
}

/// A request that can't be made is made later.
#[test]
fn a_rekeying_that_cannot_be_sent_is_tried_again() {
    for ike in [false, true] {
        let fails = Fails::default();
        let crypto = Arc::new(SeededCrypto::failing(5, fails.clone()));
        let mut pair = Pair::with(crypto, patient);
        pair.up();
        let (now, of_ike, child) = (pair.now, pair.ike(0), pair.child(0));
        fails.store(1, Relaxed);
        let endpoint = &mut pair.sides[0].endpoint;
        match ike {
            true => endpoint.rekey_ike(now, of_ike).unwrap(),
            false => endpoint.rekey_child(now, child).unwrap(),
        }
        assert_eq!(fails.load(Relaxed), 0);
        pair.run(Duration::from_secs(60));
        pair.settle(1);
        let rekeyed =
            |e: &Event| matches!(e, Event::IkeRekeyed { .. } | Event::ChildRekeyed { .. });
        assert_eq!(pair.count(0, rekeyed), 1, "{ike}");
    }
}
