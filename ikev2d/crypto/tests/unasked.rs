// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Answers that nobody asked for, or that ask for the same without end; keys that are nearly right; and what a
//! peer says for those who read the log.
#![allow(clippy::unwrap_used)]

mod peers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use ikev2d_proto::config::{Connection, EndpointConfig, Secret, Unique};
use ikev2d_proto::event::{Event, Path};
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::wire::{
    Chain, FLAG_RESPONSE, HEADER_LEN, Header, exchange, notify, payload, payloads,
};
use tracing_subscriber::filter::LevelFilter;
use zeroize::Zeroizing;

use peers::Pair;
use peers::strangers::{forged, logged};

/// From the second side to the first.
fn to_first() -> Path {
    Path::new(
        "192.0.2.1:500".parse().unwrap(),
        "192.0.2.2:500".parse().unwrap(),
    )
}

/// A first message's group.
fn group(first: &[u8]) -> u16 {
    let header = Header::parse(first).unwrap();
    let parts = payloads(header.next_payload, &first[HEADER_LEN..]).unwrap();
    let ke = parts.iter().find(|part| part.kind == payload::KE).unwrap();
    u16::from_be_bytes([ke.body[0], ke.body[1]])
}

/// Two peers who both take either group, the better first.
fn of_two_groups() -> Pair {
    Pair::seeded(31, |_, connection, _| {
        let text = "aes128gcm16-prfsha256-x25519-ecp256";
        connection.proposals = vec![Proposal::parse_ike(text).unwrap()];
    })
}

/// Answers each first message by a notification; the messages that came of it.
fn answered(pair: &mut Pair, mut with: impl FnMut(u32, &[u8]) -> Option<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut firsts = Vec::new();
    pair.initiate();
    for round in 0..20 {
        pair.flush();
        let Some((_, 1, _, first)) = pair.wire.pop_front() else {
            break;
        };
        assert!(pair.wire.is_empty());
        let answer = with(round, &first);
        firsts.push(first);
        let Some(answer) = answer else {
            break;
        };
        let now = pair.now;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint.handle_datagram(now, to_first(), &answer);
    }
    firsts
}

/// A10: who answers each message with another cookie gets five out of us, and then hears no more than he
/// would without; the responder itself is heard yet.
#[test]
fn cookies_without_end_are_sent_back_four_times() {
    let mut pair = of_two_groups();
    let firsts = answered(&mut pair, |round, first| {
        Some(forged(first, notify::COOKIE, &[round as u8; 64]))
    });
    assert_eq!(firsts.len(), 5);
    // Each with the cookie in front, and the same key and nonce (RFC 7296 §2.6).
    let bare = &firsts[0][HEADER_LEN..];
    for (round, first) in (0..).zip(&firsts[1..]) {
        let cookie = &first[HEADER_LEN + 8..HEADER_LEN + 72];
        assert_eq!(cookie, [round; 64]);
        assert_eq!(&first[HEADER_LEN + 72..], bare);
    }
    pair.run(Duration::from_secs(10));
    pair.agree(1);
}

/// A10: INVALID_KE_PAYLOAD back and forth between two groups that both are ours ends as soon, and the
/// responder is heard yet.
#[test]
fn groups_back_and_forth_are_taken_four_times() {
    let mut pair = of_two_groups();
    let firsts = answered(&mut pair, |_, first| {
        let other: u16 = if group(first) == 31 { 19 } else { 31 };
        let wanted = other.to_be_bytes();
        Some(forged(first, notify::INVALID_KE_PAYLOAD, &wanted))
    });
    let groups: Vec<u16> = firsts.iter().map(|first| group(first)).collect();
    assert_eq!(groups, [31, 19, 31, 19, 31]);
    pair.run(Duration::from_secs(10));
    pair.agree(1);
}

