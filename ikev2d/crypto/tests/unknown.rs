// SPDX-License-Identifier: Apache-2.0 OR MIT
//! I02: what a peer may say that we do not know: payloads, reserved bits and versions (RFC 7296 §2.5, §3.2).
#![allow(clippy::unwrap_used)]

mod peers;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ikev2d_proto::deviation::Outgoing;
use ikev2d_proto::endpoint::Verdict;
use ikev2d_proto::event::{Event, Path};
use ikev2d_proto::wire::{FLAG_RESPONSE, HEADER_LEN, Header, exchange, notify, payload, payloads};

use peers::Pair;

/// A payload type that nobody has.
const UNKNOWN: u8 = 200;
const CRITICAL: u8 = 0x80;
const VENDOR_ID: u8 = 43;
const INVALID_MAJOR_VERSION: u16 = 5;

/// A responder, and the first message for it with where that comes from.
fn first_message() -> (Pair, Path, Vec<u8>) {
    let mut pair = Pair::seeded(3, |_, _, _| {});
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("net"), None).unwrap();
    let first = endpoint.poll_transmit().unwrap();
    (pair, first.path.turned(), first.payload)
}

/// A message with a payload before its others.
fn with_payload(message: &[u8], kind: u8, bits: u8) -> Vec<u8> {
    let mut with = message.to_vec();
    let len = message.len() as u32 + 8;
    let added = [message[16], bits, 0, 8, 1, 2, 3, 4];
    with.splice(HEADER_LEN..HEADER_LEN, added);
    with[16] = kind;
    with[24..28].copy_from_slice(&len.to_be_bytes());
    with
}

/// What the responder says to a message: one answer at most.
fn answer(pair: &mut Pair, path: Path, message: &[u8]) -> Option<Vec<u8>> {
    let (now, responder) = (pair.now, &mut pair.sides[1].endpoint);
    responder.handle_datagram(now, path, message);
    let answer = responder.poll_transmit();
    assert!(responder.poll_transmit().is_none());
    answer.map(|transmit| {
        assert_eq!(transmit.path, path);
        transmit.payload
    })
}

/// That an answer is one unprotected notification and nothing else, of this kind with this data.
fn assert_says(answer: &[u8], request: &[u8], kind: u16, data: &[u8]) {
    let header = Header::parse(answer).unwrap();
    assert_eq!(header.version, 0x20);
    assert_eq!(header.flags, FLAG_RESPONSE);
    assert_eq!(answer[..8], request[..8]);
    assert_eq!(answer[8..16], [0; 8]);
    assert_eq!(answer[18], request[18]);
    assert_eq!(answer[20..24], request[20..24]);
    let parts = payloads(header.next_payload, &answer[HEADER_LEN..]).unwrap();
    let [only] = &parts[..] else { panic!() };
    assert_eq!(only.kind, payload::NOTIFY);
    let notify = notify::Notify::parse(only.body).unwrap();
    assert_eq!((notify.kind, notify.data), (kind, data));
}

/// I02, RFC 7296 §2.5: an unknown critical payload in a first message is told of in the clear, by the
/// endpoint and by what stands before it, and nothing is kept.
#[test]
fn an_unknown_critical_payload_in_a_first_message_is_told_of() {
    let (mut pair, path, first) = first_message();
    for session_resume in [false, true] {
        let mut critical = with_payload(&first, UNKNOWN, CRITICAL);
        if session_resume {
            critical[18] = exchange::IKE_SESSION_RESUME;
        }
        let told = answer(&mut pair, path, &critical).unwrap();
        let kind = notify::UNSUPPORTED_CRITICAL_PAYLOAD;
        assert_says(&told, &critical, kind, &[UNKNOWN]);
        assert!(told.len() < critical.len());
        assert_eq!(pair.sides[1].endpoint.stats().half_open, 0);
        // An answer that has one is not answered.
        critical[19] = FLAG_RESPONSE;
        assert_eq!(answer(&mut pair, path, &critical), None);
    }

    let flooded = Pair::seeded(3, |_, _, config| config.cookie_threshold = 0);
    let critical = with_payload(&first, UNKNOWN, CRITICAL);
    let mut reply = Vec::new();
    let gate = flooded.sides[1].endpoint.gate();
    let verdict = gate.meet(flooded.now, path.remote.ip(), &critical, &mut reply);
    assert_eq!(verdict, Verdict::Answered);
    assert_says(
        &reply,
        &critical,
        notify::UNSUPPORTED_CRITICAL_PAYLOAD,
        &[UNKNOWN],
    );
}

