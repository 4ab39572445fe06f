// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Lengths that lie, and payloads without end or within themselves (RFC 7296 §3.1, §3.2).
#![allow(clippy::unwrap_used)]

mod peers;

use std::time::Duration;

use ikev2d_proto::event::{Event, Path};
use ikev2d_proto::wire::{Chain, HEADER_LEN, Header, exchange, payload, payloads};

use peers::Pair;

/// A message in the clear with other lengths: of each of its payloads in turn, and of all.
fn lying(message: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let header = Header::parse(message).unwrap();
    let mut at = HEADER_LEN;
    for part in payloads(header.next_payload, &message[HEADER_LEN..]).unwrap() {
        let len = part.body.len() as u16 + 4;
        for other in [0, 1, 3, 4, 5, len - 1, len + 1, 0x7fff, 0xffff] {
            let mut lies = message.to_vec();
            lies[at + 2..at + 4].copy_from_slice(&other.to_be_bytes());
            all.push((format!("payload {} of {other} for {len}", part.kind), lies));
        }
        at += usize::from(len);
    }
    let len = message.len() as u32;
    for other in [0, 1, 27, 28, len - 1, len + 1, 0xffff, u32::MAX] {
        let mut lies = message.to_vec();
        lies[24..28].copy_from_slice(&other.to_be_bytes());
        all.push((format!("{other} for {len}"), lies));
    }
    // More than there is, and less.
    all.push(("an octet behind it".to_owned(), [message, &[0]].concat()));
    all.push((
        "an octet less".to_owned(),
        message[..message.len() - 1].to_vec(),
    ));
    all
}

/// Of a chain with so many payloads that nobody looks at, behind those of a message.
fn crowded(message: &[u8], count: usize) -> Vec<u8> {
    let header = Header::parse(message).unwrap();
    let mut chain = Chain::default();
    for part in payloads(header.next_payload, &message[HEADER_LEN..]).unwrap() {
        chain.push(part.kind, part.body);
    }
    (0..count).for_each(|_| chain.push(200, &[]));
    chain.into_message(header)
}

/// What is under way after a step, taken out.
fn next(pair: &mut Pair) -> (Path, Vec<u8>) {
    pair.flush();
    let (_, _, path, message) = pair.wire.pop_front().unwrap();
    assert!(pair.wire.is_empty());
    (path, message)
}

/// I01: first messages whose lengths lie, that are crowded with payloads, or whose payloads are inside each other,
/// leave no state and get no more than a short answer.
#[test]
fn first_messages_that_lie_about_their_length_leave_nothing() {
    let mut pair = Pair::seeded(41, |_, _, _| {});
    pair.initiate();
    let (path, first) = next(&mut pair);
    let mut all = lying(&first);
    all.push(("40 payloads more".to_owned(), crowded(&first, 40)));
    all.push(("payloads to the end".to_owned(), crowded(&first, 15_000)));
    for (what, bad) in all {
        let mut other = Pair::seeded(42, |_, _, _| {});
        let now = other.now;
        other.sides[1].endpoint.handle_datagram(now, path, &bad);
        other.flush();
        assert!(other.wire.len() <= 1, "{what}");
        let answers = other.wire.iter().map(|(_, _, _, answer)| answer.len());
        assert!(answers.max() < Some(first.len()), "{what}");
        let stats = other.sides[1].endpoint.stats();
        assert_eq!((stats.half_open, stats.established), (0, 0), "{what}");
    }
}

/// I01: the same of answers, by whomever: they are passed over, and the peer's own is taken.
#[test]
fn answers_that_lie_about_their_length_are_passed_over() {
    let mut pair = Pair::seeded(41, |_, _, _| {});
    pair.initiate();
    pair.flush();
    pair.deliver(0);
    let (path, answer) = next(&mut pair);
    let mut all = lying(&answer);
    all.push(("40 payloads more".to_owned(), crowded(&answer, 40)));
    for (what, bad) in all {
        let now = pair.now;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint.handle_datagram(now, path, &bad);
        pair.flush();
        assert!(pair.wire.is_empty(), "{what}");
        let failed = |e: &Event| matches!(e, Event::InitiateFailed { .. } | Event::IkeDown { .. });
        assert_eq!(pair.count(0, failed), 0, "{what}");
    }
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.handle_datagram(now, path, &answer);
    pair.run(Duration::from_secs(10));
    pair.agree(1);
}

/// I01: an authenticated peer's: payloads without end, and encrypted ones inside of what is encrypted, get one
/// answer, and cost nothing that there is.
#[test]
fn payloads_inside_of_what_is_encrypted_are_bounded_and_flat() {
    let empty = |count: usize| vec![(payload::NOTIFY, Vec::new()); count];
    let cases = [
        ("32", vec![(200, Vec::new()); 32]),
        ("33", vec![(200, Vec::new()); 33]),
        ("10,000", vec![(200, Vec::new()); 10_000]),
        ("notifications of nothing", empty(30)),
        ("one inside", vec![(payload::SK, vec![7; 100])]),
        ("an empty one inside", vec![(payload::SK, Vec::new())]),
        (
            "a fragment inside",
            vec![(payload::SKF, vec![0, 1, 0, 1, 7, 7, 7])],
        ),
        (
            "one in front",
            vec![
                (payload::SK, vec![7; 100]),
                (payload::DELETE, vec![1, 0, 0, 0]),
            ],
        ),
    ];
    for kind in [exchange::INFORMATIONAL, exchange::CREATE_CHILD_SA] {
        for (what, parts) in &cases {
            let mut pair = Pair::seeded(43, |_, _, _| {});
            pair.up();
            let (parts, told) = (parts.clone(), format!("{what}, exchange {kind}"));
            pair.sides[0].endpoint.deviate(Box::new(move |message| {
                if !message.header.is_response() {
                    message.header.exchange = kind;
                    message.payloads.clone_from(&parts);
                }
            }));
            let (now, ike) = (pair.now, pair.ike(0));
            pair.sides[0].endpoint.check_liveness(now, ike).unwrap();
            pair.recorded.clear();
            pair.flush();
            // The longest of them comes in many fragments.
            for _ in 0..100 {
                if pair.wire.is_empty() {
                    break;
                }
                if pair.wire[0].1 == 0 {
                    pair.wire.pop_front();
                } else {
                    pair.deliver(0);
                    pair.flush();
                }
            }
            let answers = pair.recorded.iter().filter(|m| m[19] & 0x20 != 0);
            assert_eq!(answers.count(), 1, "{told}");
            assert_eq!(pair.sides[1].endpoint.stats().children, 1, "{told}");
            let gone = |e: &Event| matches!(e, Event::ChildDown { .. } | Event::IkeDown { .. });
            assert_eq!(pair.count(1, gone), 0, "{told}");
        }
    }
}
