// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an attacker sends: nothing comes of it, and no answer is larger than it is worth.
#![allow(clippy::unwrap_used)]

mod peers;

use std::time::Duration;

use ikev1_proto::wire::{Chain, Header, exchange, notify, payload, sa};
use ikev2d_proto::config::*;
use ikev2d_proto::event::*;

use peers::open::Open;
use peers::{Pair, secret};

fn to_b() -> Path {
    Path::new(
        "192.0.2.2:500".parse().unwrap(),
        "192.0.2.1:500".parse().unwrap(),
    )
}

fn header(spis: (u64, u64), exchange: u8, message_id: u32) -> Header {
    Header {
        spi_i: spis.0.into(),
        spi_r: spis.1.into(),
        next_payload: 0,
        version: 0x10,
        exchange,
        flags: 0,
        message_id: message_id.into(),
        len: 0.into(),
    }
}

fn with_length(mut message: Vec<u8>) -> Vec<u8> {
    let len = message.len() as u32;
    message[24..28].copy_from_slice(&len.to_be_bytes());
    message
}

fn send(pair: &mut Pair, message: &[u8]) -> usize {
    let endpoint = &mut pair.sides[1].endpoint;
    endpoint.handle_datagram(pair.now, to_b(), message);
    let mut answers = 0;
    while let Some(transmit) = endpoint.poll_transmit() {
        let most = 3 * message.len().max(28);
        assert!(
            transmit.payload.len() <= most,
            "{} octets",
            transmit.payload.len()
        );
        answers += 1;
    }
    answers
}

/// I01, R2, A11, CVE-2013-6467, CVE-2016-5391: every recorded message, cut at each octet and with each bit
/// turned, at a peer that knows nothing and at one with an SA: no SA, no child, at most one answer, which is
/// at most three times as long.
#[test]
fn garbage_makes_no_sa_and_breaks_nothing() {
    for aggressive in [false, true] {
        let change = |_: bool, connection: &mut Connection, _: &mut EndpointConfig| {
            connection.ikev1.aggressive = aggressive;
            connection.ikev1.aggressive_psk = true;
        };
        let mut pair = Pair::new(change);
        pair.up();
        let recorded: Vec<Vec<u8>> = pair.recorded.iter().map(|(_, m)| m.clone()).collect();
        for message in recorded {
            let mut fresh = Pair::new(change);
            for len in 0..message.len() {
                for cut in [message[..len].to_vec(), message[..len].to_vec()] {
                    let cut = if len >= 28 { with_length(cut) } else { cut };
                    assert!(send(&mut fresh, &cut) <= 1);
                    assert!(send(&mut pair, &cut) <= 1);
                }
            }
            for bit in 0..message.len() * 8 {
                let mut bad = message.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(send(&mut fresh, &bad) <= 1);
                assert!(send(&mut pair, &bad) <= 1);
            }
            let stats = fresh.sides[1].endpoint.stats();
            assert_eq!((stats.children, stats.established), (0, 0));
            assert!(stats.half_open <= 16, "{}", stats.half_open);
        }
        assert_eq!(pair.sides[1].endpoint.stats().children, 1);
    }
}