/// I02: unknown payloads without the critical bit, reserved bits, that bit where the payload is known, and
/// later minor versions are passed over.
#[test]
fn what_is_not_critical_is_passed_over_in_a_first_message() {
    let (_, _, first) = first_message();
    let mut reserved = first.clone();
    // Every flag but the one of responses (§3.1), and the bits of every payload (§3.2).
    reserved[19] = !FLAG_RESPONSE;
    let mut at = HEADER_LEN;
    while at < reserved.len() {
        reserved[at + 1] = 0xff;
        at += usize::from(u16::from_be_bytes([reserved[at + 2], reserved[at + 3]]));
    }
    let mut minor = first.clone();
    minor[17] = 0x2f;
    for message in [
        with_payload(&first, UNKNOWN, 0),
        with_payload(&first, UNKNOWN, !CRITICAL),
        with_payload(&first, VENDOR_ID, CRITICAL),
        reserved,
        minor,
    ] {
        let (mut pair, path, _) = first_message();
        let told = answer(&mut pair, path, &message).unwrap();
        let header = Header::parse(&told).unwrap();
        assert_eq!((header.version, header.flags), (0x20, FLAG_RESPONSE));
        assert_eq!(header.next_payload, payload::SA);
        assert_eq!(pair.sides[1].endpoint.stats().half_open, 1);
    }
}

/// I02, RFC 7296 §2.5: who speaks a later major version is told which one we do, if it asks; others are not.
#[test]
fn a_later_major_version_is_told_which_one_we_speak() {
    let (mut pair, path, first) = first_message();
    for version in [0x30, 0x3f, 0xf0] {
        let mut later = first.clone();
        later[17] = version;
        let told = answer(&mut pair, path, &later).unwrap();
        assert_says(&told, &later, INVALID_MAJOR_VERSION, &[]);
        later[19] |= FLAG_RESPONSE;
        assert_eq!(answer(&mut pair, path, &later), None);
    }
    let mut earlier = first.clone();
    earlier[17] = 0x10;
    assert_eq!(answer(&mut pair, path, &earlier), None);
    assert_eq!(pair.sides[1].endpoint.stats().half_open, 0);
}

/// Two sides with a tunnel, one of which breaks the rules from now on, and what the other one answers.
fn deviating(
    deviation: impl Fn(&mut Outgoing) + Send + Sync + 'static,
) -> (Pair, Arc<Mutex<Vec<Outgoing>>>) {
    let mut pair = Pair::seeded(3, |_, _, _| {});
    pair.up();
    pair.sides[0].endpoint.deviate(Box::new(deviation));
    let answers = Arc::new(Mutex::new(Vec::new()));
    let seen = answers.clone();
    pair.sides[1].endpoint.deviate(Box::new(move |message| {
        if message.header.is_response() {
            seen.lock().unwrap().push(message.clone());
        }
    }));
    (pair, answers)
}

/// I02: the same in what is encrypted: the request is refused, and nothing else comes to harm.
#[test]
fn an_unknown_critical_payload_in_an_encrypted_request_is_told_of() {
    for kind in [UNKNOWN, 1, 32, 49] {
        let (mut pair, answers) = deviating(move |message| {
            message.payloads.push((kind, vec![1, 2, 3]));
            message.bits.push((kind, CRITICAL));
        });
        let now = pair.now;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint.initiate(now, "gw", Some("pfs"), None).unwrap();
        pair.run(Duration::from_secs(10));
        let answers = answers.lock().unwrap();
        let [answer] = &answers[..] else { panic!() };
        assert_eq!(answer.header.exchange, exchange::CREATE_CHILD_SA);
        let told = (payload::NOTIFY, vec![0, 0, 0, 1, kind]);
        assert_eq!(answer.payloads, [told]);
        let refused = |e: &Event| matches!(e, Event::InitiateFailed { reason, .. } if reason.contains("UNSUPPORTED_CRITICAL_PAYLOAD"));
        assert_eq!(pair.count(0, refused), 1);
        pair.agree(1);
    }
}

/// I02: what is not critical is passed over there, too, with reserved bits and the minor version.
#[test]
fn what_is_not_critical_is_passed_over_in_an_encrypted_request() {
    let (mut pair, answers) = deviating(|message| {
        message.header.version = 0x2f;
        message.payloads.insert(0, (UNKNOWN, vec![1, 2, 3]));
        let known = message.payloads.iter().map(|(kind, _)| *kind);
        let known = known.filter(|kind| *kind != UNKNOWN);
        message.bits = known.map(|kind| (kind, 0xff)).collect();
        message.bits.push((UNKNOWN, !CRITICAL));
    });
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("pfs"), None).unwrap();
    pair.run(Duration::from_secs(10));
    pair.agree(2);
    let answers = answers.lock().unwrap();
    assert!(answers.iter().all(|answer| answer.header.version == 0x20));
}
