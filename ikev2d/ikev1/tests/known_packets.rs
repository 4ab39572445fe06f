// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that have brought other implementations down, each by its CVE. Those of RSA and ECDSA signatures
//! are in `ikev2d-crypto`'s `signature`, those of fragments in `fragments`.
#![allow(clippy::unwrap_used)]

mod peers;

use std::time::Duration;

use ikev1_proto::wire::{Chain, attribute, exchange, notify, payload, sa};
use ikev2d_proto::config::*;
use ikev2d_proto::event::*;

use peers::Pair;
use peers::open::{encrypted, header};

fn path() -> Path {
    Path::new(
        "192.0.2.2:500".parse().unwrap(),
        "192.0.2.1:500".parse().unwrap(),
    )
}

fn aggressive(_: bool, connection: &mut Connection, _: &mut EndpointConfig) {
    connection.ikev1.aggressive = true;
    connection.ikev1.aggressive_psk = true;
}

/// An SA payload of phase 1 with one transform.
fn offer(attributes: &[(u16, u16)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, value) in attributes {
        attribute::push(&mut out, *kind, u32::from(*value));
    }
    sa::emit(1, sa::PROTO_ISAKMP, &[], &[(1, sa::KEY_IKE, out)])
}

/// What [`peers::connection`] accepts: AES-256, SHA-256, P-256, a preshared key.
const GOOD: [(u16, u16); 5] = [(1, 7), (14, 256), (2, 4), (4, 19), (3, 1)];

fn first(exchange: u8, sa: &[u8], cookie: u64) -> Vec<u8> {
    let mut chain = Chain::default();
    chain.push(payload::SA, sa);
    if exchange == exchange::AGGRESSIVE {
        chain.push(payload::KE, &[4; 64]);
        chain.push(payload::NONCE, &[9; 32]);
        chain.push(payload::ID, b"\x02\0\0\0a.test");
    }
    chain.into_message(header((cookie, 0), exchange, 0))
}

fn told(kind: u16, spi: &[u8], data: &[u8]) -> Vec<u8> {
    let protocol = sa::PROTO_ISAKMP;
    let told = notify::Notify {
        protocol,
        spi,
        kind,
        data,
    };
    told.emit()
}

/// The tunnel that was there before is there still, and works.
fn still_works(pair: &mut Pair) {
    pair.run(Duration::from_secs(1));
    let old = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, old).unwrap();
    pair.run(Duration::from_secs(30));
    assert_eq!((pair.sas(0), pair.sas(1)), (1, 1));
    pair.agree(1);
}

/// CVE-2023-30570: a refused first message of aggressive mode is answered with no cookie of ours and leaves no
/// state, so that what comes next with the cookies of the answer, either way round, meets none.
#[test]
fn cve_2023_30570_a_refused_aggressive_mode_leaves_no_state() {
    let mut pair = Pair::new(aggressive);
    let refused = offer(&[(1, 1), (2, 1), (4, 1), (3, 1)]);
    let message = first(exchange::AGGRESSIVE, &refused, 7);
    assert_eq!(pair.receive(path(), &message), 1);
    let (_, answer) = pair.recorded.last().unwrap().clone();
    assert_eq!(answer[18], exchange::INFORMATIONAL);
    assert_eq!(answer[8..16], [0; 8], "no cookie of ours");
    pair.wire.clear();
    for cookies in [(7, 0), (0, 7), (7, 7), (7, 8)] {
        for kind in [exchange::AGGRESSIVE, exchange::MAIN, exchange::QUICK, 5, 6] {
            let mut chain = Chain::default();
            chain.push(payload::SA, &refused);
            let message = chain.into_message(header(cookies, kind, 0));
            for message in [message.clone(), encrypted(message)] {
                assert!(pair.receive(path(), &message) <= 1);
                assert_eq!(pair.sas(1), 0);
            }
        }
    }
    pair.wire.clear();
    pair.up();
}

/// I01, CVE-2020-1763: informational exchanges of every shape at who has no such SA, one that is half open, and one
/// that stands: no answer, and nothing changes.
#[test]
fn cve_2020_1763_bogus_informational_exchanges_are_nothing() {
    let mut half_open = Pair::plain();
    half_open.initiate(0, None);
    half_open.flush();
    half_open.deliver(0);
    half_open.flush();
    let mut up = Pair::plain();
    up.up();
    for mut pair in [Pair::plain(), half_open, up] {
        let before = pair.sides[1].endpoint.stats();
        let known = pair.sides[1].endpoint.ike_sas().next();
        let known = known.map_or((5, 6), |sa| (sa.spi_i, sa.spi_r));
        for cookies in [known, (known.0, 0), (known.0, 99), (99, known.1), (99, 0)] {
            for kind in 0..=255u8 {
                let mut chain = Chain::default();
                chain.push(kind.max(1), &told(kind.into(), &[kind; 16], &[0; 4]));
                let message = chain.into_message(header(cookies, exchange::INFORMATIONAL, 1));
                for message in [message.clone(), encrypted(message)] {
                    assert_eq!(pair.receive(path(), &message), 0, "{kind}");
                }
            }
        }
        let after = pair.sides[1].endpoint.stats();
        let counts = |s: ikev2d_proto::endpoint::Stats| (s.half_open, s.established, s.children);
        assert_eq!(counts(after), counts(before));
    }
}