/// A10, I04: nobody talks us into a group that we have not offered, that there is not, or that we try already.
#[test]
fn a_forged_invalid_ke_names_no_group_but_ours() {
    let others = [0u16, 1, 2, 5, 14, 22, 24, 32, 1025, 0xffff, 31];
    let mut data: Vec<Vec<u8>> = others.iter().map(|g| g.to_be_bytes().to_vec()).collect();
    // Group 19 is ours, in what can't be read.
    data.extend([
        vec![],
        vec![19],
        vec![0, 19, 0],
        vec![0, 0, 0, 19],
        vec![19, 0],
    ]);
    for data in data {
        let mut pair = of_two_groups();
        let firsts = answered(&mut pair, |_, first| {
            Some(forged(first, notify::INVALID_KE_PAYLOAD, &data))
        });
        assert_eq!(firsts.len(), 1, "{data:?}");
        pair.run(Duration::from_secs(10));
        pair.agree(1);
        let suite = pair.sides[0].endpoint.ike_sas().next().unwrap().suite;
        assert_eq!(suite.unwrap().group as u16, 31, "{data:?}");
    }
}

/// A10, B2: a forged INVALID_KE_PAYLOAD that names the lesser of two groups is undone by the responder, who
/// holds to the better one that both have (RFC 7296 §1.2, §2.7).
#[test]
fn a_forged_invalid_ke_lowers_no_group() {
    let mut pair = of_two_groups();
    let mut forge = 0;
    answered(&mut pair, |_, first| {
        forge += 1;
        let forged = || forged(first, notify::INVALID_KE_PAYLOAD, &19u16.to_be_bytes());
        (forge == 1).then(forged)
    });
    pair.run(Duration::from_secs(10));
    pair.agree(1);
    let suite = pair.sides[0].endpoint.ike_sas().next().unwrap().suite;
    assert_eq!(suite.unwrap().group as u16, 31);
}

/// I04: a first message with a group that there is not, or that is not ours, is answered by ours, and one with a
/// value that is none by nothing that lasts.
#[test]
fn first_messages_with_values_that_are_none_leave_nothing() {
    let values: [(u16, usize); 12] = [
        (1025, 128),
        (0, 32),
        (0xffff, 32),
        (1, 96),
        (14, 256),
        (31, 0),
        (31, 31),
        (31, 33),
        (31, 1000),
        // All zeros, whose secret is zero.
        (31, 32),
        (19, 64),
        (19, 65),
    ];
    for (group, len) in values {
        let mut pair = of_two_groups();
        pair.initiate();
        pair.flush();
        let (_, _, path, first) = pair.wire.pop_front().unwrap();
        let header = Header::parse(&first).unwrap();
        let mut chain = Chain::default();
        for part in payloads(header.next_payload, &first[HEADER_LEN..]).unwrap() {
            if part.kind == payload::KE {
                let head = [group.to_be_bytes(), [0; 2]].concat();
                chain.push(payload::KE, &[head, vec![0; len]].concat());
            } else {
                chain.push(part.kind, part.body);
            }
        }
        let (now, told) = (pair.now, format!("group {group}, {len} octets"));
        let responder = &mut pair.sides[1].endpoint;
        responder.handle_datagram(now, path, &chain.into_message(header));
        pair.flush();
        let stats = pair.sides[1].endpoint.stats();
        assert_eq!((stats.half_open, stats.established), (0, 0), "{told}");
        assert!(pair.wire.len() <= 1, "{told}");
        if let Some((_, 0, _, answer)) = pair.wire.pop_front() {
            let header = Header::parse(&answer).unwrap();
            assert_eq!(header.next_payload, payload::NOTIFY, "{told}");
            let parts = payloads(header.next_payload, &answer[HEADER_LEN..]).unwrap();
            let error = notify::Notify::parse(parts[0].body).unwrap();
            if ![19, 31].contains(&group) {
                let ours = (notify::INVALID_KE_PAYLOAD, &[0, 31][..]);
                assert_eq!((error.kind, error.data), ours, "{told}");
            }
        }
    }
}

