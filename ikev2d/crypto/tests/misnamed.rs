// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an authenticated peer names that is not its own, not there, or no such thing at all: traffic
//! selectors and SAs. It costs the peer its own request.
#![allow(clippy::unwrap_used)]

mod peers;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ikev2d_proto::config::{Connection, Unique};
use ikev2d_proto::deviation::Outgoing;
use ikev2d_proto::event::Event;
use ikev2d_proto::wire::{exchange, notify, payload};

use peers::Pair;

/// A payload's type and its body.
type Body = (u8, Vec<u8>);

const IKE: u8 = 1;
const AH: u8 = 2;
const ESP: u8 = 3;

/// What a side says from now on, as it was before it was sealed.
fn heard(pair: &mut Pair, side: usize) -> Arc<Mutex<Vec<Outgoing>>> {
    let all = Arc::new(Mutex::new(Vec::new()));
    let seen = all.clone();
    let endpoint = &mut pair.sides[side].endpoint;
    endpoint.deviate(Box::new(move |message| {
        seen.lock().unwrap().push(message.clone());
    }));
    all
}

/// The types of notifications in a message.
fn notified(message: &Outgoing) -> Vec<u16> {
    let all = message.payloads.iter();
    let notifies = all.filter(|part| part.0 == payload::NOTIFY);
    let kind = |(_, body): &Body| u16::from_be_bytes([body[2], body[3]]);
    notifies.map(kind).collect()
}

/// A selector of that type, with ports, and addresses of any length.
fn selector(kind: u8, ports: (u16, u16), start: &[u8], end: &[u8]) -> Vec<u8> {
    let len = 8 + start.len() + end.len();
    let mut out = vec![kind, 0];
    out.extend((len as u16).to_be_bytes());
    out.extend(ports.0.to_be_bytes());
    out.extend(ports.1.to_be_bytes());
    out.extend([start, end].concat());
    out
}

fn body(count: u8, selectors: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![count, 0, 0, 0];
    out.extend(selectors.concat());
    out
}

/// Bodies of TS payloads that select nothing that can be.
fn impossible_selectors() -> Vec<(&'static str, Vec<u8>)> {
    const V4: u8 = 7;
    const ALL: (u16, u16) = (0, 0xffff);
    let (start, end) = ([10, 2, 0, 0], [10, 2, 255, 255]);
    let good = selector(V4, ALL, &start, &end);
    let with_len = |len: u16| {
        let mut lying = good.clone();
        lying[2..4].copy_from_slice(&len.to_be_bytes());
        body(1, &[lying])
    };
    vec![
        ("none", body(0, &[])),
        ("none by its count", body(0, std::slice::from_ref(&good))),
        (
            "one more by its count",
            body(2, std::slice::from_ref(&good)),
        ),
        ("255 by its count", body(255, std::slice::from_ref(&good))),
        (
            "start behind end",
            body(1, &[selector(V4, ALL, &end, &start)]),
        ),
        (
            "ports the wrong way",
            body(1, &[selector(V4, (443, 80), &start, &end)]),
        ),
        ("no length", with_len(0)),
        ("a length within the header", with_len(7)),
        ("a length that cuts the address", with_len(15)),
        ("a length past the end", with_len(17)),
        ("the longest length", with_len(0xffff)),
        (
            "IPv6 as long as IPv4",
            body(1, &[selector(8, ALL, &start, &end)]),
        ),
        (
            "IPv4 as long as IPv6",
            body(1, &[selector(V4, ALL, &[10; 16], &[10; 16])]),
        ),
        (
            "an unknown type alone",
            body(1, &[selector(200, ALL, &start, &end)]),
        ),
        ("nothing", Vec::new()),
        ("a count alone", vec![1]),
    ]
}

/// Plays a further child SA of which one payload of selectors is another, in what the side says.
fn with_selectors(side: usize, kind: u8, other: Vec<u8>) -> Pair {
    let mut pair = Pair::seeded(21, |_, _, config| config.retransmit_tries = 1);
    pair.up();
    pair.sides[side].endpoint.deviate(Box::new(move |message| {
        let asks = message.header.exchange == exchange::CREATE_CHILD_SA;
        let mut told = message.payloads.iter_mut().filter(|_| asks);
        if let Some((_, told)) = told.find(|part| part.0 == kind) {
            told.clone_from(&other);
        }
    }));
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("pfs"), None).unwrap();
    pair.run(Duration::from_secs(20));
    pair
}