/// CVE-2009-0790: R_U_THERE and R_U_THERE_ACK for an SA that isn't there, from strangers; and authentic ones
/// that name another SA, or answer what nobody asked.
#[test]
fn cve_2009_0790_dead_peer_detection_for_no_sa_is_nothing() {
    let mut pair = Pair::open(|_, _, _| {});
    let kinds = [notify::R_U_THERE, notify::R_U_THERE_ACK];
    for kind in kinds {
        let mut chain = Chain::default();
        chain.push(payload::NOTIFY, &told(kind, &[1; 16], &[0, 0, 0, 1]));
        let message = chain.into_message(header((1, 2), exchange::INFORMATIONAL, 9));
        for message in [message.clone(), encrypted(message)] {
            assert_eq!(pair.receive(path(), &message), 0);
        }
    }
    pair.up();
    let mut id = 100;
    for kind in kinds {
        for spi in [&[][..], &[0; 4], &[1; 16], &[1; 255]] {
            for data in [&[][..], &[0], &[0, 0, 0, 1], &[0xff; 64]] {
                id += 1;
                let body = told(kind, spi, data);
                let answers = pair.say(exchange::INFORMATIONAL, id, &[(payload::NOTIFY, &body)]);
                // Without an SPI it can only mean this SA.
                let asked = kind == notify::R_U_THERE && spi.is_empty();
                assert_eq!(answers, usize::from(asked), "{kind} {spi:?}");
            }
        }
    }
    still_works(&mut pair);
}

/// CVE-2016-5361, A11: who has sent one message from an address that may be forged hears one answer, of at most
/// three times its length, and no more however long it is silent.
#[test]
fn cve_2016_5361_no_answer_is_repeated_to_who_is_silent() {
    for change in [
        |_: bool, _: &mut Connection, _: &mut EndpointConfig| {},
        aggressive,
    ] {
        let mut pair = Pair::new(change);
        pair.initiate(0, Some("net"));
        pair.flush();
        let (_, first) = pair.recorded[0].clone();
        // The first side says nothing more: the address was forged.
        let mut victim = Pair::new(change);
        assert_eq!(victim.receive(path(), &first), 1);
        victim.wire.clear();
        for _ in 0..120 {
            victim.now += Duration::from_secs(1);
            victim.sides[1].endpoint.handle_timeout(victim.now);
            victim.flush();
        }
        let said: Vec<_> = victim.recorded.iter().filter(|(by, _)| *by == 1).collect();
        assert_eq!(said.len(), 1);
        assert!(said[0].1.len() <= 3 * first.len());
        assert_eq!(victim.sas(1), 0, "and nothing is kept of it");
    }
}

/// A11: the same bound does not cost aggressive mode its robustness: a lost last message is repeated by who has
/// begun, until it is heard.
#[test]
fn a_lost_last_message_of_aggressive_mode_is_repeated() {
    let mut pair = Pair::new(aggressive);
    pair.initiate(0, Some("net"));
    pair.flush();
    pair.deliver(0);
    pair.flush();
    pair.deliver(0);
    pair.flush();
    assert_eq!(pair.wire.len(), 2, "message 3, and message 1 of quick mode");
    pair.wire.clear();
    pair.run(Duration::from_secs(30));
    pair.agree(1);
    let before = pair.recorded.len();
    pair.run(Duration::from_secs(300));
    assert_eq!(pair.recorded.len(), before, "and no more once it is heard");
}