/// A07: answers to what was not asked, of whatever number, and requests of numbers that are not due, 2^32-1
/// before 0 among them: nothing is done and nothing answered.
#[test]
fn messages_that_are_not_due_are_passed_over() {
    for response in [false, true] {
        for id in [0u32, 1, 2, 3, 7, 0x7fff_ffff, u32::MAX - 1, u32::MAX] {
            if !response && id == 0 {
                // The one that is due.
                continue;
            }
            let mut pair = Pair::seeded(32, |_, _, _| {});
            pair.up();
            pair.sides[1].endpoint.deviate(Box::new(move |message| {
                message.header.message_id = id.into();
                if response {
                    message.header.flags |= FLAG_RESPONSE;
                }
            }));
            let (now, ike, child) = (pair.now, pair.ike(1), pair.child(1));
            let before = pair.sides[0].events.len();
            // Whatever of this was done would show.
            let endpoint = &mut pair.sides[1].endpoint;
            endpoint.rekey_child(now, child).unwrap();
            pair.flush();
            pair.deliver(0);
            pair.flush();
            assert!(pair.wire.is_empty(), "{response} {id}");
            assert_eq!(pair.sides[0].events.len(), before, "{response} {id}");
            pair.agree(1);
            // What is asked meanwhile is answered, and by nothing else.
            pair.sides[1].endpoint.deviate(Box::new(|_| {}));
            let (now, own) = (pair.now, pair.ike(0));
            pair.sides[0].endpoint.check_liveness(now, own).unwrap();
            pair.run(Duration::from_secs(1));
            assert_eq!(pair.ike(1), ike);
        }
    }
}

/// A07: a request that comes again gets the answer that it got, octet by octet, and is not done again.
#[test]
fn a_repeated_request_gets_the_same_answer() {
    let mut pair = Pair::seeded(32, |_, _, _| {});
    pair.up();
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("pfs"), None).unwrap();
    pair.flush();
    let request = pair.wire[0].clone();
    let mut answers = Vec::new();
    for _ in 0..5 {
        pair.wire.push_front(request.clone());
        pair.deliver(0);
        pair.flush();
        let answer = pair.wire.pop_back().unwrap();
        assert_eq!(answer.1, 0);
        answers.push(answer);
    }
    assert!(answers.iter().all(|answer| answer.3 == answers[0].3));
    pair.wire.push_back(answers.remove(0));
    pair.run(Duration::from_secs(10));
    pair.agree(2);
    assert_eq!(pair.sides[1].endpoint.stats().children, 2);
}

/// A07: answers that come from elsewhere are the peer's, since they are authentic, or about to be; but where no
/// NAT is, nothing goes there (RFC 7296 §2.11, §2.23).
#[test]
fn an_answer_from_elsewhere_leads_nowhere() {
    let elsewhere: SocketAddr = "203.0.113.66:500".parse().unwrap();
    let mut pair = Pair::seeded(32, |_, _, _| {});
    pair.initiate();
    let path = |pair: &Pair| {
        let sa = pair.sides[0].endpoint.ike_sas().next().unwrap();
        sa.path.remote
    };
    for _ in 0..2 {
        pair.flush();
        pair.deliver(0);
        pair.flush();
        let (_, to, mut from, answer) = pair.wire.pop_front().unwrap();
        assert_eq!(to, 0);
        from.remote = elsewhere;
        let now = pair.now;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint.handle_datagram(now, from, &answer);
        pair.flush();
        assert_eq!(
            path(&pair).ip(),
            pair.sides[1].address.parse::<std::net::IpAddr>().unwrap()
        );
        let mut wire = pair.wire.iter();
        assert!(wire.all(|(_, _, path, _)| path.local != elsewhere));
    }
    pair.run(Duration::from_secs(10));
    pair.agree(1);
    let sa = pair.sides[0].offered.values().next().unwrap();
    assert_ne!(sa.path.remote, elsewhere);
}