/// A10, A11, CVE-2019-10155, CVE-2023-38712: a deletion or a notification that no HASH vouches for,
/// INITIAL-CONTACT among them, is nothing, in the clear or as if it were encrypted.
#[test]
fn what_is_not_authenticated_deletes_nothing() {
    let mut pair = Pair::plain();
    pair.up();
    let ike = pair.sides[1].endpoint.ike_sas().next().unwrap();
    let spis = (ike.spi_i, ike.spi_r);
    let cookies = [spis.0.to_be_bytes(), spis.1.to_be_bytes()].concat();
    let spi = pair.sides[1].outbound.keys().next().unwrap().to_be_bytes();
    let deletes = [(sa::PROTO_ISAKMP, &cookies[..]), (sa::PROTO_ESP, &spi[..])];
    let mut chains = Vec::new();
    for (protocol, spi) in deletes {
        let spis = vec![spi];
        let mut chain = Chain::default();
        chain.push(payload::DELETE, &notify::Delete { protocol, spis }.emit());
        chains.push(chain);
    }
    for kind in [
        notify::INITIAL_CONTACT,
        notify::AUTHENTICATION_FAILED,
        notify::R_U_THERE,
    ] {
        let mut chain = Chain::default();
        let told = notify::Notify {
            protocol: sa::PROTO_ISAKMP,
            spi: &cookies,
            kind,
            data: &[0; 4],
        };
        chain.push(payload::NOTIFY, &told.emit());
        chains.push(chain);
    }
    for (at, chain) in (1..).zip(chains) {
        let message = chain.into_message(header(spis, exchange::INFORMATIONAL, at));
        let mut encrypted = message.clone();
        encrypted[19] |= 1;
        encrypted.resize(28 + (message.len() - 28).next_multiple_of(16), 0);
        for message in [message, with_length(encrypted)] {
            assert_eq!(send(&mut pair, &message), 0);
        }
    }
    pair.run(Duration::from_secs(10));
    pair.agree(1);
    assert_eq!((pair.sas(0), pair.sas(1)), (1, 1));
}

/// A07, A11: an authentic informational message is taken once.
#[test]
fn a_replayed_message_is_answered_once() {
    let mut pair = Pair::plain();
    pair.up();
    let ike = pair.ike(0);
    pair.sides[0]
        .endpoint
        .check_liveness(pair.now, ike)
        .unwrap();
    pair.run(Duration::from_secs(1));
    let (_, asked) = pair.recorded[pair.recorded.len() - 2].clone();
    assert_eq!(send(&mut pair, &asked), 0);
    // So is a quick mode: nothing is installed twice.
    let (_, first) = pair
        .recorded
        .iter()
        .find(|(_, m)| m[18] == 32)
        .unwrap()
        .clone();
    assert_eq!(send(&mut pair, &first), 0);
    pair.run(Duration::from_secs(300));
    assert_eq!(send(&mut pair, &first), 0);
    pair.agree(1);
}

/// A01, A11: quick mode before phase 1 has ended makes no child; the peer's own is kept until then.
#[test]
fn an_early_quick_mode_is_queued_and_a_forged_one_is_nothing() {
    let mut pair = Pair::new(|_, connection, _| {
        connection.ikev1.aggressive = true;
        connection.ikev1.aggressive_psk = true;
    });
    pair.initiate(0, Some("net"));
    // Message 3 and message 1 of quick mode are under way, and arrive the other way round.
    for _ in 0..2 {
        pair.flush();
        pair.deliver(0);
    }
    pair.flush();
    assert_eq!(pair.wire.len(), 2);
    let ike = pair.sides[1].endpoint.ike_sas().next().unwrap();
    let (spis, before) = ((ike.spi_i, ike.spi_r), ike.state);
    assert_eq!(before, "CONNECTING");
    for id in 1..100u32 {
        let mut forged = Chain::default();
        forged.push(payload::HASH, &[0; 28]);
        let mut message = forged.into_message(header(spis, exchange::QUICK, id));
        message[19] |= 1;
        if id == 1 {
            // In the clear it is not even kept.
            message[19] = 0;
        }
        assert_eq!(send(&mut pair, &message), 0);
    }
    pair.deliver(1);
    pair.flush();
    assert_eq!(pair.sides[1].endpoint.stats().children, 0);
    pair.run(Duration::from_secs(60));
    pair.agree(1);
    assert_eq!(pair.sides[1].endpoint.stats().children, 1);
}