/// I05: counts, lengths, addresses and ports that lie, in either payload, asked for and answered: no child SA
/// of it at either end, and the tunnel and its IKE SA stay.
#[test]
fn selectors_that_lie_make_no_child() {
    for side in [0, 1] {
        for kind in [payload::TSI, payload::TSR] {
            for (what, other) in impossible_selectors() {
                let pair = with_selectors(side, kind, other);
                let sas = pair.sides.iter().map(|s| s.endpoint.ike_sas().count());
                assert_eq!(sas.collect::<Vec<_>>(), [1, 1], "{side} {kind} {what}");
                let children = pair.sides.iter().map(|s| s.endpoint.stats().children);
                assert_eq!(children.collect::<Vec<_>>(), [1, 1], "{side} {kind} {what}");
                let failed = |e: &Event| matches!(e, Event::InitiateFailed { .. });
                assert_eq!(pair.count(0, failed), 1, "{side} {kind} {what}");
                pair.agree(1);
            }
        }
    }
}

/// I05: an answer that is for more than what was asked for, by a wider selector, a second one or another one,
/// is refused, and the peer told that there is no such child SA.
#[test]
fn an_answer_for_more_than_was_asked_for_is_refused() {
    const ALL: (u16, u16) = (0, 0xffff);
    let good = |end: u8| selector(7, ALL, &[10, end, 0, 0], &[10, end, 255, 255]);
    let wider = |start: [u8; 4], end: [u8; 4]| selector(7, ALL, &start, &end);
    for (kind, own) in [(payload::TSI, 1), (payload::TSR, 2)] {
        let others = [
            vec![wider([0; 4], [255; 4])],
            vec![wider([10, own, 0, 0], [10, own + 1, 0, 0])],
            vec![wider([10, own - 1, 255, 255], [10, own, 255, 255])],
            vec![good(own), good(own + 7)],
            vec![good(own + 7)],
            vec![good(own), selector(8, ALL, &[0; 16], &[255; 16])],
        ];
        for other in others {
            let told = format!("{kind} {other:?}");
            let pair = with_selectors(1, kind, body(other.len() as u8, &other));
            let widened = |e: &Event| matches!(e, Event::InitiateFailed { reason, .. } if reason.contains("widened"));
            assert_eq!(pair.count(0, widened), 1, "{told}");
            pair.agree(1);
        }
    }
}

/// I05: as many as there can be, in either payload, are one child SA for what was configured; of a type that
/// nobody knows among them, the others count (RFC 7296 §3.13.1).
#[test]
fn as_many_selectors_as_there_can_be_are_narrowed() {
    const ALL: (u16, u16) = (0, 0xffff);
    for kind in [payload::TSI, payload::TSR] {
        for unknown in [false, true] {
            let mut all: Vec<Vec<u8>> = (0..=254)
                .map(|host| selector(7, ALL, &[10, 3, 0, host], &[10, 3, 0, host]))
                .collect();
            let own = if kind == payload::TSI { 1 } else { 2 };
            all[254] = selector(7, ALL, &[10, own, 0, 0], &[10, own, 255, 255]);
            if unknown {
                all[0] = selector(200, ALL, &[1; 3], &[2; 30]);
            }
            let pair = with_selectors(0, kind, body(255, &all));
            pair.agree(2);
        }
    }
}

/// Two IKE SAs of the same two peers, with a child each; the first side has begun both.
fn two_ike_sas() -> Pair {
    let mut pair = Pair::seeded(23, |_, connection, _| connection.unique = Unique::Never);
    let of = |name: &str| Connection {
        name: name.to_owned(),
        unique: Unique::Never,
        ..peers::connection(true)
    };
    let both = ["gw", "also"].map(|name| of(name).into()).to_vec();
    pair.sides[0].endpoint.set_connections(both);
    pair.up();
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "also", Some("net"), None).unwrap();
    pair.run(Duration::from_secs(30));
    pair.agree(2);
    pair
}

/// The first side says something in INFORMATIONAL, and what comes of it at the second one.
fn informed(payloads: Vec<Body>) -> (Pair, Outgoing) {
    let mut pair = Pair::seeded(22, |_, _, _| {});
    pair.up();
    informed_in(&mut pair, payloads).map_or_else(|| panic!("no answer"), |answer| (pair, answer))
}

fn informed_in(pair: &mut Pair, payloads: Vec<Body>) -> Option<Outgoing> {
    pair.sides[0].endpoint.deviate(Box::new(move |message| {
        if message.header.exchange == exchange::INFORMATIONAL && !message.header.is_response() {
            message.payloads.clone_from(&payloads);
        }
    }));
    let answers = heard(pair, 1);
    let (now, ike) = (pair.now, pair.ike(0));
    pair.sides[0].endpoint.check_liveness(now, ike).unwrap();
    pair.flush();
    while !pair.wire.is_empty() {
        pair.deliver(0);
        pair.flush();
    }
    answers.lock().unwrap().first().cloned()
}