/// I02, CVE-2015-3991: payloads of every type, of this version's and of the other's, in every exchange, before and
/// behind authentication.
#[test]
fn cve_2015_3991_payloads_of_no_or_another_version_are_nothing() {
    let mut pair = Pair::open(|_, _, _| {});
    for kind in 1..=255u8 {
        for exchange in [exchange::MAIN, exchange::AGGRESSIVE] {
            let mut chain = Chain::default();
            chain.push(kind, &[0; 24]);
            chain.push(payload::SA, &offer(&GOOD));
            let cookies = (u64::from(kind) << 8 | u64::from(exchange), 0);
            let message = chain.into_message(header(cookies, exchange, 0));
            assert!(pair.receive(path(), &message) <= 1);
        }
    }
    assert_eq!(pair.sides[1].endpoint.stats().established, 0);
    let mut pair = Pair::open(|_, _, _| {});
    pair.up();
    let mut id = 1;
    for kind in 1..=255u8 {
        for exchange in [
            exchange::QUICK,
            exchange::INFORMATIONAL,
            exchange::TRANSACTION,
        ] {
            for body in [&[][..], &[0; 24], &[0xff; 24]] {
                id += 1;
                assert!(pair.say(exchange, id, &[(kind, body)]) <= 1, "{kind}");
            }
        }
    }
    pair.run(Duration::from_secs(300));
    still_works(&mut pair);
}

/// CVE-2013-6466, CVE-2013-6467: each payload of quick mode's first message left out, and each alone.
#[test]
fn cve_2013_6467_messages_without_what_they_must_have_are_refused() {
    let mut pair = Pair::open(|_, _, _| {});
    pair.up();
    // Message 1 as the first side says it, told from the wire, which encrypts nothing here.
    let (_, quick) = pair
        .recorded
        .iter()
        .find(|(_, m)| m[18] == exchange::QUICK)
        .unwrap();
    let quick = ikev1_proto::wire::Payloads::parse(quick[16], &quick[28..], true).unwrap();
    let parts: Vec<(u8, Vec<u8>)> = quick
        .all
        .iter()
        .skip(1)
        .map(|p| (p.kind, p.body.to_vec()))
        .collect();
    assert_eq!(parts.len(), 4);
    let mut id = 1;
    for left_out in 0..parts.len() {
        for alone in [false, true] {
            let some = parts
                .iter()
                .enumerate()
                .filter(|(at, _)| (*at == left_out) == alone);
            let some: Vec<(u8, &[u8])> = some.map(|(_, (kind, body))| (*kind, &body[..])).collect();
            id += 1;
            assert_eq!(pair.say(exchange::QUICK, id, &some), 1, "one refusal");
            let (_, answer) = pair.recorded.last().unwrap();
            assert_eq!(answer[18], exchange::INFORMATIONAL);
        }
    }
    assert_eq!(pair.sides[1].endpoint.stats().children, 1);
    pair.run(Duration::from_secs(300));
    still_works(&mut pair);
}

/// CVE-2005-3671 (PROTOS c09): key lengths that the cipher has not, absent and doubled attributes, long
/// numbers, in both modes.
#[test]
fn cve_2005_3671_odd_attributes_of_phase_1_are_refused() {
    for mode in [exchange::MAIN, exchange::AGGRESSIVE] {
        let mut pair = Pair::new(|_, connection, _| {
            connection.ikev1.aggressive = mode == exchange::AGGRESSIVE;
            connection.ikev1.aggressive_psk = true;
            let all = ["aes256-sha256-ecp256", "3des-sha256-ecp256"];
            let all = all
                .iter()
                .map(|text| ikev2d_proto::proposal::Proposal::parse_ike(text));
            connection.proposals = all.collect::<Result<_, _>>().unwrap();
        });
        let mut cookie = 1;
        for (cipher, fits) in [
            (7, Some(256)),
            (5, None),
            (1, None),
            (0, None),
            (0xffff, None),
        ] {
            for length in [
                None,
                Some(0),
                Some(1),
                Some(64),
                Some(192),
                Some(255),
                Some(256),
                Some(0xffff),
            ] {
                let mut all = vec![(1, cipher), (2, 4), (4, 19), (3, 1)];
                all.extend(length.map(|length| (14, length)));
                cookie += 1;
                let good = matches!(cipher, 7 | 5) && length == fits;
                let message = first(mode, &offer(&all), cookie);
                let before = pair.sas(1);
                assert!(pair.receive(path(), &message) <= 1);
                let made = pair.sas(1) - before;
                assert!(made == 0 || good, "{cipher} {length:?}");
                pair.wire.clear();
                pair.run(Duration::from_secs(60));
            }
        }
        // Each attribute twice, or not at all.
        for (at, (kind, _)) in GOOD.into_iter().enumerate() {
            let (mut twice, mut without) = (GOOD.to_vec(), GOOD.to_vec());
            twice.push((kind, 0xfffe));
            without.remove(at);
            for all in [twice, without] {
                cookie += 1;
                let message = first(mode, &offer(&all), cookie);
                assert!(pair.receive(path(), &message) <= 1);
                assert_eq!(pair.sas(1), 0, "{all:?}");
            }
        }
    }
}