/// A10: who does not prove to be the peer ends nothing of the peer's, whatever of INITIAL_CONTACT it says, in which
/// message, and however many IKE SAs a peer may have.
#[test]
fn a_first_contact_without_proof_ends_nothing() {
    for unique in [Unique::No, Unique::Never, Unique::Replace, Unique::Keep] {
        let change = |_: bool, connection: &mut Connection, _: &mut EndpointConfig| {
            connection.unique = unique;
        };
        let mut pair = Pair::seeded(36, change);
        pair.up();
        let there = pair.ike(1);
        let mut mallory = Pair::seeded(37, change);
        let other = &mut mallory.sides[0].endpoint;
        other.set_secrets(vec![secret(b"another one")]);
        other.deviate(Box::new(|message| {
            let contact = notify::emit(0, &[], notify::INITIAL_CONTACT, &[]);
            message.payloads.push((payload::NOTIFY, contact));
        }));
        mallory.initiate();
        for _ in 0..4 {
            mallory.flush();
            for (_, side, path, message) in std::mem::take(&mut mallory.wire) {
                assert_eq!(side, 1);
                let now = pair.now;
                let endpoint = &mut pair.sides[1].endpoint;
                endpoint.handle_datagram(now, path, &message);
            }
            pair.flush();
            for (_, side, path, message) in std::mem::take(&mut pair.wire) {
                assert_eq!(side, 0);
                let now = mallory.now;
                let endpoint = &mut mallory.sides[0].endpoint;
                endpoint.handle_datagram(now, path, &message);
            }
        }
        assert_eq!(pair.sides[1].endpoint.stats().auth_failures, 1);
        let gone = |e: &Event| match e {
            Event::IkeDown { ike, .. } => *ike == there,
            Event::ChildDown { .. } => true,
            _ => false,
        };
        assert_eq!(pair.count(1, gone), 0);
        assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 1);
        pair.agree(1);
    }
}

fn secret(key: &[u8]) -> Secret {
    Secret {
        ids: vec![],
        secret: Zeroizing::new(key.to_vec()),
    }
}

/// A05: a preshared key is all of its octets, and no more. (HMAC fills a key up with zeros, RFC 2104 §2, so
/// that those alone at its end say nothing.)
#[test]
fn a_preshared_key_is_all_of_its_octets() {
    const KEY: &[u8] = b"correct horse";
    let others: [&[u8]; 7] = [
        b"",
        b"\0",
        b"correct hors",
        b"correct horse\0battery",
        b"\0correct horse",
        b"Correct horse",
        b"correct horse ",
    ];
    for (key, fits) in others
        .map(|key| (key, false))
        .into_iter()
        .chain([(KEY, true)])
    {
        for side in [0, 1] {
            let mut pair = Pair::seeded(33, |_, _, _| {});
            pair.sides[side].endpoint.set_secrets(vec![secret(key)]);
            pair.initiate();
            pair.run(Duration::from_secs(60));
            pair.agree(usize::from(fits));
            let sas = pair
                .sides
                .iter()
                .map(|side| side.endpoint.ike_sas().count());
            assert_eq!(sas.sum::<usize>(), if fits { 2 } else { 0 }, "{key:?}");
            let failures = pair.sides[1].endpoint.stats().auth_failures;
            assert_eq!(failures, u64::from(!fits), "{key:?}");
        }
    }
}

/// What a peer may want to have on somebody's screen, in a file or in a shell.
fn hostile(len: usize) -> Vec<u8> {
    let mut data =
        b"\x1b[2J\x1b]0;owned\x07\r\nSUCH-A-LINE %s%n $(reboot) `reboot`\0\x9b1m\xff\n".to_vec();
    data.resize(data.len().max(len), b'A');
    data
}

/// Nothing of it is there, as it was or shown, and what is there is plain and short.
fn assert_plain(text: &[u8], told: &str) {
    let plain = |octet: &u8| matches!(octet, b'\n' | b' '..=b'~');
    assert!(text.iter().all(plain), "{told}: {}", text.escape_ascii());
    let contains = |what: &[u8]| text.windows(what.len()).any(|window| window == what);
    assert!(!contains(b"SUCH-A-LINE") && !contains(b"AAAA"), "{told}");
    let longest = text.split(|octet| *octet == b'\n').map(<[u8]>::len).max();
    assert!(longest < Some(300), "{told}: {}", text.escape_ascii());
}