/// A05: aggressive mode with a preshared key is not answered unless asked for, and never with a hash to an
/// identity that is not known.
#[test]
fn no_stranger_gets_a_hash_to_guess_at() {
    for (allowed, known) in [(false, true), (true, false), (true, true)] {
        let mut pair = Pair::new(|a, connection, _| {
            connection.ikev1.aggressive = true;
            connection.ikev1.aggressive_psk = allowed;
            if a && !known {
                connection.local_id = Identity::parse("stranger.test");
            }
        });
        pair.initiate(0, None);
        pair.run(Duration::from_secs(600));
        let answered = pair
            .recorded
            .iter()
            .any(|(by, m)| *by == 1 && m[18] == exchange::AGGRESSIVE);
        assert_eq!(answered, allowed && known);
    }
}

/// A first message that offers one way to authenticate.
fn offering(method: u16, exchange: u8, parts: &[(u8, &[u8])]) -> Vec<u8> {
    let mut transform = Vec::new();
    for (kind, value) in [(1u16, 7u16), (14, 256), (2, 4), (4, 19), (3, method)] {
        transform.extend((0x8000 | kind).to_be_bytes());
        transform.extend(value.to_be_bytes());
    }
    let mut chain = Chain::default();
    let body = sa::emit(1, sa::PROTO_ISAKMP, &[], &[(1, sa::KEY_IKE, transform)]);
    chain.push(payload::SA, &body);
    for (kind, body) in parts {
        chain.push(*kind, body);
    }
    chain.into_message(header((7, 0), exchange, 0))
}

/// A06: the modes with RSA-encrypted nonces (CVE-2018-0131) are not there: proposals of them are refused.
#[test]
fn methods_with_encrypted_nonces_are_never_chosen() {
    for method in [4u16, 5, 2, 64221, 65001] {
        let message = offering(method, exchange::MAIN, &[]);
        let mut pair = Pair::plain();
        assert_eq!(send(&mut pair, &message), 1, "{method}");
        assert_eq!(pair.sas(1), 0);
    }
}

/// A06, Bleichenbacher's oracle: whatever an encrypted nonce or identity has in it, the same operations are
/// done, none of them with a private key, and the same answer comes, as to a method that nobody has. What
/// does not depend on the padding by a single call can't tell of it by time.
#[test]
fn a06_no_padding_of_an_encrypted_nonce_is_ever_looked_at() {
    let padded = |second: u8, zero_at: usize| {
        let mut block = vec![0x5a; 256];
        (block[0], block[1], block[zero_at]) = (0, second, 0);
        block
    };
    // Conforming, of another type, without an end, too short, garbage, of another length, none.
    let blocks = [
        padded(2, 200),
        padded(1, 200),
        padded(2, 1),
        padded(2, 5),
        vec![0xff; 256],
        vec![2; 255],
        vec![],
    ];
    let mut seen = Vec::new();
    for method in [4, 5, 77] {
        for mode in [exchange::MAIN, exchange::AGGRESSIVE] {
            for block in &blocks {
                let crypto = Open::new();
                let mut pair = Pair::with_open(crypto.clone(), |_, connection, _| {
                    connection.ikev1.aggressive = mode == exchange::AGGRESSIVE;
                    connection.ikev1.aggressive_psk = true;
                    connection.remote_id = Identity::Any;
                });
                crypto.calls();
                let parts = [
                    (payload::KE, &[4; 64][..]),
                    (payload::ID, b"\x02\0\0\0a.test"),
                    (payload::NONCE, block),
                    (payload::HASH, &[1; 32]),
                ];
                let message = offering(method, mode, &parts);
                let endpoint = &mut pair.sides[1].endpoint;
                endpoint.handle_datagram(pair.now, to_b(), &message);
                let calls = crypto.calls();
                assert!(endpoint.poll_event().is_none(), "no job is done for it");
                let answer = endpoint.poll_transmit().unwrap().payload;
                assert!(endpoint.poll_transmit().is_none());
                assert_eq!(endpoint.stats().half_open, 0);
                // All but the message id, which is random.
                let told = [&answer[..20], &answer[24..]].concat();
                seen.push((calls, told));
            }
        }
    }
    assert!(!seen[0].0.is_empty());
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
}