/// Lifetimes past all that a clock can be set to, which end the process of who adds them to its time.
#[test]
fn endless_lifetimes_of_phase_1_are_cut() {
    for mode in [exchange::MAIN, exchange::AGGRESSIVE] {
        let mut pair = Pair::new(|_, connection, _| {
            connection.ikev1.aggressive = mode == exchange::AGGRESSIVE;
            connection.ikev1.aggressive_psk = true;
        });
        for (cookie, len) in (1..).zip([8, 7, 6, 5, 4]) {
            let mut attributes = Vec::new();
            for (kind, value) in GOOD {
                attribute::push(&mut attributes, kind, u32::from(value));
            }
            attribute::push(&mut attributes, 11, 1);
            attribute::push_octets(&mut attributes, 12, &[0xff; 8][..len]);
            let offer = sa::emit(1, sa::PROTO_ISAKMP, &[], &[(1, sa::KEY_IKE, attributes)]);
            assert!(pair.receive(path(), &first(mode, &offer, cookie)) <= 1);
            assert!(pair.sas(1) <= 1);
            pair.wire.clear();
            pair.run(Duration::from_secs(60));
        }
        pair.up();
    }
}

/// CVE-2015-4047: attributes of GSS-API and other private numbers in a proposal.
#[test]
fn cve_2015_4047_private_attributes_are_nothing() {
    let mut pair = Pair::plain();
    for (cookie, kind) in (1..).zip([16384, 16385, 0x3fff, 0x7fff]) {
        let mut all = GOOD.to_vec();
        all.push((kind, 1));
        all.push((3, 65535));
        let message = first(exchange::MAIN, &offer(&all), cookie);
        assert_eq!(pair.receive(path(), &message), 1);
        assert_eq!(pair.sas(1), 0);
    }
}

/// I07, CVE-2010-2628: identities as long as they can be, with signs that format a log, in the clear and as proxy
/// ids.
#[test]
fn cve_2010_2628_long_identities_fill_no_buffer() {
    let long = [
        &[2, 0, 0, 0][..],
        &b"%n%s\0\n\x1b[2J".repeat(6000)[..60_000],
    ]
    .concat();
    let mut pair = Pair::new(aggressive);
    let mut chain = Chain::default();
    chain.push(payload::SA, &offer(&GOOD));
    chain.push(payload::KE, &[4; 64]);
    chain.push(payload::NONCE, &[9; 32]);
    chain.push(payload::ID, &long);
    let message = chain.into_message(header((9, 0), exchange::AGGRESSIVE, 0));
    assert!(pair.receive(path(), &message) <= 1);
    assert_eq!(pair.sas(1), 0);
    let mut pair = Pair::open(|_, _, _| {});
    pair.up();
    let proxy = (payload::ID, &long[..]);
    assert_eq!(pair.say(exchange::QUICK, 5, &[proxy, proxy]), 1);
    still_works(&mut pair);
}

/// CVE-2016-6415: a refusal has nothing in it that the peer has not said or that is not of the refusal itself,
/// whatever lengths the proposal claims.
#[test]
fn cve_2016_6415_refusals_tell_nothing_of_our_memory() {
    let mut pair = Pair::plain();
    let good = first(exchange::MAIN, &offer(&GOOD), 3);
    for at in 28..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut message = good.clone();
            message[at] = value;
            pair.receive(path(), &message);
            let (_, answer) = pair.recorded.last().cloned().unwrap_or_default();
            if answer.get(18) == Some(&exchange::INFORMATIONAL) {
                // Header, one notification without data.
                assert_eq!(answer.len(), 28 + 4 + 8);
            }
            pair.recorded.clear();
            pair.wire.clear();
            pair.run(Duration::from_secs(60));
        }
    }
}

/// CVE-2019-12312, CVE-2023-23009, CVE-2023-38711: a quick mode whose proxy ids are of the wrong size, of
/// mixed kinds, or one alone; and one that comes again behind its deletion.
#[test]
fn cve_2023_38711_proxy_ids_of_the_wrong_size_are_refused() {
    let mut pair = Pair::open(|_, _, _| {});
    pair.up();
    let mut id = 1;
    for kind in 0..=13u8 {
        for len in [0usize, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33] {
            let body = [&[kind, 0, 0, 0][..], &vec![10; len]].concat();
            for both in [false, true] {
                let ids = [(payload::ID, &body[..]), (payload::ID, &body[..])];
                let ids = if both { &ids[..] } else { &ids[..1] };
                id += 1;
                assert!(pair.say(exchange::QUICK, id, ids) <= 1);
                assert_eq!(pair.sides[1].endpoint.stats().children, 1, "{kind} {len}");
            }
        }
    }
    pair.run(Duration::from_secs(300));
    still_works(&mut pair);
}