/// Reasons, as clients of the control socket are told, and events as they are logged.
fn assert_events_plain(pair: &Pair, told: &str) {
    for event in pair.sides.iter().flat_map(|side| &side.events) {
        match event {
            Event::IkeDown { reason, .. }
            | Event::InitiateFailed { reason, .. }
            | Event::RekeyFailed { reason, .. }
            | Event::ChildDown { reason, .. }
            | Event::Doubted { reason, .. } => assert_plain(reason.as_bytes(), told),
            _ => {}
        }
    }
}

/// Types of notifications: all that have a name, their neighbours, and private ones.
fn kinds() -> impl Iterator<Item = u16> {
    let status = notify::FIRST_STATUS..notify::FIRST_STATUS + 80;
    (0..=60)
        .chain(status)
        .chain([8192, 9000, 16383, 40960, 0xffff])
}

/// I08, CVE-2023-28771: whatever a first answer's notification holds, of whatever type, nothing of it is logged
/// or told.
#[test]
fn what_a_stranger_notifies_is_never_logged() {
    for kind in kinds() {
        for len in [0, 60_000] {
            let mut pair = Pair::seeded(34, |_, connection, _| connection.follow_redirects = true);
            let told = format!("{kind} {len}");
            let text = logged(LevelFilter::TRACE, || {
                let data = hostile(len);
                answered(&mut pair, |_, first| Some(forged(first, kind, &data)));
                pair.run(Duration::from_secs(60));
            });
            assert_plain(&text, &told);
            assert_events_plain(&pair, &told);
        }
    }
}

/// I08: the same of an authenticated peer's, in each exchange, asked and answered, with an SPI of such octets as
/// well.
#[test]
fn what_a_peer_notifies_is_never_logged() {
    const EXCHANGES: [u8; 3] = [
        exchange::IKE_AUTH,
        exchange::CREATE_CHILD_SA,
        exchange::INFORMATIONAL,
    ];
    let met = Arc::new(AtomicU32::new(0));
    for kind in kinds() {
        for (asks, kind_of_exchange) in [false, true]
            .into_iter()
            .flat_map(|a| EXCHANGES.map(|e| (a, e)))
        {
            let mut pair = Pair::seeded(35, |_, connection, config| {
                connection.follow_redirects = true;
                config.retransmit_tries = 1;
            });
            let count = met.clone();
            let told = format!("{kind} exchange {kind_of_exchange} asks {asks}");
            let side = usize::from(asks == (kind_of_exchange != exchange::IKE_AUTH));
            pair.sides[side].endpoint.deviate(Box::new(move |message| {
                let fits = message.header.exchange == kind_of_exchange;
                if fits && message.header.is_response() != asks {
                    count.fetch_add(1, Relaxed);
                    let spi = &hostile(0)[..30];
                    let long = notify::emit(3, &[], kind, &hostile(2000));
                    let named = notify::emit(3, spi, kind, &hostile(0));
                    message.payloads.push((payload::NOTIFY, long));
                    message.payloads.push((payload::NOTIFY, named));
                }
            }));
            let text = logged(LevelFilter::TRACE, || {
                pair.initiate();
                pair.run(Duration::from_secs(10));
                let asker = if asks { side } else { 1 - side };
                let now = pair.now;
                let child = pair.current_child(asker);
                let ike = pair.current_ike(asker);
                let endpoint = &mut pair.sides[asker].endpoint;
                if let Some((ike, child)) = ike.zip(child) {
                    let _ = endpoint.check_liveness(now, ike);
                    let _ = endpoint.rekey_child(now, child);
                }
                pair.run(Duration::from_secs(10));
            });
            assert_plain(&text, &told);
            assert_events_plain(&pair, &told);
        }
    }
    let expected = 6 * kinds().count() as u32;
    assert!(met.load(Relaxed) >= expected, "{met:?} of {expected}");
}