fn delete(protocol: u8, spi_len: u8, count: u16, spis: &[u8]) -> Body {
    let mut body = vec![protocol, spi_len];
    body.extend(count.to_be_bytes());
    body.extend(spis);
    (payload::DELETE, body)
}

/// I10: deletions of what is not there, is another's, or of another protocol; counts and lengths that lie, and
/// as many SPIs as a message has room for: nothing is deleted, and the answer is empty.
#[test]
fn deletions_of_what_is_not_the_peers_delete_nothing() {
    let mut pair = Pair::seeded(22, |_, _, _| {});
    pair.up();
    let sa = pair.sides[1].endpoint.ike_sas().next().unwrap();
    // The peer names its own inbound SA, which is our outbound one (RFC 7296 §1.4.1).
    let child = &sa.children[0].sa;
    let (ours, theirs) = (child.spi_in.to_be_bytes(), child.spi_out.to_be_bytes());
    let ike = [sa.spi_i.to_be_bytes(), sa.spi_r.to_be_bytes()].concat();
    let many: Vec<u8> = (1..=16_000u32).flat_map(u32::to_be_bytes).collect();
    let unknown = [0xab; 4];
    let cases: Vec<(&str, Vec<Body>)> = vec![
        ("our inbound one", vec![delete(ESP, 4, 1, &ours)]),
        ("unknown", vec![delete(ESP, 4, 1, &unknown)]),
        ("of AH", vec![delete(AH, 4, 1, &theirs)]),
        ("of no protocol", vec![delete(0, 4, 1, &theirs)]),
        (
            "of a protocol that is none",
            vec![delete(4, 4, 1, &theirs), delete(255, 4, 1, &theirs)],
        ),
        ("65,535 by its count", vec![delete(ESP, 4, 0xffff, &theirs)]),
        ("none by its count", vec![delete(ESP, 4, 0, &theirs)]),
        ("none", vec![delete(ESP, 4, 0, &[])]),
        ("with no length of SPI", vec![delete(ESP, 0, 1, &theirs)]),
        ("with SPIs of 8 octets", vec![delete(ESP, 8, 1, &ike[..8])]),
        (
            "with SPIs of 255 octets",
            vec![delete(ESP, 255, 1, &[7; 255])],
        ),
        ("cut off", vec![delete(ESP, 4, 1, &theirs[..3])]),
        ("16,000 unknown", vec![delete(ESP, 4, 16_000, &many)]),
        ("a header alone", vec![(payload::DELETE, vec![ESP])]),
        ("nothing", vec![(payload::DELETE, Vec::new())]),
    ];
    for (what, payloads) in cases {
        let (pair, answer) = informed(payloads);
        assert!(answer.payloads.is_empty(), "{what}: {:?}", answer.payloads);
        pair.agree(1);
        let gone = |e: &Event| matches!(e, Event::ChildDown { .. } | Event::IkeDown { .. });
        assert_eq!(pair.count(1, gone), 0, "{what}");
    }
}

/// I10: one that is named many times, among others, is deleted once, and answered with its counterpart once.
#[test]
fn a_child_that_is_deleted_many_times_over_is_deleted_once() {
    let mut pair = Pair::seeded(22, |_, _, _| {});
    pair.up();
    let child = pair.sides[1].offered.values().next().unwrap();
    let (ours, theirs) = (child.spi_in.to_be_bytes(), child.spi_out.to_be_bytes());
    let spis = [theirs, [0xab; 4], theirs].concat();
    let many = vec![delete(ESP, 4, 3, &spis), delete(ESP, 4, 1, &theirs)];
    let (pair, answer) = informed(many);
    assert_eq!(answer.payloads, [delete(ESP, 4, 1, &ours)]);
    let gone = |e: &Event| matches!(e, Event::ChildDown { .. });
    assert_eq!(pair.count(1, gone), 1);
    assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 1);
}

/// I10: an IKE SA's deletion names none, and is of the one that it comes by, whatever else it says.
#[test]
fn a_deletion_of_an_ike_sa_is_of_the_one_that_it_comes_by() {
    let mut pair = two_ike_sas();
    let spis = |side: usize| -> Vec<(u64, u64)> {
        let sas = pair.sides[side].endpoint.ike_sas();
        sas.map(|sa| (sa.spi_i, sa.spi_r)).collect()
    };
    let [(first, _), (other_i, other_r)] = spis(1)[..] else {
        panic!()
    };
    let first_of_a = pair.sides[0].endpoint.ike_sas().next().unwrap().spi_i;
    assert_eq!(first, first_of_a);
    let spis = [other_i.to_be_bytes(), other_r.to_be_bytes()].concat();
    informed_in(&mut pair, vec![delete(IKE, 8, 2, &spis)]).unwrap();
    let left = pair.sides[1].endpoint.ike_sas().map(|sa| sa.spi_i);
    assert_eq!(left.collect::<Vec<_>>(), [other_i]);
}