/// A05: a key is all of its octets. One that is cut at a NUL, or anywhere, or longer, or none, is another one; in
/// either mode both ends notice, and there is no SA. (HMAC fills a key up with zeros, RFC 2104 §2, so that
/// those alone at its end say nothing.)
#[test]
fn a05_a_preshared_key_is_all_of_its_octets() {
    for aggressive in [false, true] {
        for (ours, theirs) in [
            ("correct\0horse", "correct"),
            ("correct\0horse", "correct\0house"),
            ("correct horse", "correct hors"),
            ("correct horse", "correct horse "),
            ("correct horse", "\0correct horse"),
            ("correct horse", ""),
            ("correct horse", "\0"),
        ] {
            for side in [0, 1] {
                let mut pair = Pair::new(|_, connection, _| {
                    connection.ikev1.aggressive = aggressive;
                    connection.ikev1.aggressive_psk = true;
                });
                for (of, text) in [(side, ours), (1 - side, theirs)] {
                    pair.sides[of].endpoint.set_secrets(vec![secret(text)]);
                }
                pair.initiate(0, Some("net"));
                pair.run(Duration::from_secs(600));
                pair.agree(0);
                assert_eq!((pair.sas(0), pair.sas(1)), (0, 0), "{ours:?} {theirs:?}");
            }
        }
    }
    let mut pair = Pair::plain();
    for side in &mut pair.sides {
        side.endpoint.set_secrets(vec![secret("correct\0horse")]);
    }
    pair.up();
}

/// I04, CVE-2015-3240: public values that are none, at the responder and at the initiator.
#[test]
fn public_values_out_of_range_are_refused() {
    for (at, public) in [
        vec![0; 64],
        vec![0xff; 64],
        vec![],
        vec![1; 63],
        vec![2; 65],
    ]
    .into_iter()
    .enumerate()
    {
        let mut pair = Pair::plain();
        pair.initiate(0, Some("net"));
        for _ in 0..2 {
            pair.flush();
            pair.deliver(0);
        }
        let ike = pair.sides[1].endpoint.ike_sas().next().unwrap();
        let mut chain = Chain::default();
        chain.push(payload::KE, &public);
        chain.push(payload::NONCE, &[7; 32]);
        let message = chain.into_message(header((ike.spi_i, ike.spi_r), exchange::MAIN, 0));
        send(&mut pair, &message);
        let stats = pair.sides[1].endpoint.stats();
        assert_eq!(stats.established, 0, "{at}");
    }
}

/// R7: first messages from nowhere are bounded, by address and in all.
#[test]
fn half_open_sas_are_bounded() {
    let mut pair = Pair::new(|_, _, config| config.half_open_limit = 20);
    pair.initiate(0, None);
    pair.flush();
    let (_, first) = pair.recorded[0].clone();
    for number in 0..1000u32 {
        let mut message = first.clone();
        message[..4].copy_from_slice(&(number + 1).to_be_bytes());
        let mut path = to_b();
        let host = [192, 0, 2, (number % 200) as u8];
        path.remote.set_ip(host.into());
        pair.sides[1]
            .endpoint
            .handle_datagram(pair.now, path, &message);
    }
    assert!(pair.sides[1].endpoint.stats().half_open <= 20);
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.sides[1].endpoint.stats().half_open, 0);
}

/// A05: the wrong key is noticed by both, and nothing is told of it.
#[test]
fn aggressive_mode_with_another_key_makes_no_sa() {
    let mut pair = Pair::new(|_, connection, _| {
        connection.ikev1.aggressive = true;
        connection.ikev1.aggressive_psk = true;
    });
    pair.sides[1]
        .endpoint
        .set_secrets(vec![secret("another one")]);
    pair.initiate(0, Some("net"));
    pair.run(Duration::from_secs(600));
    pair.agree(0);
    assert_eq!((pair.sas(0), pair.sas(1)), (0, 0));
    assert!(pair.sides[0].endpoint.stats().auth_failures > 0);
}