/// Whatever is told of the rekeyed SA, asked of the second side; its answer.
fn rekeyed(pair: &mut Pair, tells: impl Fn(&mut Outgoing) + Send + Sync + 'static) -> Outgoing {
    pair.sides[0].endpoint.deviate(Box::new(move |message| {
        if message.header.exchange == exchange::CREATE_CHILD_SA && !message.header.is_response() {
            tells(message);
        }
    }));
    let answers = heard(pair, 1);
    let (now, child) = (pair.now, pair.child(0));
    pair.sides[0].endpoint.rekey_child(now, child).unwrap();
    pair.flush();
    pair.deliver(0);
    pair.flush();
    let answers = answers.lock().unwrap();
    assert_eq!(answers.len(), 1);
    answers[0].clone()
}

/// Sets the body of REKEY_SA.
fn names(message: &mut Outgoing, protocol: u8, spi: &[u8]) {
    let is = |part: &Body| part.0 == payload::NOTIFY && part.1[2..4] == [0x40, 0x09];
    let told = message.payloads.iter_mut().find(|part| is(part)).unwrap();
    told.1 = notify::emit(protocol, spi, notify::REKEY_SA, &[]);
}

/// I11, CVE-2023-38710: REKEY_SA with an SPI that is unknown, our own inbound one, another IKE SA's, the new
/// one of the same request, of another protocol or of another length: CHILD_SA_NOT_FOUND with what was named
/// (RFC 7296 §2.25), and nothing is made or changed.
#[test]
fn a_rekeying_of_what_is_not_the_peers_is_refused() {
    const CASES: [&str; 9] = [
        "unknown",
        "own",
        "foreign",
        "larval",
        "of AH",
        "of IKE",
        "empty",
        "three octets",
        "long",
    ];
    for what in CASES {
        let mut pair = two_ike_sas();
        // Of the peer's two IKE SAs, the first is rekeyed in.
        let of = |n: usize| {
            pair.sides[1].endpoint.ike_sas().nth(n).unwrap().children[0]
                .sa
                .clone()
        };
        let (mine, foreign) = (of(0), of(1));
        let answer = rekeyed(&mut pair, move |message| {
            let larval = message.payloads.iter().find(|part| part.0 == payload::SA);
            // Behind the proposal's number, protocol, SPI's length and number of transforms.
            let larval = larval.unwrap().1[8..12].to_vec();
            let theirs = mine.spi_out.to_be_bytes();
            match what {
                "unknown" => names(message, ESP, &[0xab; 4]),
                "own" => names(message, ESP, &mine.spi_in.to_be_bytes()),
                "foreign" => names(message, ESP, &foreign.spi_out.to_be_bytes()),
                "larval" => names(message, ESP, &larval),
                "of AH" => names(message, AH, &theirs),
                "of IKE" => names(message, IKE, &theirs),
                "empty" => names(message, ESP, &[]),
                "three octets" => names(message, ESP, &theirs[..3]),
                _ => names(message, ESP, &[theirs.repeat(63), vec![0; 3]].concat()),
            }
        });
        assert_eq!(notified(&answer), [notify::CHILD_SA_NOT_FOUND], "{what}");
        assert_eq!(answer.payloads.len(), 1, "{what}");
        assert_eq!(pair.sides[1].inbound.len(), 2, "{what}");
        assert_eq!(pair.sides[1].outbound.len(), 2, "{what}");
        let gone = |e: &Event| matches!(e, Event::ChildDown { .. } | Event::ChildRekeyed { .. });
        assert_eq!(pair.count(1, gone), 0, "{what}");
    }
}

/// I11: a REKEY_SA whose length of SPI goes past its end is nothing that can be read, and costs no child SA.
#[test]
fn a_rekeying_that_can_not_be_read_changes_nothing() {
    for spi_len in [5, 255] {
        let mut pair = Pair::seeded(23, |_, _, _| {});
        pair.up();
        let theirs = pair.sides[1].offered.values().next().unwrap().spi_out;
        let answer = rekeyed(&mut pair, move |message| {
            names(message, ESP, &theirs.to_be_bytes());
            let lies = |part: &&mut Body| part.0 == payload::NOTIFY;
            message.payloads.iter_mut().find(lies).unwrap().1[1] = spi_len;
        });
        let gone = |e: &Event| matches!(e, Event::ChildDown { .. } | Event::ChildRekeyed { .. });
        assert_eq!(pair.count(1, gone), 0, "{spi_len}: {:?}", notified(&answer));
        let sa = pair.sides[1].endpoint.ike_sas().next().unwrap();
        assert!(sa.children.iter().any(|child| child.sa.spi_out == theirs));
    }
}
